"""Websockets of subscriptions with a client that is not ours: Medplum's library and its manager of subscriptions."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flow.conftest import Hospital, running_hospital

from conformance import supply
from wetread.demo import peers

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def wetread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    ports = {"archive": 9, "subscriber": 9, "alerts": 9}
    with running_hospital(tmp_path_factory.mktemp("sockets"), peers.Heard(), ports, "demo") as running:
        yield running


def test_medplums_manager_of_subscriptions_hears_of_events_and_comes_back(wetread: Hospital) -> None:
    folder: Path = supply.npm_peers()
    command = [supply.program("node", "nodejs"), "--experimental-websocket", "medplum-socket.mjs"]
    done = subprocess.run(
        [*command, f"{wetread.server.url}/fhir", wetread.token()],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
