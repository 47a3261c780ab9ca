"""Answers made ready beforehand say what one made at once would say."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon_answers import ReadyAnswer, accepts_gzip, to_json

values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
content = st.recursive(
    values | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
members = st.dictionaries(st.text(min_size=1), content, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(min_size=1), content, min_size=1, max_size=4), st.lists(content), members)
def test_head_items_and_rest_are_one_object_plain_and_gzipped(
    head: dict[str, Any], items: list[Any], rest: dict[str, Any]
) -> None:
    expected = json.loads(json.dumps({**head, "items": items, **rest}))
    ready = ReadyAnswer("items", [to_json(item) for item in items], rest)
    for _ in range(2):  # the second one comes from the cache
        assert json.loads(ready.plain(head)) == expected
        assert gzip.decompress(ready.gzipped(head)) == ready.plain(head)


def test_a_new_head_is_not_answered_from_the_cache() -> None:
    ready = ReadyAnswer("items", [b"1"])
    assert [json.loads(gzip.decompress(ready.gzipped({"age": age})))["age"] for age in (1, 1, 2, 1)] == [1, 1, 2, 1]


def test_what_json_does_not_have_becomes_null() -> None:
    assert to_json([float("nan"), float("inf"), 1.5]) == b"[null,null,1.5]"


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("gzip", True),
        ("br;q=1.0, GZIP;q=0.5", True),
        ("*", True),
        ("deflate, x-gzip", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, br", False),
        ("gzipped", False),
    ],
)
def test_gzip_is_sent_to_those_who_accept_it(header: str, allowed: bool) -> None:
    assert accepts_gzip(header) is allowed
