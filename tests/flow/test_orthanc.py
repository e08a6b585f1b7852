"""Orthanc as the PACS: it sends the study by C-STORE, and gets the results back by STOW-RS."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pydicom
import pytest

from tests.ports import free_port
from wetread.demo import peers

from .conftest import Hospital, Server, Story, configuration, part10, until

pytestmark = pytest.mark.peer


@dataclass(frozen=True)
class Pacs:
    url: str

    def upload(self, content: bytes) -> str:
        answer = httpx.post(f"{self.url}/instances", content=content, timeout=30)
        answer.raise_for_status()
        return str(answer.json()["ParentStudy"])

    def send(self, study: str) -> None:
        httpx.post(f"{self.url}/modalities/wetread/store", content=study, timeout=60).raise_for_status()

    def instances(self, study_instance_uid: str) -> list[pydicom.Dataset]:
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_instance_uid}}
        found = httpx.post(f"{self.url}/tools/find", json=query, timeout=30).json()
        files = [httpx.get(f"{self.url}/instances/{name}/file", timeout=30).content for name in found]
        return [pydicom.dcmread(io.BytesIO(content)) for content in files]


@pytest.fixture
def site(tmp_path: Path, peer_ports: dict[str, int], heard: peers.Heard) -> Iterator[tuple[Hospital, Pacs]]:
    ports = {name: free_port() for name in ("http", "mllp", "dicom")}
    http_port, dicom_port = free_port(), free_port()
    (tmp_path / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "PACS",
                "StorageDirectory": str(tmp_path / "pacs"),
                "IndexDirectory": str(tmp_path / "pacs"),
                "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
                "HttpPort": http_port,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomAet": "PACS",
                "DicomPort": dicom_port,
                "DicomModalities": {"wetread": ["WETREAD", "127.0.0.1", ports["dicom"]]},
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            }
        )
    )
    environment = {**os.environ, "TCP_NODELAY": "1"}
    orthanc = subprocess.Popen(
        ["Orthanc", str(tmp_path / "orthanc.json")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    config = tmp_path / "wetread.toml"
    stow = (
        f'[[outbound.destinations]]\nname = "pacs"\nkind = "stow"\nsends = ["sr", "seg", "pr"]\n'
        f'url = "http://127.0.0.1:{http_port}/dicom-web"\n'
    )
    config.write_text(configuration(ports, peer_ports) + stow)
    server = Server(config, tmp_path / "data", ports)
    server.start()
    try:
        server.wait_ready()
        until("Orthanc", lambda: _answers(f"http://127.0.0.1:{http_port}/system"))
        yield Hospital(server, heard, peer_ports["subscriber"]), Pacs(f"http://127.0.0.1:{http_port}")
    finally:
        server.stop()
        orthanc.terminate()
        orthanc.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_orthanc_sends_a_study_and_gets_its_results_back(
    site: tuple[Hospital, Pacs], story: Callable[[str], Story]
) -> None:
    hospital, pacs = site
    film = story("chest-film")
    assert hospital.order(film.message).code == "AA"
    pacs.send(pacs.upload(part10(film.datasets[0])))
    until("the Task", lambda: hospital.task_of(film.accession_number).get("status") == "completed")

    def results() -> list[pydicom.Dataset]:
        found = [d for d in pacs.instances(film.study_instance_uid) if d.Modality in ("SR", "PR")]
        return found if {d.Modality for d in found} == {"SR", "PR"} else []

    for dataset in until("SR and presentation state in Orthanc", results):
        assert dataset.StudyInstanceUID == film.study_instance_uid
        assert dataset.PatientID == film.case.patient.id
    assert len(pacs.instances(film.study_instance_uid)) == 3
