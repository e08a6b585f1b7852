"""R4 resources as XML and back (FHIR R4 xml.html 2.6.0): nothing lost, nothing unknown let in, nothing fetched."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from wetread.errors import InvalidInput, NotAcceptable, TooLarge
from wetread.record import lossless
from wetread.record.structures import all_resource_types
from wetread.record.xml_form import to_json, to_xml

DATA = Path(__file__).parents[2] / "data/fhir"
DIV = '<div xmlns="http://www.w3.org/1999/xhtml">'


def texts(archive: str) -> dict[str, str]:
    """The files of an archive by the name of the example."""
    with tarfile.open(DATA / archive) as files:
        return {Path(m.name).stem: s.read().decode("utf-8-sig") for m in files if (s := files.extractfile(m))}


def same_whatever_the_blanks(value: Any, name: str = "") -> Any:
    """XML turns line ends in attributes into blanks (XML 1.0 3.3.3). Narratives are compared by their elements."""
    match value:
        case dict():
            return {key: same_whatever_the_blanks(member, key) for key, member in value.items() if key != "meta"}
        case list():
            return [same_whatever_the_blanks(member) for member in value]
        case str() if name == "div":
            return " ".join(ElementTree.canonicalize(value, strip_text=True).split())
        case str():
            return " ".join(value.split())
    return value


def patient(inside: str, attributes: str = "") -> str:
    return f'<Patient xmlns="http://hl7.org/fhir"{attributes}>{inside}</Patient>'


def test_every_official_example_survives_the_way_to_xml_and_back_digit_for_digit() -> None:
    examples = texts("examples.tar.xz")
    differ = [
        name
        for name, text in examples.items()
        if lossless.canonical(lossless.parse(to_json(to_xml(text)))) != lossless.canonical(lossless.parse(text))
    ]
    assert (len(examples), differ) == (604, [])


def test_the_xml_that_hl7_published_gives_the_json_that_hl7_published() -> None:
    published, theirs = texts("examples-xml.tar.xz"), texts("examples.tar.xz")
    types, differ = set(), []
    for name, xml in published.items():
        ours, wanted = lossless.parse(to_json(xml)), lossless.parse(theirs[name])
        types.add(wanted["resourceType"])
        if lossless.canonical(same_whatever_the_blanks(ours)) != lossless.canonical(same_whatever_the_blanks(wanted)):
            differ.append(name)
    assert differ == []
    assert len(types) > 130
    assert types <= all_resource_types()


def test_our_xml_of_the_json_that_hl7_published_is_the_xml_that_hl7_published() -> None:
    """Element by element in the same order, each with its attributes and text."""
    theirs, differ = texts("examples.tar.xz"), []

    def outline(xml: str) -> list[tuple[str, dict[str, str], list[str]]]:
        tree = ElementTree.fromstring(xml.encode())
        for parent in list(tree.iter()):
            for meta in parent.findall("{http://hl7.org/fhir}meta"):
                parent.remove(meta)
        tree.attrib.pop("{http://www.w3.org/2001/XMLSchema-instance}schemaLocation", None)
        return [
            (
                e.tag,
                {name: " ".join(value.split()) for name, value in e.items()},
                f"{e.text or ''} {e.tail or ''}".split(),
            )
            for e in tree.iter()
        ]

    published = texts("examples-xml.tar.xz")
    for name, xml in published.items():
        if outline(to_xml(theirs[name])) != outline(xml):
            differ.append(name)
    assert (len(published), differ) == (220, [])


@pytest.mark.parametrize("digits", ["1.0", "0.00", "-0.10", "1.0E+2", "100", "3.14159265358979323846264338327950288"])
def test_a_decimal_keeps_its_digits(digits: str) -> None:
    json = f'{{"resourceType":"Observation","valueQuantity":{{"value":{digits}}}}}'
    assert f'<value value="{digits}"/>' in to_xml(json)
    assert to_json(to_xml(json)) == json


@pytest.mark.parametrize(
    "content",
    [
        '"name":[{"given":["a",null,"c"],"_given":[null,{"id":"g"},{"extension":[{"url":"u","valueCode":"v"}]}]}]',
        '"_birthDate":{"extension":[{"url":"http://example.org/x","valueDateTime":"2020"}]}',
        '"id":"p","_id":{"extension":[{"url":"u","valueString":"v"}]}',
        '"contained":[{"resourceType":"Organization","id":"o"}],"managingOrganization":{"reference":"#o"}',
        '"name":[{"id":"n1","text":"tab\\tline\\nreturn\\r<&>\\"\'"}]',
        '"extension":[{"id":"e","url":"u","extension":[{"url":"v","valueBoolean":false}]}]',
        '"text":{"status":"generated","div":"<div xmlns=\\"http://www.w3.org/1999/xhtml\\">\\r\\n a&lt;b</div>"}',
        '"text":{"div":"<h:div xmlns:h=\\"http://www.w3.org/1999/xhtml\\"><h:p a=\\">\\"/></h:div>"}',
    ],
)
def test_what_is_peculiar_survives(content: str) -> None:
    json = f'{{"resourceType":"Patient",{content}}}'
    for pretty in (False, True):
        back = to_json(to_xml(json, pretty=pretty))
        assert lossless.canonical(lossless.parse(back)) == lossless.canonical(lossless.parse(json))


def test_resources_stand_in_bundles_and_parameters() -> None:
    inner = (
        '{"resourceType":"Parameters","parameter":[{"name":"r","resource":{"resourceType":"Binary","data":"AA=="}}]}'
    )
    json = f'{{"resourceType":"Bundle","type":"collection","entry":[{{"fullUrl":"u","resource":{inner}}}]}}'
    assert to_json(to_xml(json)) == json
    assert "<resource><Binary><data" in to_xml(json)


def test_prefixes_and_schema_hints_are_read() -> None:
    hints = 'xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:schemaLocation="http://hl7.org/fhir patient.xsd"'
    xml = f"""<?xml version="1.0"?><!-- made elsewhere --><f:Patient xmlns:f="http://hl7.org/fhir" {hints}
        xmlns:h="http://www.w3.org/1999/xhtml"><f:text><f:status value="generated"/><h:div><h:p>x</h:p></h:div></f:text>
        <f:active value="true"/></f:Patient>"""
    content = lossless.parse(to_json(xml))
    assert content["active"] is True
    div = content["text"]["div"]
    assert ElementTree.fromstring(div).tag == "{http://www.w3.org/1999/xhtml}div"
    assert lossless.parse(to_json(to_xml(to_json(xml)))) == content


@pytest.mark.parametrize(
    ("xml", "told", "where"),
    [
        (patient('<colour value="red"/>'), "no such element", "Patient.colour"),
        (patient('<name><given value="a"/><givn value="b"/></name>'), "no such element", "Patient.name[0].givn"),
        (patient('<x:active xmlns:x="urn:x" value="true"/>'), "no such element", "Patient.active"),
        (patient('<active value="true" colour="red"/>'), "no such attribute", "Patient.active/@colour"),
        (patient('<name value="x"/>'), "no such attribute", "Patient.name[0]/@value"),
        (patient("<name><id value='n'/></name>"), "no such element", "Patient.name[0].id"),
        (patient("<active>true</active>"), "holds text", "Patient.active"),
        (patient('<active value="yes"/>'), "true or false", "Patient.active"),
        (patient('<multipleBirthInteger value="1.0"/>'), "not a number", "Patient.multipleBirthInteger"),
        (patient('<multipleBirthInteger value="01"/>'), "not a number", "Patient.multipleBirthInteger"),
        (patient('<active value="true"/><active value="true"/>'), "given twice", "Patient.active"),
        (patient('<gender value="male"/><active value="true"/>'), "puts behind", "Patient.active"),
        (patient("<name/>"), "is empty", "Patient.name[0]"),
        (patient("<active/>"), "neither a value", "Patient.active"),
        (patient("<contained><Cat/></contained>"), "no such resource", "Patient.contained[0]"),
        (patient("<contained/>"), "one resource", "Patient.contained[0]"),
        (patient('<text><div value="x"/></text>'), "namespace of XHTML", "Patient.text.div"),
        (patient(f"<text>{DIV}</div></text>"), "narrative is empty", "Patient.text.div"),
        (patient(f"{DIV}x</div>"), "no such element", "Patient.div"),
        ('<Patient xmlns="urn:other"/>', "no R4 resource", "/*"),
        ('<Cat xmlns="http://hl7.org/fhir"/>', "no R4 resource", "/*"),
        ('<HumanName xmlns="http://hl7.org/fhir"/>', "no R4 resource", "/*"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?>' + patient(""), "another encoding", "/"),
    ],
)
def test_what_r4_does_not_know_is_refused_with_its_place(xml: str, told: str, where: str) -> None:
    with pytest.raises(InvalidInput, match=told) as refused:
        to_json(xml)
    assert refused.value.location == where


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "xml",
    [
        f'<!DOCTYPE p [<!ENTITY l0 "ha">{LAUGHS}]>' + patient('<id value="&l9;"/>'),
        '<!DOCTYPE p [<!ENTITY x SYSTEM "file:///etc/hostname">]>' + patient('<id value="&x;"/>'),
        '<!DOCTYPE p [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x.dtd"> %x;]>' + patient(""),
        '<!DOCTYPE Patient SYSTEM "http://127.0.0.1:9/x.dtd">' + patient(""),
        "<!DOCTYPE Patient>" + patient(""),
    ],
)
def test_no_document_type_is_taken(xml: str) -> None:
    with pytest.raises(InvalidInput, match="document type"):
        to_json(xml)


@pytest.mark.parametrize(
    "xml",
    [
        patient(f"<text><status value='generated'/>{DIV}" + "<b>" * 100_000),
        patient("<extension url='u'>" * 100_000),
        patient("<extension url='u'>" * 150 + "<valueCode value='x'/>" + "</extension>" * 150) + "<",
        patient("&nbsp;"),
        patient("<active"),
        "<Patient",
        "",
        "\ud800",
    ],
)
def test_what_is_malformed_or_too_deep_is_refused(xml: str) -> None:
    with pytest.raises(InvalidInput, match=r"not XML|too deeply"):
        to_json(xml)


def test_too_many_elements_are_refused() -> None:
    with pytest.raises(TooLarge):
        to_json(patient("<name/>" * 500_000))


def test_a_narrative_amid_many_namespaces_is_read_in_time_that_grows_with_its_length() -> None:
    spaces = "".join(f' xmlns:p{n}="urn:p{n}"' for n in range(5000))
    divs = "".join(
        f"<contained><Patient><text>{DIV}a:b {'c ' * 50}</div></text></Patient></contained>" for _ in range(500)
    )
    content = lossless.parse(to_json(patient(divs, spaces)))
    assert content["contained"][0]["text"]["div"].startswith(f"{DIV}a:b c")


@pytest.mark.parametrize(
    "content",
    [
        '"name":[{"text":"\\u0007"}]',
        '"colour":"red"',
        '"name":["x"]',
        '"name":{"text":"x"}',
        '"active":{"value":true}',
        '"text":{"status":"generated","div":"<div>x</div>"}',
        '"text":{"status":"generated","div":"<div xmlns=\\"http://www.w3.org/1999/xhtml\\"></div></text>"}',
        '"text":{"status":"generated","div":"<!DOCTYPE x><div xmlns=\\"http://www.w3.org/1999/xhtml\\"/>"}',
        '"text":{"status":"generated","div":"\\ufeff<?xml version=\\"1.0\\"?><div xmlns=\\"http://www.w3.org/1999/xhtml\\"/>"}',
        '"text":{"status":"generated","div":"<?xml version=\\"1.0\\"?><div xmlns=\\"http://www.w3.org/1999/xhtml\\"/>"}',
    ],
)
def test_what_xml_cannot_hold_is_told_and_never_breaks_the_document(content: str) -> None:
    with pytest.raises(NotAcceptable):
        to_xml(f'{{"resourceType":"Patient",{content}}}')
