"""A model package is refused, by file and key, unless it is exactly what its manifest says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wetread.errors import Misconfigured
from wetread.reading.models import ModelPackage, load_packages, with_spacing

Maker = Callable[..., Path]


def test_the_shipped_packages_load_and_are_what_they_say(packages: dict[str, ModelPackage]) -> None:
    assert set(packages) == {
        "brain-extract-mindgrab",
        "brain-tissue-gwm-tiny",
        "cxr-pneumonia-peds",
        "headct-bleed-synthetic",
    }
    for package in packages.values():
        assert package.identity.digest == hashlib.sha256((package.path / "model.onnx").read_bytes()).hexdigest()
        assert package.identity.not_for_clinical_use
        assert "Not for clinical use" in package.card
        assert package.manifest.license_files


def test_only_the_synthetic_model_is_called_synthetic(packages: dict[str, ModelPackage]) -> None:
    assert [name for name, package in packages.items() if package.identity.synthetic] == ["headct-bleed-synthetic"]
    assert "SYNTHETIC" in packages["headct-bleed-synthetic"].identity.intended_use


def test_a_changed_model_file_is_refused(make_package: Maker) -> None:
    folder = make_package("brain-tissue-gwm-tiny")
    file = folder / "brain-tissue-gwm-tiny" / "model.onnx"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(Misconfigured, match=r"manifest\.json: model\.sha256: .*changed"):
        load_packages(folder)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"colour_blind": True}, "colour_blind"),
        ({"schema": "wetread-model/0"}, "schema"),
        ({"not_for_clinical_use": "perhaps"}, "not_for_clinical_use"),
        ({"select": {"modality": ["MR"], "age_years_maximum": 3}}, "select.age_years_maximum"),
        ({"license_files": ["COPYING"]}, "license_files"),
        ({"license_files": ["../../etc/passwd"]}, "leaves the package folder"),
        ({"name": "another-name"}, "name"),
        ({"segments": []}, "every segment must come from exactly one output"),
    ],
)
def test_a_wrong_key_is_named(make_package: Maker, keys: dict[str, Any], named: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        load_packages(make_package("brain-tissue-gwm-tiny", **keys))
    assert named in refused.value.message
    assert "manifest.json" in refused.value.message


@pytest.mark.parametrize("axes", ["LIL", "XYZ", "LI", "LIAS", "LRA"])
def test_axes_name_each_patient_axis_once(make_package: Maker, axes: str) -> None:
    step = {"op": "resample", "axes": axes, "spacing_mm": [1, 1, 1], "fill": 0}
    with pytest.raises(Misconfigured, match="axes"):
        load_packages(make_package("brain-tissue-gwm-tiny", input={"kind": "volume", "name": "image", "steps": [step]}))


def test_a_truncated_manifest_is_refused(make_package: Maker) -> None:
    folder = make_package("brain-tissue-gwm-tiny")
    file = folder / "brain-tissue-gwm-tiny" / "manifest.json"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(Misconfigured, match=r"manifest\.json: the whole file"):
        load_packages(folder)


def test_bytes_that_are_no_onnx_file_are_refused(make_package: Maker) -> None:
    with pytest.raises(Misconfigured, match=r"model\.file: not an ONNX file"):
        load_packages(make_package("brain-tissue-gwm-tiny", content=b"\x00\xff" * 40))


@pytest.mark.parametrize(
    ("ir_version", "opset", "reason"),
    [
        (14, 18, r"model\.ir_version: 14 is newer"),
        (8, 28, r"model\.opset: 28 is newer"),
        (9, 18, "says 8, the file has 9"),
    ],
)
def test_an_onnx_version_that_will_not_load_is_refused_with_the_reason(
    make_package: Maker, onnx_file: Callable[..., bytes], ir_version: int, opset: int, reason: str
) -> None:
    content = onnx_file([("Identity", ["image"], ["label"])], "image", ["label"], ir_version=ir_version, opset=opset)
    pins = {"ir_version": ir_version if ir_version != 9 else 8, "opset": opset}
    with pytest.raises(Misconfigured, match=reason):
        load_packages(make_package("brain-tissue-gwm-tiny", content=content, pins=pins))


@pytest.mark.parametrize("location", ["../../../etc/passwd", "weights.bin"])
def test_tensors_outside_the_hashed_file_are_refused(
    make_package: Maker, onnx_file: Callable[..., bytes], location: str
) -> None:
    tensor = [(1, 1), (2, 1), (8, "w"), (13, [(1, "location"), (2, location)]), (14, 1)]
    content = onnx_file([("Add", ["image", "w"], ["label"])], "image", ["label"], initializers=[tensor])
    with pytest.raises(Misconfigured, match="outside its digest") as refused:
        load_packages(make_package("brain-tissue-gwm-tiny", content=content))
    assert location in refused.value.message


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no such folder"):
        load_packages(tmp_path / "models")


def test_two_packages_of_one_name_are_refused(make_package: Maker) -> None:
    first = make_package("brain-tissue-gwm-tiny", folder="one")
    second = make_package("brain-tissue-gwm-tiny", folder="two")
    with pytest.raises(Misconfigured, match="is taken by"):
        load_packages(first, second)


def test_another_grid_is_another_configuration_of_the_same_model(packages: dict[str, ModelPackage]) -> None:
    package = packages["brain-extract-mindgrab"]
    coarse = with_spacing(package, 1.5)
    assert coarse.identity.digest == package.identity.digest
    assert coarse.identity.config_digest != package.identity.config_digest
    assert with_spacing(package, 1.5).identity == coarse.identity
    assert with_spacing(coarse, 1.0).identity == package.identity


@pytest.mark.parametrize(
    ("name", "spacing_mm"),
    [
        ("brain-extract-mindgrab", 4.0),
        ("brain-extract-mindgrab", 0.0),
        ("headct-bleed-synthetic", 2.0),
        ("cxr-pneumonia-peds", 1.0),
    ],
)
def test_a_spacing_that_the_manifest_does_not_offer_is_refused(
    packages: dict[str, ModelPackage], name: str, spacing_mm: float
) -> None:
    with pytest.raises(Misconfigured, match="spacing_mm"):
        with_spacing(packages[name], spacing_mm)


def test_the_configuration_digest_ignores_prose_and_follows_thresholds(
    make_package: Maker, packages: dict[str, ModelPackage]
) -> None:
    shipped = packages["cxr-pneumonia-peds"].identity
    prose = load_packages(make_package("cxr-pneumonia-peds", folder="prose", description="Other words."))
    assert prose["cxr-pneumonia-peds"].identity == shipped
    findings = json.loads((packages["cxr-pneumonia-peds"].path / "manifest.json").read_text())["findings"]
    findings[0]["threshold"] = 0.5
    other = load_packages(make_package("cxr-pneumonia-peds", folder="other", findings=findings))
    assert other["cxr-pneumonia-peds"].identity.config_digest != shipped.config_digest
