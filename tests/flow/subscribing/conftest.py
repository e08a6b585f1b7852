"""A running server with an EHR that subscribes, and the endpoint where it listens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flow.conftest import Hospital
from tests.subscriber import Subscriber, subscriber

from .client import Client


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Subscriber]:
    with subscriber() as running:
        yield running


@pytest.fixture
def ehr(hospital: Hospital, endpoint: Subscriber) -> Iterator[Client]:
    with hospital.client() as http:
        yield Client(http, endpoint)
