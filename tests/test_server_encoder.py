"""Are server ids stable, distinct and reversible, whoever comes and goes, and are bad mapping files refused?"""

from __future__ import annotations

import hashlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import server_encoder
from data_contract import ContractError, UnknownServerIdError
from server_encoder import ServerEncoder, hash_id

# Pairs of real names that ask for the same id.
COLLIDING = [("ppweb818", "ppweb953"), ("ppml0014", "ppdb261")]

server_names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30)
fleets = st.lists(server_names, max_size=40)


def encoder_of(names) -> ServerEncoder:
    encoder = ServerEncoder()
    encoder.create_mapping(names)
    return encoder


def test_the_formula_is_that_of_the_specification():
    assert hash_id("ppvra00a01") == "242378" and hash_id("pprva00a01") == "957601"
    digest = hashlib.sha256(b"ppweb001").hexdigest()
    assert hash_id("ppweb001") == str(int(digest[:8], 16) % 1_000_000)
    assert encoder_of(["ppweb001"]).encode("ppweb001") == hash_id("ppweb001")


def test_a_hundred_thousand_names_have_distinct_ids_that_decode_to_them():
    names = [f"ppweb{number:03d}" for number in range(60_000)] + [
        f"srv-{number}.example.org" for number in range(40_000)
    ]
    encoder = encoder_of(names)
    ids = encoder.name_to_id
    assert len(ids) == len(set(ids.values())) == len(encoder) == 100_000
    assert all(encoder.decode(encoder.encode(name)) == name for name in names)
    assert all(server_id.isdigit() and int(server_id) < 1_000_000 for server_id in ids.values())
    moved = sum(server_id != hash_id(name) for name, server_id in ids.items())
    assert 0 < moved < 10_000  # names that asked for a taken id; the others have the formula's


@pytest.mark.parametrize("pair", COLLIDING)
def test_real_collisions_get_two_ids_in_any_order(pair):
    assert hash_id(pair[0]) == hash_id(pair[1])
    encoder = encoder_of(pair)
    assert encoder.encode(pair[0]) != encoder.encode(pair[1])
    assert encoder.name_to_id == encoder_of(reversed(pair)).name_to_id
    assert encoder.encode(min(pair)) == hash_id(min(pair))  # the one that sorts first keeps the formula's id


@pytest.mark.parametrize("pair", COLLIDING)
def test_a_server_keeps_its_id_when_one_that_asks_for_the_same_comes_or_goes(pair):
    later = max(pair)
    encoder = encoder_of([later])
    assert encoder.encode(later) == hash_id(later)
    encoder.create_mapping(pair)
    assert encoder.encode(later) == hash_id(later) and encoder.decode(encoder.encode(min(pair))) == min(pair)


@settings(max_examples=100, deadline=None)
@given(first=fleets, second=fleets)
def test_ids_never_change_when_names_are_added(first, second):
    encoder = encoder_of(first)
    before = encoder.name_to_id
    encoder.create_mapping(second)
    after = encoder.name_to_id
    assert before.items() <= after.items()
    assert len(set(after.values())) == len(after) == len({*first, *second})
    assert all(encoder.decode(server_id) == name for name, server_id in after.items())


@settings(max_examples=50, deadline=None)
@given(names=fleets, seed=st.randoms(use_true_random=False))
def test_the_order_of_the_names_does_not_matter(names, seed: random.Random):
    shuffled = [*names, *names[:3]]
    seed.shuffle(shuffled)
    assert encoder_of(names).name_to_id == encoder_of(shuffled).name_to_id


@settings(max_examples=50, deadline=None)
@given(names=fleets)
def test_a_mapping_survives_its_file(names, tmp_path_factory):
    path = tmp_path_factory.mktemp("mapping") / "server_mapping.json"
    encoder = encoder_of(names)
    encoder.save_mapping(path)
    loaded = ServerEncoder(path)
    assert loaded.name_to_id == encoder.name_to_id
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {"name_to_id", "id_to_name"}
    assert content["id_to_name"] == {server_id: name for name, server_id in content["name_to_id"].items()}


@settings(max_examples=100, deadline=None)
@given(names=fleets, unknown=server_names)
def test_an_unknown_name_has_a_stable_id_that_is_no_known_server_s(names, unknown):
    known = [name for name in names if name != unknown]
    encoder = encoder_of(known)
    server_id = encoder.encode(unknown)
    assert server_id == encoder.encode(unknown)
    assert unknown not in encoder and len(encoder) == len(set(known))
    assert server_id not in encoder.name_to_id.values()
    with pytest.raises(UnknownServerIdError):
        encoder.decode(server_id)
    encoder.create_mapping([unknown])
    assert encoder.encode(unknown) == server_id


def test_an_unknown_name_that_asks_for_a_known_server_s_id_is_not_taken_for_it():
    known, unknown = COLLIDING[0]
    encoder = encoder_of([known])
    assert encoder.encode(unknown) != encoder.encode(known)


def test_an_id_of_no_server_says_what_to_do():
    with pytest.raises(UnknownServerIdError) as caught:
        ServerEncoder().decode("242378")
    assert "242378" in str(caught.value) and "UNKNOWN_SERVER_HANDLING" in str(caught.value)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_unusable_names_are_refused_and_leave_the_mapping_as_it_was(name):
    encoder = encoder_of(["ppweb001"])
    with pytest.raises(ContractError):
        encoder.create_mapping(["ppweb002", name])
    assert len(encoder) == 1


def test_more_names_than_ids_are_refused(monkeypatch):
    monkeypatch.setattr(server_encoder, "ID_SPACE", 50)
    encoder = encoder_of(f"ppweb{number:03d}" for number in range(50))
    assert sorted(map(int, encoder.name_to_id.values())) == list(range(50))
    with pytest.raises(ContractError, match="do not fit"):
        encoder.create_mapping(["one too many"])


def test_the_mapping_that_is_handed_out_is_a_copy():
    encoder = encoder_of(["ppweb001"])
    encoder.name_to_id.clear()
    assert len(encoder) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"name_to_id": {}}',
        b'{"name_to_id": [], "id_to_name": {}}',
        b'{"name_to_id": {"a": "1"}, "id_to_name": {}}',
        b'{"name_to_id": {"a": "1"}, "id_to_name": {"1": "b"}}',
        b'{"name_to_id": {"a": "1", "b": "1"}, "id_to_name": {"1": "b"}}',
        b'{"name_to_id": {"a": "1"}, "id_to_name": {"1": "a", "2": "a"}}',
        b'{"name_to_id": {"a": "x"}, "id_to_name": {"x": "a"}}',
        b'{"name_to_id": {"a": "1000000"}, "id_to_name": {"1000000": "a"}}',
        b'{"name_to_id": {"a": "007"}, "id_to_name": {"007": "a"}}',
        b'{"name_to_id": {"a": "-1"}, "id_to_name": {"-1": "a"}}',
        b"[" * 100_000,
    ],
)
def test_corrupt_mapping_files_are_refused_with_their_path(tmp_path, content):
    path = tmp_path / "server_mapping.json"
    path.write_bytes(content)
    with pytest.raises(ContractError) as caught:
        ServerEncoder(path)
    assert str(path) in caught.value.what and caught.value.fix


def test_a_missing_mapping_file_is_refused_with_its_path(tmp_path):
    with pytest.raises(ContractError, match="absent"):
        ServerEncoder(tmp_path / "absent.json")
