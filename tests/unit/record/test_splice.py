from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wetread.errors import InvalidInput
from wetread.record import lossless, splice

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
META = '"meta":{"versionId":"7","lastUpdated":"2026-01-02T03:04:05.678Z"}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"resourceType":"Basic"}', '{"resourceType":"Basic","id":"x",' + META + "}"),
        ('{"code":{},"resourceType":"Basic"}', '{"id":"x",' + META + ',"code":{},"resourceType":"Basic"}'),
        ("{ }", '{"id":"x",' + META + " }"),
        (
            '{"resourceType":"Basic", "id" : "old"\n, "n":1.00}',
            '{"resourceType":"Basic",' + META + ', "id" : "x"\n, "n":1.00}',
        ),
        (
            '{"meta":{"versionId":"1","tag":[{"code":"\u00e9"}]},"id":"old","id2":"id"}',
            '{"meta":{"versionId":"7","tag":[{"code":"\u00e9"}],"lastUpdated":"2026-01-02T03:04:05.678Z"},"id":"x","id2":"id"}',
        ),
    ],
)
def test_identity_is_spliced_in_and_the_rest_stays(text: str, expected: str) -> None:
    assert splice.with_identity(text, "x", 7, AT) == expected


names = st.sampled_from(["id", "meta", "resourceType", "text", "a\\b", 'q"', "é"])
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, values, max_size=5), st.dictionaries(texts, values, max_size=3))
def test_whatever_the_content_only_the_identity_changes(content: dict[str, Any], meta: dict[str, Any]) -> None:
    content = {**content, "meta": meta}
    text = splice.with_identity(lossless.dump(content), "x", 7, AT)
    wanted = {**content, "id": "x", "meta": {**meta, "versionId": "7", "lastUpdated": splice.instant(AT)}}
    assert lossless.canonical(json.loads(text, parse_float=lossless.Decimal)) == lossless.canonical(wanted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "null",
        '"a"',
        '{"a":1,}',
        '{"a":1,"a":2}',
        '{"a":Infinity}',
        '{"a":"\\u0000"}',
        '{"a":"\\udc00"}',
        "{" * 9999,
        '{"a":' + "9" * 5000 + "}",
        '{"a":' + "[" * 200 + "]" * 200 + "}",
    ],
)
def test_what_readers_would_disagree_on_is_not_accepted(text: str) -> None:
    with pytest.raises(InvalidInput):
        lossless.parse(text)


def test_escapes_of_real_characters_are_accepted() -> None:
    assert lossless.parse('{"a":"\\ud83d\\ude00"}') == {"a": "😀"}
