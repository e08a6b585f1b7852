"""Gets the peers of the conformance tests by name, version and digest, and keeps them under build/conformance."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PINS = Path(__file__).parent / "peers"
BUILD = Path(__file__).parents[1] / "build" / "conformance"
_DOWNLOAD_S = 900
_KEYCLOAK = "dd9834c023460be856f731423d86228c23b5d002194a2064642bec0cc6573eaa"


class PeerMissing(RuntimeError):
    """A peer cannot be had; the message names it and says how to get it."""


def program(name: str, package: str) -> str:
    """The path of an installed program. Raises PeerMissing."""
    found = shutil.which(name)
    if found is None:
        raise PeerMissing(
            f"{name} is not installed: `apt-get install {package}`, or `bash conformance/install.sh` as root"
        )
    return found


def validator_jars() -> Path:
    """The folder of the FHIR validator's jars, from Maven Central, each with its pinned digest. Raises PeerMissing."""
    folder = BUILD / "validator"
    if not _as_pinned(folder):
        command = [program("mvn", "maven"), "-q", "-B", "-f", str(PINS / "pom.xml"), "dependency:copy-dependencies"]
        shutil.rmtree(folder, ignore_errors=True)
        _run("the FHIR validator (ca.uhn.hapi.fhir:org.hl7.fhir.validation)", [
            *command, f"-DoutputDirectory={folder}", "-DincludeScope=runtime",
        ])  # fmt: skip
        if not _as_pinned(folder):
            raise PeerMissing("the FHIR validator: the jars of conformance/peers/pom.xml are not those of jars.sha256")
    return folder


def npm_peers() -> Path:
    """The folder with the drivers and npm packages of the peers, each with its pinned digest. Raises PeerMissing."""
    folder = BUILD / "npm"
    what = (
        "the npm peers (fhir-kit-client, fhirclient, node-hl7-client and -server, @medplum/core and hl7, simple-hl7, "
        "standardwebhooks)"
    )
    _npm_packages(what, PINS, folder)
    for driver in (*PINS.glob("*.js"), *PINS.glob("*.mjs")):
        shutil.copy(driver, folder)
    return folder


def sushi() -> Path:
    """SUSHI, HL7's compiler of FHIR Shorthand, from npm with its pinned digest. Raises PeerMissing."""
    folder = BUILD / "sushi"
    _npm_packages("the compiler of FHIR Shorthand (fsh-sushi)", Path(__file__).parent / "fsh", folder)
    return folder / "node_modules" / "fsh-sushi" / "dist" / "app.js"


def _npm_packages(what: str, pins: Path, folder: Path) -> None:
    """Installs what the folder `pins` locks, once."""
    program("node", "nodejs")
    npm = program("npm", "npm")
    lock = "package-lock.json"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "node_modules" / ".pins"
    if not done.exists() or done.read_bytes() != (pins / lock).read_bytes():
        for name in ("package.json", lock, ".npmrc"):
            shutil.copy(pins / name, folder)
        _run(what, [
            npm, "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund",
        ], cwd=folder)  # fmt: skip
        shutil.copy(folder / lock, done)


def dcmqi() -> Path:
    """The folder of dcmqi's programs, of the wheel from PyPI with its pinned digest. Raises PeerMissing."""
    return _from_pypi("dcmqi") / "dcmqi" / "bin"


def fhir_clients() -> Path:
    """The folder of the FHIR clients in Python (fhirpy, fhirclient, smart-fetch) and what they need, from PyPI, each
    with its pinned digest; for PYTHONPATH. Raises PeerMissing."""
    return _from_pypi("fhir-clients")


def schemathesis() -> Path:
    """The folder of schemathesis and what it needs, from PyPI with pinned digests; for PYTHONPATH.

    Raises PeerMissing."""
    return _from_pypi("schemathesis")


def keycloak() -> Path:
    """The folder of Keycloak's distribution, from Maven Central with its pinned digest. Raises PeerMissing."""
    folder = BUILD / "keycloak"
    done = folder / ".pins"
    pins = Path(__file__).parent / "keycloak" / "pom.xml"
    if not done.exists() or done.read_bytes() != pins.read_bytes():
        shutil.rmtree(folder, ignore_errors=True)
        _run("Keycloak (org.keycloak:keycloak-quarkus-dist)", [
            program("mvn", "maven"), "-q", "-B", "-f", str(pins), "dependency:copy-dependencies",
            f"-DoutputDirectory={folder}",
        ])  # fmt: skip
        [archive] = folder.glob("*.zip")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != _KEYCLOAK:
            raise PeerMissing("Keycloak: what came is not of the digest in conformance/supply.py")
        shutil.unpack_archive(archive, folder)
        archive.unlink()
        shutil.copy(pins, done)
    [unpacked] = folder.glob("keycloak-*")
    return unpacked


def _from_pypi(name: str) -> Path:
    folder, pins = BUILD / name, PINS / f"{name}.txt"
    done = folder / ".pins"
    if not done.exists() or done.read_bytes() != pins.read_bytes():
        shutil.rmtree(folder, ignore_errors=True)
        _run(name, [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--require-hashes", "--only-binary", ":all:", "--target", str(folder), "-r", str(pins),
        ])  # fmt: skip
        shutil.copy(pins, done)
    return folder


def _as_pinned(folder: Path) -> bool:
    return _digests(folder) == _pinned()


def _pinned() -> Mapping[str, str]:
    lines = (PINS / "jars.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _digests(folder: Path) -> Mapping[str, str]:
    return {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.glob("*.jar")}


def _run(what: str, command: Sequence[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_DOWNLOAD_S, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-1500:]
        raise PeerMissing(f"{what} cannot be had: `{Path(command[0]).name}` failed, is its registry reached?\n{said}")
