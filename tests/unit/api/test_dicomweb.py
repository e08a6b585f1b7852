"""STOW-RS, QIDO-RS and WADO-RS: by hand where the form matters, and with dicomweb-client against a real server."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
import uvicorn
from dicomweb_client.web import DICOMwebClient
from fastapi import FastAPI
from pydicom.uid import ExplicitVRLittleEndian
from starlette.requests import Request
from starlette.responses import Response

from wetread.api import dicomweb, problem
from wetread.archive import instances, quarantine
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import OutOfSpace, Unauthorized, WetreadError
from wetread.outbound.dicom import stow
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database

DATA = Path(__file__).parents[2] / "data/dicom"
MR = (DATA / "syntaxes/MR_small.dcm").read_bytes()
HEADER = pydicom.dcmread(io.BytesIO(MR))
STUDY, SERIES, SOP = HEADER.StudyInstanceUID, HEADER.SeriesInstanceUID, HEADER.SOPInstanceUID
READ_ONLY = Reader("viewer", (Scope.parse("system/ImagingStudy.rs"),))
RELATED = 'multipart/related; type="application/dicom"; boundary='
DICOM = {"content-type": "application/dicom"}


@pytest.fixture
def app(database: Database, blobs: LocalBlobs) -> FastAPI:
    readers = {"": SYSTEM, "viewer": READ_ONLY, "nobody": Reader("nobody")}

    async def authenticate(request: Request) -> Reader:
        name = request.headers.get("x-reader", "")
        if name not in readers:
            raise Unauthorized("who?")
        return readers[name]

    web = FastAPI()
    web.include_router(dicomweb.router(database, blobs, authenticate, limit_bytes=300_000))

    @web.exception_handler(WetreadError)
    async def on_error(request: Request, error: WetreadError) -> Response:
        return problem.problem(error)

    return web


@pytest.fixture
async def web(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://wetread/dicom-web") as client:
        yield client


@pytest.fixture
async def server(app: FastAPI) -> AsyncIterator[str]:
    """The same app behind uvicorn; its DICOMweb root."""
    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    task = asyncio.create_task(running.serve([listening]))
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/dicom-web"
    running.should_exit = True
    await task
    listening.close()


def mr(number: int, **values: object) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(MR))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number}"
    dataset.InstanceNumber = number
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def body(*parts: bytes, boundary: str = "b", line: bytes = b"\r\n", head: bytes = b"") -> bytes:
    made = head
    for part in parts:
        made += b"--" + boundary.encode() + line + b"Content-Type: application/dicom" + line + line + part + line
    return made + b"--" + boundary.encode() + b"--"


async def post(web: httpx.AsyncClient, *parts: bytes, url: str = "/studies") -> httpx.Response:
    return await web.post(url, content=body(*parts), headers={"content-type": f"{RELATED}b"})


def values(item: dict[str, Any], tag: str) -> list[Any]:
    found: list[Any] = item[tag].get("Value", [])
    return found


# STOW-RS


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("application/dicom", MR),
        (f"{RELATED}b", body(MR)),
        ("Multipart/Related; boundary=b; type=application/dicom", body(MR)),
        ('multipart/related; boundary="a b:c"; type="application/dicom"; start="x"', body(MR, boundary="a b:c")),
        ("multipart/related; boundary=b", body(MR)),
        (f"{RELATED}b", body(MR, line=b"\n")),
        (f"{RELATED}b", body(MR, head=b"a preamble\r\n")),
        (f"{RELATED}b", body(MR) + b"\r\nan epilogue"),
        (f"{RELATED}b", body(MR).replace(b"application/dicom", b"application/dicom\r\nContent-Location: x", 1)),
        (f"{RELATED}b", b"--b\r\n\r\n" + MR + b"\r\n--b--"),
    ],
    ids=["single", "quoted", "bare", "odd-boundary", "no-type", "LF", "preamble", "epilogue", "headers", "no-headers"],
)
async def test_an_instance_is_stored_however_a_client_writes_its_envelope(
    web: httpx.AsyncClient, database: Database, blobs: LocalBlobs, content_type: str, content: bytes
) -> None:
    answer = await web.post("/studies", content=content, headers={"content-type": content_type})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    (reference,) = values(answer.json(), "00081199")
    assert values(reference, "00081155") == [SOP]
    assert values(reference, "00081190") == [
        f"http://wetread/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SOP}"
    ]
    async with database.transaction() as conn:
        assert await instances.data(conn, SYSTEM, blobs, SOP) == MR
        assert await instances.arrivals(conn, 1) == (STUDY,)


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_boundary_may_straddle_chunks(web: httpx.AsyncClient, size: int) -> None:
    whole = body(MR, mr(2))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), size):
            yield whole[start : start + size]

    answer = await web.post("/studies", content=chunks(), headers={"content-type": f"{RELATED}b"})
    assert answer.status_code == 200
    assert len(values(answer.json(), "00081199")) == 2


async def test_some_stored_and_some_not_is_202_with_each_reason(web: httpx.AsyncClient) -> None:
    await post(web, MR)
    answer = await post(web, mr(2), b"junk", mr(3, StudyInstanceUID="1.2"), MR.replace(b"CompressedSamples", b"X" * 17))
    assert answer.status_code == 202
    assert len(values(answer.json(), "00081199")) == 2
    reasons = [values(item, "00081197") for item in values(answer.json(), "00081198")]
    assert reasons == [[0xC000], [0x0111]]


async def test_none_stored_is_409_and_the_same_again_is_200(web: httpx.AsyncClient) -> None:
    assert (await post(web, MR)).status_code == 200
    assert (await post(web, MR)).status_code == 200
    changed = pydicom.dcmread(io.BytesIO(MR))
    changed.PatientID = "OTHER"
    buffer = io.BytesIO()
    changed.save_as(buffer)
    assert (await post(web, buffer.getvalue())).status_code == 409


async def test_an_instance_of_another_study_than_the_url_s_fails(web: httpx.AsyncClient) -> None:
    answer = await post(web, MR, url="/studies/1.2.3")
    assert answer.status_code == 409
    assert values(values(answer.json(), "00081198")[0], "00081197") == [0xA900]
    assert (await post(web, MR, url=f"/studies/{STUDY}")).status_code == 200


UNREADABLE: list[tuple[str, bytes, int]] = [
    (f"{RELATED}b", body(MR)[:-8], 400),
    (f"{RELATED}b", b"--b--", 400),
    (f"{RELATED}b", b"", 400),
    (f"{RELATED}b", b"--b\r\nno empty line\r\n--b--", 400),
    ("multipart/related", body(MR), 400),
    ("text/plain", b"hello", 415),
    ('multipart/related; type="application/dicom+json"; boundary=b', body(MR), 415),
    (f"{RELATED}b", body(MR).replace(b"application/dicom", b"image/jpeg", 1), 415),
    ("application/dicom", bytes(300_001), 413),
    (f"{RELATED}b", body(bytes(400_000)), 413),
    ("application/dicom", b"", 400),
    ("application/dicom", (DATA / "malformed/MR_truncated.dcm").read_bytes(), 400),
    ("application/dicom", (DATA / "malformed/no_meta.dcm").read_bytes(), 400),
]


async def test_what_cannot_be_read_is_refused_in_http_s_terms(web: httpx.AsyncClient) -> None:
    for content_type, content, status in UNREADABLE:
        answer = await web.post("/studies", content=content, headers={"content-type": content_type})
        assert answer.status_code == status, (content_type, content[:80])
        assert answer.json()


async def test_what_is_refused_is_in_quarantine(web: httpx.AsyncClient, database: Database) -> None:
    await post(web, b"junk")
    async with database.transaction() as conn:
        (refusal,) = await quarantine.refused(conn, SYSTEM, 10)
    assert (refusal.reason, refusal.source, refusal.size_bytes) == ("invalid", "stow:system", 4)


async def test_a_full_disk_is_507_and_the_same_succeeds_later(
    web: httpx.AsyncClient, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(key: str, data: bytes) -> None:
        raise OutOfSpace("full")

    with monkeypatch.context() as patched:
        patched.setattr(blobs, "put", full)
        answer = await post(web, MR)
    assert answer.status_code == 507
    assert values(values(answer.json(), "00081198")[0], "00081197") == [0xA700]
    assert (await post(web, MR)).status_code == 200


async def test_scopes_are_asked_for(web: httpx.AsyncClient) -> None:
    assert (await web.post("/studies", content=MR, headers=DICOM | {"x-reader": "viewer"})).status_code == 403
    assert (await web.post("/studies", content=MR, headers=DICOM | {"x-reader": "?"})).status_code == 401
    assert (await web.get("/studies", headers={"x-reader": "viewer"})).status_code == 200
    for url in ("/studies", "/series", f"/studies/{STUDY}", f"/studies/{STUDY}/metadata"):
        assert (await web.get(url, headers={"x-reader": "nobody"})).status_code == 403


async def test_every_access_is_audited(web: httpx.AsyncClient, database: Database) -> None:
    await post(web, MR, b"junk")
    await web.get("/studies", params={"PatientID": "X"})
    await web.get(f"/studies/{STUDY}")
    async with database.transaction() as conn:
        rows = await (await conn.execute("SELECT kind FROM audit_event ORDER BY recorded, kind")).fetchall()
    assert sorted(row[0] for row in rows) == [
        "instance-accessed",
        "instance-queried",
        "instance-refused",
        "instance-stored",
    ]


# QIDO-RS


@pytest.fixture
async def filled(web: httpx.AsyncClient) -> httpx.AsyncClient:
    """Two studies: MR of 2004 with two instances, and a CT and its SR of 2020."""
    later = {
        "StudyInstanceUID": "1.2.9", "StudyDate": "20200102", "StudyTime": "1015", "PatientID": "P_2",
        "PatientName": "Doe^Jane", "AccessionNumber": "A9",
    }  # fmt: skip
    assert (await post(web, mr(1), mr(2))).status_code == 200
    ct = mr(3, SeriesInstanceUID="1.2.9.1", Modality="CT", SeriesNumber=5, **later)
    sr = mr(4, SeriesInstanceUID="1.2.9.2", Modality="SR", SeriesNumber=6, **later)
    assert (await post(web, ct, sr)).status_code == 200
    return web


SEARCHES: list[tuple[dict[str, str], list[str]]] = [
    ({}, ["1.2.9", STUDY]),
    ({"PatientID": "P_2"}, ["1.2.9"]),
    ({"00100020": "P_2"}, ["1.2.9"]),
    ({"PatientID": "P*"}, ["1.2.9"]),
    ({"PatientID": "P?2"}, ["1.2.9"]),
    ({"PatientID": "PX2"}, []),
    ({"PatientID": "*"}, ["1.2.9", STUDY]),
    ({"PatientName": "doe*"}, ["1.2.9"]),
    ({"AccessionNumber": "A9"}, ["1.2.9"]),
    ({"ModalitiesInStudy": "SR"}, ["1.2.9"]),
    ({"StudyDate": "20200102"}, ["1.2.9"]),
    ({"StudyDate": "20200101-"}, ["1.2.9"]),
    ({"StudyDate": "-20191231"}, [STUDY]),
    ({"StudyDate": "20040101-20041231"}, [STUDY]),
    ({"StudyTime": "10"}, ["1.2.9"]),
    ({"StudyTime": "1000-1030"}, ["1.2.9"]),
    ({"StudyInstanceUID": f"1.2.9,{STUDY}"}, ["1.2.9", STUDY]),
    ({"StudyInstanceUID": f"1.2.9\\{STUDY}"}, ["1.2.9", STUDY]),
    ({"limit": "1"}, ["1.2.9"]),
    ({"limit": "1", "offset": "1"}, [STUDY]),
    ({"limit": "0"}, []),
]


async def test_studies_are_found_by_each_kind_of_matching(filled: httpx.AsyncClient) -> None:
    for query, found in SEARCHES:
        answer = await filled.get("/studies", params=query)
        assert answer.status_code == 200, query
        assert [values(one, "0020000D")[0] for one in answer.json()] == found, query


async def test_a_study_tells_what_it_holds(filled: httpx.AsyncClient) -> None:
    (study,) = (await filled.get("/studies", params={"PatientID": "P_2"})).json()
    assert list(study) == sorted(study)
    assert values(study, "00080061") == ["CT", "SR"]
    assert values(study, "00201206") == [2]
    assert values(study, "00201208") == [2]
    assert values(study, "00100010") == [{"Alphabetic": "Doe^Jane"}]
    assert values(study, "00080020") == ["20200102"]
    assert values(study, "00081190") == ["http://wetread/dicom-web/studies/1.2.9"]
    assert "Value" not in study["00080090"]


async def test_series_and_instances_are_found_within_their_study_and_across(filled: httpx.AsyncClient) -> None:
    async def uids(url: str, tag: str) -> list[str]:
        return [values(one, tag)[0] for one in (await filled.get(url)).json()]

    assert await uids("/studies/1.2.9/series", "0020000E") == ["1.2.9.1", "1.2.9.2"]
    assert await uids("/studies/1.2.9/series?Modality=SR", "0020000E") == ["1.2.9.2"]
    assert await uids("/series?SeriesNumber=5", "0020000E") == ["1.2.9.1"]
    assert await uids(f"/studies/{STUDY}/instances", "00080018") == [f"{SERIES}.1", f"{SERIES}.2"]
    assert await uids(f"/studies/{STUDY}/series/{SERIES}/instances?InstanceNumber=2", "00080018") == [f"{SERIES}.2"]
    assert await uids("/instances?limit=1&offset=3", "00080018") == [f"{SERIES}.2"]
    (series,) = (await filled.get(f"/studies/{STUDY}/series")).json()
    assert values(series, "00201209") == [2]


async def test_what_cannot_be_matched_is_ignored_with_a_warning(filled: httpx.AsyncClient) -> None:
    answer = await filled.get("/studies", params={"00080090": "*", "00400275.00400009": "x", "fuzzymatching": "true"})
    assert len(answer.json()) == 2
    assert answer.headers["warning"].startswith("299 ")
    quiet = await filled.get("/studies?includefield=all&includefield=00081030,PatientID&fuzzymatching=false")
    assert "warning" not in quiet.headers


@pytest.mark.parametrize("query", ["limit=x", "offset=-1", "StudyDate=yesterday", "SeriesNumber=one"])
async def test_a_value_that_makes_no_sense_is_400(filled: httpx.AsyncClient, query: str) -> None:
    answer = await filled.get(f"/series?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


# WADO-RS


async def test_an_instance_comes_back_byte_for_byte(web: httpx.AsyncClient) -> None:
    await post(web, MR)
    url = f"/studies/{STUDY}/series/{SERIES}/instances/{SOP}"
    single = await web.get(url, headers={"accept": "application/dicom"})
    assert single.content == MR
    related = await web.get(url)
    kind = related.headers["content-type"]
    assert kind.startswith('multipart/related; type="application/dicom"; boundary=')
    assert MR in related.content
    assert ExplicitVRLittleEndian.encode() in related.content.split(b"\r\n\r\n")[0]
    assert (await web.get(url)).headers["content-type"] != kind


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        ('multipart/related; type="application/dicom"', 200),
        ("multipart/related; type=application/dicom; transfer-syntax=*", 200),
        ('image/png, multipart/related; type="application/dicom";q=0.5', 200),
        ("image/png", 406),
        ("application/dicom", 406),
    ],
)
async def test_a_series_is_given_as_multipart_or_not_at_all(web: httpx.AsyncClient, accept: str, status: int) -> None:
    await post(web, MR)
    answer = await web.get(f"/studies/{STUDY}/series/{SERIES}", headers={"accept": accept})
    assert answer.status_code == status


@pytest.mark.parametrize("url", ["", "/metadata", "/series/1.2", "/series/1.2/instances/1.2/frames/1"])
async def test_what_is_not_here_is_404(web: httpx.AsyncClient, url: str) -> None:
    assert (await web.get(f"/studies/1.2.3{url}")).status_code == 404


async def test_metadata_is_the_header_without_pixel_data(web: httpx.AsyncClient) -> None:
    await post(web, MR)
    (document,) = (await web.get(f"/studies/{STUDY}/metadata")).json()
    assert pydicom.Dataset.from_json(document).PatientName == HEADER.PatientName
    assert list(document) == sorted(document)
    assert not any(tag.startswith(("0002", "7FE0")) for tag in document)


async def test_metadata_of_a_header_with_a_broken_value_is_still_given(web: httpx.AsyncClient) -> None:
    broken = DATA / "malformed/badVR.dcm"
    header = pydicom.dcmread(broken)
    assert (await post(web, broken.read_bytes())).status_code == 200
    (document,) = (await web.get(f"/studies/{header.StudyInstanceUID}/metadata")).json()
    assert values(document, "00080060") == ["RTDOSE"]


@pytest.mark.parametrize(("frames", "status"), [("1", 200), ("2", 404), ("0", 400), ("one", 400), ("1,1", 200)])
async def test_frames_are_counted_from_one(web: httpx.AsyncClient, frames: str, status: int) -> None:
    await post(web, MR)
    answer = await web.get(f"/studies/{STUDY}/series/{SERIES}/instances/{SOP}/frames/{frames}")
    assert answer.status_code == status
    if status == 200:
        assert answer.content.count(HEADER.PixelData) == frames.count("1")


async def test_dicomweb_client_and_our_own_sender_work_with_it(server: str, web: httpx.AsyncClient) -> None:
    def use() -> None:
        stow([mr(1), mr(2)], url=server, headers={}, timeout_s=10)
        client = DICOMwebClient(server)
        client.store_instances([pydicom.dcmread(io.BytesIO(mr(3)))])
        (study,) = client.search_for_studies(search_filters={"PatientID": HEADER.PatientID})
        assert values(study, "00201208") == [3]
        assert len(client.search_for_instances(STUDY, SERIES, fields=["Rows"], limit=2)) == 2
        assert len(client.retrieve_study_metadata(STUDY)) == 3
        assert {one.SOPInstanceUID for one in client.retrieve_series(STUDY, SERIES)} == {
            f"{SERIES}.{n}" for n in (1, 2, 3)
        }
        assert client.retrieve_instance(STUDY, SERIES, f"{SERIES}.2").InstanceNumber == 2
        assert client.retrieve_instance_frames(STUDY, SERIES, f"{SERIES}.2", [1]) == [HEADER.PixelData]

    await asyncio.to_thread(use)
