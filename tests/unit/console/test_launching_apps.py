"""From the page of a study to an app that knows its patient."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.forms import hidden, send
from tests.read_studies import FILM, ReadStudies, audited
from tests.smart_apps import FHIR, Site, smart_site

from wetread.reading.studies import Study
from wetread.store.database import Database


@pytest.fixture
async def site(database: Database, tmp_path: Path) -> AsyncIterator[Site]:
    async with smart_site(database, tmp_path) as built:
        yield built


async def recorded(site: Site, study: Study) -> None:
    """The study as it stands in the record."""
    about = {"reference": f"Patient/{study.patient_id}"}
    await site.put(resourceType="Patient", id=study.patient_id)
    await site.put(resourceType="ImagingStudy", id=study.id, status="available", subject=about)


async def test_a_study_is_opened_in_an_app_with_its_patient(site: Site, ward: ReadStudies, database: Database) -> None:
    app, _ = await site.register(name="Viewer"), await site.register(name="No launch", launch_uri="")
    study = await ward.study(FILM)
    await recorded(site, study)
    cookie, signed = await site.person("radiologist")
    browser = site.browser(cookie)
    page = await browser.get(f"/worklist/{study.id}")
    assert "Viewer" in page.text
    assert "No launch" not in page.text
    assert "form-action 'self' https://app.example;" in page.headers["content-security-policy"]
    onward = await send(browser, page, f"/worklist/{study.id}/launch")
    assert (onward.status_code, onward.headers["location"].partition("?")[0]) == (303, "https://app.example/launch")
    told = {name: values[0] for name, values in parse_qs(urlsplit(onward.headers["location"]).query).items()}
    assert told["iss"] == FHIR
    given = await app.tokens(signed, scope="launch patient/ImagingStudy.rs", launch=told["launch"])
    assert given["patient"] == study.patient_id
    assert given["fhirContext"] == [{"reference": f"ImagingStudy/{study.id}", "type": "ImagingStudy"}]
    assert ("app-launched", "0", signed.account.name, study.patient_id) in await audited(database)


async def test_nobody_launches_without_the_form_the_role_or_the_right(site: Site, ward: ReadStudies) -> None:
    app = await site.register()
    study = await ward.study(FILM)
    await recorded(site, study)
    cookie, _ = await site.person("radiologist")
    browser = site.browser(cookie)
    action = f"/worklist/{study.id}/launch"
    form = hidden(await browser.get(f"/worklist/{study.id}"), action)
    assert (await browser.post(action, data={"app": app.client_id})).status_code == 403
    assert (await browser.post(action, data={**form, "app": "nobody"})).status_code == 404
    assert (await browser.post(action, data=form, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert (await site.browser().post(action, data=form)).headers["location"] == "/login"
    auditor, _ = await site.person("auditor")
    other = site.browser(auditor)
    theirs = hidden(await other.get(f"/worklist/{study.id}"), action)
    assert (await other.post(action, data=theirs)).status_code == 403
