"""Model packages: a folder with `manifest.json`, the ONNX file, its card and its licences, checked before use.

The ONNX bytes are read once, hashed, and those same bytes are what the runtime loads.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from wetread.domain.finding import ModelIdentity
from wetread.errors import InvalidInput, Misconfigured
from wetread.reading.manifest import Manifest, VolumeInput
from wetread.reading.onnx_file import onnx_facts

NEWEST_IR_VERSION = 13
NEWEST_OPSET = 26
"""What ONNX Runtime 1.31 loads; plain `onnx` writes newer ones by default."""

_CONFIGURATION = {"model", "input", "outputs", "segments", "findings"}


@dataclass(frozen=True)
class ModelPackage:
    """A verified package. `content` are the ONNX bytes whose sha256 is `identity.digest`."""

    identity: ModelIdentity
    manifest: Manifest
    path: Path
    content: bytes = field(repr=False)

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def card(self) -> str:
        """The model card, Markdown."""
        return (self.path / "CARD.md").read_text(encoding="utf-8")


def load_packages(*folders: Path) -> dict[str, ModelPackage]:
    """Every package found in the folders (`<folder>/<name>/manifest.json`), by name.

    Raises Misconfigured, naming file and key, for a manifest that breaks the schema, a file that is missing or whose
    digest differs, an ONNX file that no supported runtime loads or that keeps tensors outside itself, and for two
    packages of one name.
    """
    packages: dict[str, ModelPackage] = {}
    for folder in folders:
        if not folder.is_dir():
            raise Misconfigured(f"{folder}: there is no such folder of model packages")
        for manifest_file in sorted(folder.glob("*/manifest.json")):
            package = _load(manifest_file)
            if package.name in packages:
                raise Misconfigured(
                    f"{manifest_file}: name: {package.name!r} is taken by {packages[package.name].path}; rename one"
                )
            packages[package.name] = package
    return packages


def with_spacing(package: ModelPackage, spacing_mm: float) -> ModelPackage:
    """The package on another isotropic grid: other settings, hence another `config_digest`.

    Raises Misconfigured where the manifest does not offer that spacing (`site_spacing_mm`).
    """
    manifest = package.manifest
    offered = manifest.input.grid.site_spacing_mm if isinstance(manifest.input, VolumeInput) else None
    if not isinstance(manifest.input, VolumeInput) or offered is None:
        raise Misconfigured(f"spacing_mm: model {package.name!r} runs on its own grid only; remove the setting")
    if not offered[0] <= spacing_mm <= offered[1]:
        raise Misconfigured(f"spacing_mm: model {package.name!r} takes {offered[0]:g} to {offered[1]:g} mm")
    grid = manifest.input.grid.model_copy(update={"spacing_mm": (spacing_mm, spacing_mm, spacing_mm)})
    changed = manifest.input.model_copy(update={"steps": (grid, *manifest.input.steps[1:])})
    manifest = manifest.model_copy(update={"input": changed})
    return ModelPackage(_identity(manifest), manifest, package.path, package.content)


def _load(manifest_file: Path) -> ModelPackage:
    try:
        manifest = Manifest.model_validate_json(manifest_file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise Misconfigured(f"{manifest_file}: {key}: {first['msg']}") from error

    folder = manifest_file.parent
    if manifest.name != folder.name:
        raise Misconfigured(f"{manifest_file}: name: {manifest.name!r} differs from its folder {folder.name!r}")
    for key, name in (("CARD.md", "CARD.md"), *(("license_files", name) for name in manifest.license_files)):
        if not _inside(folder, name).is_file():
            raise Misconfigured(f"{manifest_file}: {key}: the package has no file {name!r}")
    return ModelPackage(_identity(manifest), manifest, folder, _verified_content(manifest_file, manifest))


def _verified_content(manifest_file: Path, manifest: Manifest) -> bytes:
    declared = manifest.model
    try:
        content = _inside(manifest_file.parent, declared.file).read_bytes()
    except OSError as error:
        raise Misconfigured(f"{manifest_file}: model.file: cannot read {declared.file!r}") from error
    if hashlib.sha256(content).hexdigest() != declared.sha256:
        raise Misconfigured(f"{manifest_file}: model.sha256: {declared.file} has another digest; it was changed")
    try:
        facts = onnx_facts(content)
    except InvalidInput as error:
        raise Misconfigured(f"{manifest_file}: model.file: {error.message}") from error
    if facts.external_files:
        raise Misconfigured(
            f"{manifest_file}: model.file: keeps tensors in {facts.external_files[0]!r}, outside its digest; "
            "save the model as one file"
        )
    for key, stated, found, newest in (
        ("bytes", declared.bytes, len(content), None),
        ("ir_version", declared.ir_version, facts.ir_version, NEWEST_IR_VERSION),
        ("opset", declared.opset, facts.opset, NEWEST_OPSET),
    ):
        if stated != found:
            raise Misconfigured(f"{manifest_file}: model.{key}: says {stated}, the file has {found}")
        if newest is not None and found > newest:
            raise Misconfigured(
                f"{manifest_file}: model.{key}: {found} is newer than ONNX Runtime loads (up to {newest}); "
                "export the model with an older one"
            )
    return content


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise Misconfigured(f"{folder / 'manifest.json'}: {name!r} leaves the package folder")
    return path


def _identity(manifest: Manifest) -> ModelIdentity:
    settings = manifest.model_dump(mode="json", include=_CONFIGURATION)
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return ModelIdentity(
        name=manifest.name,
        version=manifest.version,
        digest=manifest.model.sha256,
        config_digest=hashlib.sha256(canonical.encode()).hexdigest(),
        manufacturer=manifest.device.manufacturer,
        synthetic=manifest.synthetic,
        not_for_clinical_use=manifest.not_for_clinical_use,
        intended_use=manifest.intended_use,
    )
