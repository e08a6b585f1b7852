"""The shipped maps, a site, and messages: from the samples, or written in a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from wetread.mapping.maps import load
from wetread.mapping.model import Maps
from wetread.mapping.orders import Mapped, map_message
from wetread.mapping.site import Site
from wetread.wire import hl7

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "mappings"
SAMPLES = ROOT / "tests" / "data" / "hl7v2"
DEFAULT_AUTHORITY = "urn:oid:1.2.3.4"


@pytest.fixture(scope="session")
def shipped() -> Path:
    return SHIPPED


@pytest.fixture(scope="session")
def maps() -> Maps:
    return load(SHIPPED, None)


@pytest.fixture(scope="session")
def site(maps: Maps) -> Site:
    authorities = {**maps.authorities, "HOSP": "urn:oid:1.2.3.5"}
    return Site(b"a site key of 32 bytes, for tests", authorities, DEFAULT_AUTHORITY, ZoneInfo("Europe/Paris"))


@pytest.fixture(scope="session")
def sample() -> Callable[[str], hl7.Message]:
    return lambda name: hl7.parse((SAMPLES / f"{name}.hl7").read_bytes())


@pytest.fixture(scope="session")
def write() -> Callable[..., hl7.Message]:
    """A message of the given type: `write("ORM^O01", "PID|1||7^^^HOSP", "ORC|NW|A1")`."""

    def make(kind: str, *segments: str) -> hl7.Message:
        header = rf"MSH|^~\&|HIS|HOSP|WETREAD|HOSP|20260401093000||{kind}|M1|P|2.5.1||||||UNICODE UTF-8"
        return hl7.parse("\r".join((header, *segments)).encode())

    return make


@pytest.fixture(scope="session")
def mapped(maps: Maps, site: Site, sample: Callable[[str], hl7.Message]) -> Callable[[str], Mapped]:
    return lambda name: map_message(sample(name), maps, site)
