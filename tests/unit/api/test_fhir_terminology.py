"""Terminology operations over HTTP, on what Wetread ships and what a site stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.unit.api.test_fhir import BASE, JSON, application, audits, caller, put

from wetread.record import lossless
from wetread.record.validation import validate
from wetread.store.database import Database

V3_PRIORITY = "http://terminology.hl7.org/CodeSystem/v3-ActPriority"
GENDER = "http://hl7.org/fhir/administrative-gender"
GENDERS = "http://hl7.org/fhir/ValueSet/administrative-gender"
OWN = "https://wetread.org/fhir/CodeSystem/wetread"
ORGANS = "http://hospital.example/CodeSystem/organs"


@pytest.fixture(scope="module")
async def client(module_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(application(module_database)) as client:
        for resource in (organs(), thorax(), organ_map(), german()):
            assert (await put(client, resource)).status_code in (200, 201), resource["id"]
        yield client


def concept(code: str, display: str, *inside: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"code": code, "display": display, **({"concept": list(inside)} if inside else {}), **more}


def organs() -> dict[str, Any]:
    """A site's own code system: a hierarchy by nesting and by property, an abstract code, a retired one."""
    return {
        "resourceType": "CodeSystem",
        "id": "organs",
        "url": ORGANS,
        "version": "2",
        "name": "Organs",
        "status": "active",
        "caseSensitive": False,
        "content": "complete",
        "property": [
            {"code": "parent", "uri": "http://hl7.org/fhir/concept-properties#parent", "type": "code"},
            {"code": "paired", "type": "boolean"},
            {"code": "status", "uri": "http://hl7.org/fhir/concept-properties#status", "type": "code"},
            {"code": "notSelectable", "uri": "http://hl7.org/fhir/concept-properties#notSelectable", "type": "boolean"},
        ],
        "concept": [
            concept(
                "thoracic",
                "Organ of the thorax",
                concept("lung", "Lung", property=[{"code": "paired", "valueBoolean": True}]),
                concept(
                    "heart", "Heart", designation=[{"language": "fr", "value": "Cœur"}], definition="Pumps the blood."
                ),
                property=[{"code": "notSelectable", "valueBoolean": True}],
            ),
            concept("atrium", "Atrium of heart", property=[{"code": "parent", "valueCode": "heart"}]),
            concept("thymus-old", "Thymus, former code", property=[{"code": "status", "valueCode": "retired"}]),
        ],
    }


def thorax() -> dict[str, Any]:
    return {
        "resourceType": "ValueSet",
        "id": "thorax",
        "url": "http://hospital.example/ValueSet/thorax",
        "version": "1",
        "status": "active",
        "compose": {
            "include": [
                {"system": ORGANS, "filter": [{"property": "concept", "op": "is-a", "value": "thoracic"}]},
                {"valueSet": [GENDERS]},
            ],
            "exclude": [{"system": GENDER, "concept": [{"code": "unknown"}]}],
        },
    }


def organ_map() -> dict[str, Any]:
    return {
        "resourceType": "ConceptMap",
        "id": "organ-map",
        "url": "http://hospital.example/ConceptMap/organs",
        "status": "active",
        "sourceCanonical": "http://hospital.example/ValueSet/thorax",
        "group": [
            {
                "source": ORGANS,
                "target": "http://snomed.info/sct",
                "element": [
                    {"code": "lung", "target": [{"code": "39607008", "display": "Lung", "equivalence": "equivalent"}]},
                    {"code": "heart", "target": [{"code": "80891009", "equivalence": "wider"}]},
                    {"code": "atrium", "target": [{"equivalence": "unmatched"}]},
                ],
                "unmapped": {"mode": "fixed", "code": "113343008", "display": "Body organ structure"},
            }
        ],
    }


def german() -> dict[str, Any]:
    """A supplement: words of another language for a code system that stands elsewhere."""
    return {
        "resourceType": "CodeSystem",
        "id": "organs-de",
        "url": "http://hospital.example/CodeSystem/organs-de",
        "status": "active",
        "content": "supplement",
        "supplements": ORGANS,
        "concept": [{"code": "heart", "designation": [{"language": "de", "value": "Herz"}]}],
    }


async def get(client: httpx.AsyncClient, path: str, status: int = 200, **params: Any) -> dict[str, Any]:
    answer = await client.get(f"{BASE}/{path}", params=params)
    assert answer.status_code == status, answer.text
    return valid(answer.text)


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer = await client.post(f"{BASE}/{path}", json=body, headers=JSON)
    assert answer.status_code == status, answer.text
    return valid(answer.text)


def valid(text: str) -> dict[str, Any]:
    """An answer, which R4 has no fault with."""
    content = lossless.parse(text)
    assert [i for i in validate.issues(content) if i.severity == "error"] == []
    return content


def given(**members: Any) -> dict[str, Any]:
    """A Parameters resource; `code__valueCode="x"`, `valueSet__resource={...}`."""
    pairs = [(name.split("__"), value) for name, value in members.items()]
    return {"resourceType": "Parameters", "parameter": [{"name": n, form: value} for (n, form), value in pairs]}


def out(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that stand once, by name."""
    assert parameters["resourceType"] == "Parameters"
    rows = {p["name"]: next((v for k, v in p.items() if k.startswith("value")), None) for p in parameters["parameter"]}
    return {name: value for name, value in rows.items() if value is not None}


def codes(value_set: dict[str, Any]) -> list[str]:
    return [c["code"] for c in value_set["expansion"].get("contains", ())]


def fault(outcome: dict[str, Any]) -> tuple[str, str]:
    assert outcome["resourceType"] == "OperationOutcome"
    return outcome["issue"][0]["code"], outcome["issue"][0]["diagnostics"]


class TestExpand:
    async def test_a_value_set_of_the_r4_package_by_url(self, client: httpx.AsyncClient) -> None:
        found = await get(client, "ValueSet/$expand", url=GENDERS)
        assert found["resourceType"] == "ValueSet"
        assert found["url"] == GENDERS
        assert found["expansion"]["total"] == 4
        assert "compose" not in found
        assert found["expansion"]["contains"][0] == {
            "system": GENDER,
            "version": "4.0.1",
            "code": "male",
            "display": "Male",
        }
        assert {"name": "version", "valueUri": f"{GENDER}|4.0.1"} in found["expansion"]["parameter"]

    async def test_a_stored_one_by_id_with_hierarchy_import_and_exclusion(self, client: httpx.AsyncClient) -> None:
        found = await get(client, "ValueSet/thorax/$expand")
        assert codes(found) == ["thoracic", "lung", "heart", "atrium", "male", "female", "other"]
        assert found["expansion"]["contains"][0]["abstract"] is True

    async def test_one_that_is_sent_along(self, client: httpx.AsyncClient) -> None:
        inline = {
            "resourceType": "ValueSet",
            "status": "draft",
            "compose": {
                "include": [
                    {"system": ORGANS, "filter": [{"property": "code", "op": "regex", "value": "h.*|l[n-z]+g"}]}
                ]
            },
        }
        for body in (inline, given(valueSet__resource=inline)):
            assert codes(await post(client, "ValueSet/$expand", body)) == ["lung", "heart"]

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ([("concept", "descendent-of", "thoracic")], ["lung", "heart", "atrium"]),
            ([("concept", "is-not-a", "thoracic")], ["thymus-old"]),
            ([("concept", "generalizes", "atrium")], ["thoracic", "heart", "atrium"]),
            ([("concept", "in", "lung,atrium")], ["lung", "atrium"]),
            ([("parent", "=", "thoracic")], ["lung", "heart"]),
            ([("paired", "=", "true")], ["lung"]),
            ([("paired", "exists", "false"), ("concept", "is-a", "heart")], ["heart", "atrium"]),
            ([("status", "not-in", "retired")], ["thoracic", "lung", "heart", "atrium"]),
            ([("display", "regex", ".*heart.*")], ["atrium"]),
        ],
    )
    async def test_filters(
        self, client: httpx.AsyncClient, filters: list[tuple[str, str, str]], expected: list[str]
    ) -> None:
        rows = [dict(zip(("property", "op", "value"), row, strict=True)) for row in filters]
        inline = {"resourceType": "ValueSet", "compose": {"include": [{"system": ORGANS, "filter": rows}]}}
        assert codes(await post(client, "ValueSet/$expand", {"status": "draft", **inline})) == expected

    async def test_text_filter_activity_and_parts(self, client: httpx.AsyncClient) -> None:
        everything = {"resourceType": "ValueSet", "status": "active", "compose": {"include": [{"system": ORGANS}]}}
        whole = await post(client, "ValueSet/$expand", everything)
        assert codes(whole) == ["thoracic", "lung", "heart", "atrium", "thymus-old"]
        assert whole["expansion"]["contains"][4]["inactive"] is True
        active = await post(client, "ValueSet/$expand?activeOnly=true&excludeNotForUI=true", everything)
        assert codes(active) == ["lung", "heart", "atrium"]
        part = await post(client, "ValueSet/$expand?offset=1&count=2", everything)
        assert (codes(part), part["expansion"]["total"], part["expansion"]["offset"]) == (["lung", "heart"], 5, 1)
        assert codes(await post(client, "ValueSet/$expand?filter=HEART+atri", everything)) == ["atrium"]
        assert codes(await post(client, "ValueSet/$expand?filter=coeur", everything)) == []
        assert codes(await post(client, "ValueSet/$expand?filter=herz", everything)) == ["heart"]

    async def test_words_of_other_languages(self, client: httpx.AsyncClient) -> None:
        found = await get(client, "ValueSet/thorax/$expand", displayLanguage="de", includeDesignations="true")
        heart = next(c for c in found["expansion"]["contains"] if c["code"] == "heart")
        assert heart["display"] == "Herz"
        assert [d["language"] for d in heart["designation"]] == ["fr", "de"]

    @pytest.mark.parametrize("name", ["doc-typecodes", "ucum-units", "body-site", "all-languages"])
    async def test_what_is_too_large_to_list_is_refused_by_name(self, client: httpx.AsyncClient, name: str) -> None:
        code, text = fault(await get(client, "ValueSet/$expand", 422, url=f"http://hl7.org/fhir/ValueSet/{name}"))
        assert code == "too-costly"
        assert "$validate-code" in text

    async def test_what_cannot_be_expanded_says_why(self, client: httpx.AsyncClient) -> None:
        assert fault(await get(client, "ValueSet/$expand", 404, url="http://nowhere.example"))[0] == "not-found"
        assert "url" in fault(await get(client, "ValueSet/$expand", 400))[1]
        assert "offset" in fault(await get(client, "ValueSet/$expand", 400, url=GENDERS, offset="-1"))[1]
        unknown = {"include": [{"system": "http://nobody.example/cs"}]}
        body = {"resourceType": "ValueSet", "status": "draft", "compose": unknown}
        assert fault(await post(client, "ValueSet/$expand", body, 422))[0] == "not-supported"
        loop = {"include": [{"valueSet": ["http://hospital.example/ValueSet/loop"]}]}
        stored = {"resourceType": "ValueSet", "id": "loop", "status": "draft", "compose": loop}
        await put(client, {**stored, "url": "http://hospital.example/ValueSet/loop"})
        assert "itself" in fault(await get(client, "ValueSet/loop/$expand", 400))[1]

    async def test_a_bad_pattern_and_a_bad_definition_are_refused(self, client: httpx.AsyncClient) -> None:
        pattern = [{"property": "code", "op": "regex", "value": "(["}]
        body = {"resourceType": "ValueSet", "compose": {"include": [{"system": ORGANS, "filter": pattern}]}}
        assert "regular expression" in fault(await post(client, "ValueSet/$expand", body, 400))[1]
        bad = {"resourceType": "ValueSet", "compose": {"include": "all"}}
        assert fault(await post(client, "ValueSet/$expand", bad, 400))

    async def test_versions_of_code_systems(self, client: httpx.AsyncClient) -> None:
        await get(client, "ValueSet/thorax/$expand", **{"check-system-version": f"{ORGANS}|2"})
        wrong = await get(client, "ValueSet/thorax/$expand", 422, **{"check-system-version": f"{ORGANS}|1"})
        assert fault(wrong)[0] == "not-supported"
        await get(client, "ValueSet/thorax/$expand", 422, **{"force-system-version": f"{ORGANS}|1"})


class TestLookup:
    async def test_a_code_of_ours_and_one_of_the_r4_package(self, client: httpx.AsyncClient) -> None:
        ours = out(await get(client, "CodeSystem/$lookup", system=OWN, code="ai-reading"))
        assert ours["display"] == "AI reading of an imaging study"
        theirs = await get(client, "CodeSystem/$lookup", system=V3_PRIORITY, code="CS")
        assert out(theirs) == {
            "name": "v3.ActPriority",
            "version": "2018-08-12",
            "display": "callback for scheduling",
        }
        parts = [p["part"] for p in theirs["parameter"] if p["name"] == "property"]
        children = [p[1]["valueCode"] for p in parts if p[0]["valueCode"] == "child"]
        assert children == ["CSP", "CSR"]

    async def test_a_code_newer_than_the_package_is_added_to_its_system(self, client: httpx.AsyncClient) -> None:
        system = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
        assert out(await get(client, "CodeSystem/$lookup", system=system, code="AIAST"))["display"]
        assert out(await get(client, "CodeSystem/$lookup", system=system, code="A1"))["display"]

    async def test_by_coding_and_only_the_properties_asked_for(self, client: httpx.AsyncClient) -> None:
        body = given(coding__valueCoding={"system": ORGANS, "code": "HEART"}, property__valueCode="parent")
        found = await post(client, "CodeSystem/$lookup", body)
        assert out(found)["display"] == "Heart"
        assert [p for p in found["parameter"] if p["name"] in ("property", "designation")] == [
            {
                "name": "property",
                "part": [
                    {"name": "code", "valueCode": "parent"},
                    {"name": "value", "valueCode": "thoracic"},
                    {"name": "description", "valueString": "Organ of the thorax"},
                ],
            }
        ]

    async def test_what_is_not_there(self, client: httpx.AsyncClient) -> None:
        assert fault(await get(client, "CodeSystem/$lookup", 404, system=ORGANS, code="tail"))[0] == "not-found"
        assert (
            fault(await get(client, "CodeSystem/$lookup", 404, system="http://loinc.org", code="1"))[0] == "not-found"
        )
        assert "code" in fault(await get(client, "CodeSystem/$lookup", 400, system=ORGANS))[1]


class TestValidateCode:
    @pytest.mark.parametrize(
        ("params", "result", "word"),
        [
            ({"code": "heart"}, True, ""),
            ({"code": "HEART"}, True, ""),
            ({"code": "heart", "display": "heart"}, True, ""),
            ({"code": "heart", "display": "Herz"}, True, ""),
            ({"code": "heart", "display": "Kidney"}, False, "'Heart'"),
            ({"code": "kidney"}, False, "no code of"),
            ({"code": "thoracic"}, True, ""),
            ({"code": "thoracic", "abstract": "false"}, False, "abstract"),
            ({"code": "thymus-old"}, True, "no longer active"),
        ],
    )
    async def test_in_a_code_system(
        self, client: httpx.AsyncClient, params: dict[str, str], result: bool, word: str
    ) -> None:
        for path, more in (("CodeSystem/$validate-code", {"url": ORGANS}), ("CodeSystem/organs/$validate-code", {})):
            found = out(await get(client, path, **params, **more))
            assert found["result"] is result
            assert word in found.get("message", "")

    @pytest.mark.parametrize(
        ("system", "code", "result", "word"),
        [
            (ORGANS, "lung", True, ""),
            (ORGANS, "thymus-old", False, "not in the value set"),
            (ORGANS, "tail", False, "nor a code of"),
            (GENDER, "male", True, ""),
            (GENDER, "unknown", False, "not in the value set"),
            ("", "male", True, ""),
            ("", "unknown", False, "name its system"),
        ],
    )
    async def test_in_a_value_set(
        self, client: httpx.AsyncClient, system: str, code: str, result: bool, word: str
    ) -> None:
        params = {"code": code, **({"system": system} if system else {})}
        found = out(await get(client, "ValueSet/thorax/$validate-code", **params))
        assert found["result"] is result
        assert word in found.get("message", "")

    async def test_a_concept_is_right_when_one_of_its_codings_is(self, client: httpx.AsyncClient) -> None:
        value = {"coding": [{"system": "http://loinc.org", "code": "x"}, {"system": ORGANS, "code": "lung"}]}
        body = given(
            url__valueUri="http://hospital.example/ValueSet/thorax", codeableConcept__valueCodeableConcept=value
        )
        assert out(await post(client, "ValueSet/$validate-code", body)) == {"result": True, "display": "Lung"}

    async def test_a_coding_without_a_system_means_nothing(self, client: httpx.AsyncClient) -> None:
        body = given(coding__valueCoding={"code": "male"})
        assert out(await post(client, "ValueSet/thorax/$validate-code", body))["result"] is False

    async def test_a_concept_with_a_code_that_does_not_exist_is_wrong(self, client: httpx.AsyncClient) -> None:
        value = {"coding": [{"system": ORGANS, "code": "tail"}, {"system": ORGANS, "code": "lung"}]}
        body = given(codeableConcept__valueCodeableConcept=value)
        found = out(await post(client, "ValueSet/thorax/$validate-code", body))
        assert (found["result"], "tail" in found["message"]) == (False, True)

    @pytest.mark.parametrize(("version", "result"), [("2", True), ("1", False), ("x", True)])
    async def test_a_code_of_another_version_is_not_the_same(
        self, client: httpx.AsyncClient, version: str, result: bool
    ) -> None:
        params = {"system": ORGANS, "code": "lung", "systemVersion": version}
        assert out(await get(client, "ValueSet/thorax/$validate-code", **params))["result"] is result

    async def test_a_code_missing_from_a_fragment_is_doubtful_not_wrong(self, client: httpx.AsyncClient) -> None:
        system = "http://hl7.org/fhir/uv/aitransparency/CodeSystem/AIdeviceTypeCS"
        inline = {"resourceType": "ValueSet", "status": "draft", "compose": {"include": [{"system": system}]}}
        body = given(valueSet__resource=inline, system__valueUri=system, code__valueCode="Other")
        found = out(await post(client, "ValueSet/$validate-code", body))
        assert (found["result"], "fragment" in found["message"]) == (True, True)

    async def test_a_value_set_within_a_value_set(self, client: httpx.AsyncClient) -> None:
        inner = {
            "resourceType": "ValueSet",
            "id": "in",
            "status": "draft",
            "compose": {"include": [{"system": GENDER}]},
        }
        outer = {"resourceType": "ValueSet", "status": "draft", "contained": [inner]}
        outer |= {"compose": {"include": [{"valueSet": ["#in"]}]}}
        assert codes(await post(client, "ValueSet/$expand", outer)) == ["male", "female", "other", "unknown"]

    async def test_a_code_of_a_system_that_is_not_held_is_not_called_good(self, client: httpx.AsyncClient) -> None:
        url = "http://hl7.org/fhir/ValueSet/observation-codes"
        found = out(await get(client, "ValueSet/$validate-code", url=url, system="http://loinc.org", code="8867-4"))
        assert found["result"] is False
        assert "not held" in found["message"]

    @pytest.mark.parametrize(
        ("value_set", "system", "code", "result"),
        [
            ("ucum-units", "http://unitsofmeasure.org", "mmol/L", True),
            ("ucum-units", "http://unitsofmeasure.org", "10*3/uL", True),
            ("ucum-units", "http://unitsofmeasure.org", "mg//dL", False),
            ("ucum-units", "http://unitsofmeasure.org", "spoon", False),
            ("mimetypes", "urn:ietf:bcp:13", "application/dicom+json", True),
            ("mimetypes", "urn:ietf:bcp:13", "text/plain; charset=utf-8", True),
            ("mimetypes", "urn:ietf:bcp:13", "picture", False),
            ("all-languages", "urn:ietf:bcp:47", "de-CH-1996", True),
            ("all-languages", "urn:ietf:bcp:47", "german language", False),
        ],
    )
    async def test_codes_that_a_grammar_tells(
        self, client: httpx.AsyncClient, value_set: str, system: str, code: str, result: bool
    ) -> None:
        params = {"url": f"http://hl7.org/fhir/ValueSet/{value_set}", "system": system, "code": code}
        assert out(await get(client, "ValueSet/$validate-code", **params))["result"] is result
        assert out(await get(client, "CodeSystem/$validate-code", url=system, code=code))["result"] is result

    async def test_a_listed_code_of_a_system_that_is_not_held_is_good(self, client: httpx.AsyncClient) -> None:
        url = "http://hl7.org/fhir/ValueSet/units-of-time"
        params = {"url": url, "system": "http://unitsofmeasure.org", "code": "min"}
        assert out(await get(client, "ValueSet/$validate-code", **params))["result"] is True


class TestSubsumes:
    @pytest.mark.parametrize(
        ("a", "b", "outcome"),
        [
            ("thoracic", "atrium", "subsumes"),
            ("atrium", "heart", "subsumed-by"),
            ("heart", "Heart", "equivalent"),
            ("heart", "lung", "not-subsumed"),
        ],
    )
    async def test_outcomes(self, client: httpx.AsyncClient, a: str, b: str, outcome: str) -> None:
        found = out(await get(client, "CodeSystem/$subsumes", system=ORGANS, codeA=a, codeB=b))
        assert found == {"outcome": outcome}
        body = given(
            codingA__valueCoding={"system": ORGANS, "code": a}, codingB__valueCoding={"code": b, "system": ORGANS}
        )
        assert out(await post(client, "CodeSystem/organs/$subsumes", body)) == {"outcome": outcome}

    async def test_what_cannot_be_compared(self, client: httpx.AsyncClient) -> None:
        assert await get(client, "CodeSystem/$subsumes", 404, system=ORGANS, codeA="tail", codeB="heart")
        assert await get(client, "CodeSystem/$subsumes", 400, codeA="lung", codeB="heart")
        assert await get(client, "CodeSystem/$subsumes", 400, system=ORGANS, codeA="lung")


class TestTranslate:
    async def test_a_code_of_a_stored_map_both_ways(self, client: httpx.AsyncClient) -> None:
        url = "http://hospital.example/ConceptMap/organs"
        found = await get(client, "ConceptMap/$translate", url=url, system=ORGANS, code="lung")
        assert out(found)["result"] is True
        (match,) = [p["part"] for p in found["parameter"] if p["name"] == "match"]
        assert match == [
            {"name": "equivalence", "valueCode": "equivalent"},
            {
                "name": "concept",
                "valueCoding": {"system": "http://snomed.info/sct", "code": "39607008", "display": "Lung"},
            },
            {"name": "source", "valueUri": url},
        ]
        params = {"system": "http://snomed.info/sct", "code": "80891009", "reverse": "true"}
        back = await get(client, "ConceptMap/organ-map/$translate", **params)
        (match,) = [p["part"] for p in back["parameter"] if p["name"] == "match"]
        assert match[0]["valueCode"] == "narrower"
        assert match[1]["valueCoding"] == {"system": ORGANS, "code": "heart"}

    async def test_no_counterpart_and_what_the_map_does_not_list(self, client: httpx.AsyncClient) -> None:
        none = await get(client, "ConceptMap/organ-map/$translate", system=ORGANS, code="atrium")
        assert out(none)["result"] is False
        fixed = await get(client, "ConceptMap/organ-map/$translate", system=ORGANS, code="thymus-old")
        assert fixed["parameter"][1]["part"][1]["valueCoding"]["code"] == "113343008"

    async def test_every_shipped_map_between_two_value_sets(self, client: httpx.AsyncClient) -> None:
        params = {"source": GENDERS, "target": "http://terminology.hl7.org/ValueSet/v3-AdministrativeGender"}
        found = await get(client, "ConceptMap/$translate", system=GENDER, code="male", **params)
        concept = next(p["part"][1]["valueCoding"] for p in found["parameter"] if p["name"] == "match")
        assert (concept["system"], concept["code"]) == (
            "http://terminology.hl7.org/CodeSystem/v3-AdministrativeGender",
            "M",
        )

    async def test_what_is_not_there(self, client: httpx.AsyncClient) -> None:
        assert await get(client, "ConceptMap/$translate", 404, url="http://nowhere.example", system=ORGANS, code="a")
        nothing = out(await get(client, "ConceptMap/$translate", system="http://nobody.example", code="a"))
        assert nothing["result"] is False


class TestCalling:
    async def test_an_operation_that_is_not_here_is_not_found(self, client: httpx.AsyncClient) -> None:
        for path in ("$expand", "ValueSet/$explode", "Patient/$expand", "Nothing/$validate", "ValueSet/$translate"):
            assert fault(await get(client, path, 404))[0] == "not-found", path
        assert "level" in fault(await get(client, "CodeSystem/organs/$lookup", 404))[1]

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ({"count": "many"}, "count"),
            ({"activeOnly": "yes"}, "activeOnly"),
            ({"valueSet": "x"}, "valueSet"),
            ({"context": "x"}, "context"),
            ({"url": ""}, "url"),
            ({"url": ["http://a.example", "http://b.example"]}, "url"),
        ],
    )
    async def test_a_wrong_parameter_is_named(
        self, client: httpx.AsyncClient, query: dict[str, Any], name: str
    ) -> None:
        assert name in fault(await get(client, "ValueSet/$expand", 400, **query))[1]

    @pytest.mark.parametrize(
        "body",
        [
            given(count__valueString="many"),
            given(count__valueBoolean=True),
            given(valueSet__valueString="x"),
            given(valueSet__resource={"resourceType": "Patient"}),
            {"resourceType": "Parameters", "parameter": "all"},
            {"resourceType": "Parameters", "parameter": [{"valueString": "x"}]},
            {"resourceType": "Patient"},
        ],
    )
    async def test_a_wrong_body_is_refused(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        assert fault(await post(client, "ValueSet/$expand", body, 400))

    async def test_only_get_and_post(self, client: httpx.AsyncClient) -> None:
        answer = await client.delete(f"{BASE}/ValueSet/$expand")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")

    async def test_a_reader_without_the_scope_is_refused(self, client: httpx.AsyncClient) -> None:
        other = {"Authorization": "Bearer observations"}
        answer = await client.get(f"{BASE}/ValueSet/$expand", params={"url": GENDERS}, headers=other)
        assert answer.status_code == 403
        assert (await client.get(f"{BASE}/ValueSet/$expand", headers={"Authorization": ""})).status_code == 401

    async def test_each_call_is_audited(self, client: httpx.AsyncClient, module_database: Database) -> None:
        before = len(await audits(module_database))
        await get(client, "ValueSet/$expand", url=GENDERS)
        await get(client, "ValueSet/$expand", 404, url="http://nowhere.example")
        good, bad = (await audits(module_database))[before:]
        assert good["subtype"][0]["code"] == bad["subtype"][0]["code"] == "operation"
        assert (good["outcome"], bad["outcome"]) == ("0", "4")
