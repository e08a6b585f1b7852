"""The worklist in a browser: who comes first, why, and what is never shown."""

from __future__ import annotations

import re
from urllib.parse import quote

import httpx
from tests.read_studies import BLEED, FILM, PHANTOM, PNEUMONIA, ReadStudies, Site, audited, site

from wetread.domain.identity import PatientIdentity
from wetread.domain.phase import Phase
from wetread.domain.priority import Priority
from wetread.domain.study import MatchState
from wetread.store.blobs import LocalBlobs
from wetread.store.database import Database

CRITICAL = "Intracranial hemorrhage (headct-bleed-synthetic)"


async def test_a_critical_study_stands_before_an_urgent_one_that_came_earlier(
    ward: ReadStudies, radiologist: httpx.AsyncClient
) -> None:
    urgent = await ward.study(FILM, priority=Priority.STAT)
    critical = await ward.study(PHANTOM, minutes=5, critical=True, critical_reason=CRITICAL)
    await ward.run(critical, PHANTOM, BLEED)

    page = await radiologist.get("/worklist")

    assert page.status_code == 200
    first, second = _rows(page.text)
    assert f'href="/worklist/{critical.id}"' in first
    assert f'href="/worklist/{urgent.id}"' in second
    assert "CRITICAL" in first
    assert f"critical: {CRITICAL}" in first
    assert "SYNTHETIC Intracranial hemorrhage: present" in first
    assert "27.0 mL" in first
    assert "DEMO-A1004" in first
    assert "2026-11-20 10:05:00 CET" in first
    assert "CRITICAL" not in second
    assert "ordered STAT" in second


async def test_the_table_is_a_table_with_headers_and_a_summary_for_the_script(
    ward: ReadStudies, radiologist: httpx.AsyncClient
) -> None:
    await ward.study(FILM)
    fragment = (await radiologist.get("/worklist/table")).text
    assert "<html" not in fragment
    assert fragment.count('<th scope="col">') == 9
    assert '<th scope="row">' in fragment
    assert 'data-summary="1 study, 0 critical"' in fragment
    whole = (await radiologist.get("/worklist")).text
    assert fragment in whole
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in whole


async def test_what_came_from_outside_is_escaped(ward: ReadStudies, radiologist: httpx.AsyncClient) -> None:
    hostile = '<script>alert("x")</script>'
    study = await ward.study(
        FILM, identity=PatientIdentity((), hostile, ""), description=hostile, accession_number=hostile
    )
    for path in ("/worklist", f"/worklist/{study.id}"):
        page = (await radiologist.get(path)).text
        assert hostile not in page
        assert page.count("&lt;script&gt;alert(&#34;x&#34;)") >= 3


async def test_silent_and_held_answers_are_not_in_the_list(ward: ReadStudies, radiologist: httpx.AsyncClient) -> None:
    silent = await ward.study(FILM)
    await ward.run(silent, FILM, PNEUMONIA, Phase.SILENT)
    held = await ward.study(
        PHANTOM, match_state=MatchState.HELD, match_reason="accession number agrees, but the patient does not"
    )
    await ward.run(held, PHANTOM, BLEED, state="held")

    page = (await radiologist.get("/worklist")).text

    assert page.count("none reported") == 2
    assert "Pneumonia" not in page
    assert "hemorrhage" not in page
    assert "results held: accession number agrees, but the patient does not" in page


async def test_who_is_not_signed_in_is_sent_to_the_door_and_that_is_on_record(
    visitor: httpx.AsyncClient, database: Database
) -> None:
    for path in ("/worklist", "/worklist/table", "/worklist/no-such-study"):
        answer = await visitor.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={quote(path, safe='')}")
    assert [row[:3] for row in await audited(database)] == [("access-denied", "4", "anonymous")] * 3


async def test_a_token_without_the_scope_is_refused_with_a_page(
    visitor: httpx.AsyncClient, console_token: str, database: Database
) -> None:
    visitor.cookies.set("wetread_token", console_token)
    answer = await visitor.get("/worklist")
    assert answer.status_code == 403
    assert "ImagingStudy" in answer.text
    assert [row[:3] for row in await audited(database)] == [("access-denied", "4", "observer")]


async def test_every_view_is_on_record(ward: ReadStudies, radiologist: httpx.AsyncClient, database: Database) -> None:
    study = await ward.study(FILM)
    await radiologist.get("/worklist")
    await radiologist.get("/worklist/table")
    await radiologist.get(f"/worklist/{study.id}")
    assert await audited(database) == [
        ("page-viewed", "0", "dr-demo", None),
        ("page-viewed", "0", "dr-demo", None),
        ("page-viewed", "0", "dr-demo", study.patient_id),
    ]


async def test_a_table_that_has_not_changed_is_not_sent_again_and_leaves_no_row(
    ward: ReadStudies, radiologist: httpx.AsyncClient, console: Site, database: Database
) -> None:
    first = await radiologist.get("/worklist/table")
    known = {"If-None-Match": first.headers["etag"]}
    again = await radiologist.get("/worklist/table", headers=known)
    assert (again.status_code, again.text) == (304, "")
    assert len(await audited(database)) == 1
    await ward.study(FILM)
    changed = await radiologist.get("/worklist/table", headers=known)
    assert (changed.status_code, changed.headers["etag"] != first.headers["etag"]) == (200, True)
    radiologist.cookies.set("wetread_token", console.token("radiologist", principal="another"))
    theirs = await radiologist.get("/worklist/table", headers={"If-None-Match": changed.headers["etag"]})
    assert theirs.status_code == 200, "what one was shown counts for no other"
    assert len(await audited(database)) == 3


async def test_pages_run_no_foreign_or_inline_script_and_stay_out_of_caches_and_frames(
    radiologist: httpx.AsyncClient,
) -> None:
    for path in ("/worklist", "/login", "/worklist/unknown"):
        answer = await radiologist.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son[a-z]+=|\sstyle=", answer.text)


async def test_style_and_script_are_served_by_us(visitor: httpx.AsyncClient) -> None:
    for name, media_type in (("console.css", "text/css"), ("worklist.js", "text/javascript")):
        answer = await visitor.get(f"/console/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media_type)
    assert (await visitor.get("/console/pages.py")).status_code == 404


async def test_the_demonstration_says_so_on_every_page(
    radiologist: httpx.AsyncClient, database: Database, blobs: LocalBlobs
) -> None:
    assert "DEMO - invented patients" not in (await radiologist.get("/worklist")).text
    demo = site(database, blobs, demo=True)
    cookies = {"wetread_token": demo.token("radiologist")}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(demo.app), base_url="http://wetread.test", cookies=cookies
    ) as visitor:
        for path in ("/worklist", "/login"):
            page = (await visitor.get(path)).text
            assert "DEMO - invented patients" in page
            assert "AI - not for diagnosis" in page


def _rows(page: str) -> list[str]:
    return page.split("<tbody>")[1].split("</tbody>")[0].split("<tr")[1:]
