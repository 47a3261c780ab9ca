"""API keys on disk and in a running daemon: made, revoked, expired, re-read, and never lost to a damaged file."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

import api_keys
from api_keys import SCOPES, KeyRing, create_key, list_keys, revoke_key
from common_utils import utc_now
from data_contract import ApiKeyError

ROOT = Path(api_keys.__file__).parent


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api_keys.json"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def change(path: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    edit(content["keys"][0])
    path.write_text(json.dumps(content))


# -------------------------------------------------------------------------------------------------------------- on disk
def test_a_key_is_256_random_bits_and_only_its_hash_is_kept(path: Path) -> None:
    keys = [create_key(path, "dashboard", "read")[0] for _ in range(3)]
    assert len(set(keys)) == 3 and all(len(key) == len("tft_") + 12 + 1 + 43 for key in keys)
    kept = path.read_text()
    assert not any(key in kept or key.split("_", 2)[2] in kept for key in keys)
    assert [key.name for key in list_keys(path)] == ["dashboard"] * 3


def test_only_its_owner_may_read_the_file(path: Path) -> None:
    before = os.umask(0)
    try:
        create_key(path, "dashboard", "read")
        revoke_key(path, list_keys(path)[0].id)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_keys_that_root_makes_belong_to_who_owns_the_folder(tmp_path: Path) -> None:
    """The daemon has an account of its own and could not read them otherwise."""
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    for _ in range(2):
        create_key(folder / "keys.json", "dashboard", "read")
        assert (folder / "keys.json").stat().st_uid == 65534


def test_keys_that_are_made_at_once_are_all_there(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: create_key(path, f"host {number}", "write")[1].id, range(40)))
    assert sorted(key.id for key in list_keys(path)) == sorted(made)


def test_a_scope_includes_the_ones_before_it(path: Path) -> None:
    stored = {scope: create_key(path, scope, scope)[1] for scope in SCOPES}
    allowed = {scope: [needed for needed in SCOPES if key.allows(needed)] for scope, key in stored.items()}
    assert allowed == {"read": ["read"], "write": ["read", "write"], "admin": ["read", "write", "admin"]}


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "\x1b[31m", "x" * 101])
def test_a_name_that_could_not_be_shown_is_refused(path: Path, name: str) -> None:
    with pytest.raises(ApiKeyError, match="name"):
        create_key(path, name, "read")
    assert not path.exists()


def test_a_time_that_ends_at_once_or_never_is_refused(path: Path) -> None:
    for valid_for in (timedelta(seconds=1), timedelta(days=3_000_000)):
        with pytest.raises(ApiKeyError, match=r"valid|9999"):
            create_key(path, "dashboard", "read", valid_for)
    assert not path.exists()


def test_an_id_that_no_key_has_revokes_nothing(path: Path) -> None:
    create_key(path, "dashboard", "read")
    with pytest.raises(ApiKeyError, match="no key with the id"):
        revoke_key(path, "000000000000")
    assert [key.state for key in list_keys(path)] == ["active"]


def test_a_file_behind_a_link_is_changed_and_the_link_stays(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "secrets"
    elsewhere.mkdir()
    path.symlink_to(elsewhere / "keys.json")
    create_key(path, "dashboard", "read")
    assert path.is_symlink() and len(list_keys(elsewhere / "keys.json")) == 1


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ApiKeyError, match="cannot be written"):
        create_key(tmp_path / "file" / "keys.json", "dashboard", "read")


DAMAGES = {
    "empty": lambda path: path.write_text(""),
    "no JSON": lambda path: path.write_text("{"),
    "another shape": lambda path: path.write_text("[]"),
    "another format": lambda path: path.write_text('{"format": 2, "keys": []}'),
    "an unknown member": lambda path: change(path, lambda key: key.update(admin=True)),
    "an unknown scope": lambda path: change(path, lambda key: key.update(scope="root")),
    "half a hash": lambda path: change(path, lambda key: key.update(sha256=key["sha256"][:32])),
    "a time without a zone": lambda path: change(path, lambda key: key.update(created="2026-01-01T00:00:00")),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "too large": lambda path: path.write_text(path.read_text() + " " * api_keys.MAX_FILE_BYTES),
    "twice the same": lambda path: path.write_text(
        json.dumps({"format": 1, "keys": json.loads(path.read_text())["keys"] * 2})
    ),
    "gone": lambda path: path.unlink(),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "writable by others": lambda path: path.chmod(0o666),
}


# -------------------------------------------------------------------------------------------------- in a running daemon
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_file_that_is_damaged_leaves_the_last_good_keys_in_force(
    path: Path, clock: Clock, damage: Callable[[Path], None]
) -> None:
    key, stored = create_key(path, "dashboard", "read")
    ring = KeyRing(path, clock=clock)
    good = path.read_bytes()
    damage(path)
    clock.seconds += 1.5
    assert ring.verify(key) == (stored, "active") and ring.protects
    problem = ring.as_dict()["problem"]
    assert path.name in problem["what"] and str(path.parent) not in json.dumps(problem)

    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(good)
    revoke_key(path, stored.id)
    clock.seconds += 1.5
    assert ring.verify(key) == (None, "revoked") and ring.as_dict()["problem"] is None


@pytest.mark.parametrize("damage", [*list(DAMAGES)[:9], "a link to nothing", "a folder", "writable by others"])
def test_a_file_that_is_damaged_at_the_start_lets_nobody_in(path: Path, damage: str) -> None:
    create_key(path, "dashboard", "read")
    DAMAGES[damage](path)
    with pytest.raises(ApiKeyError, match="cannot be used"):
        KeyRing(path)


def test_without_a_file_it_is_open_unless_somebody_has_named_one(path: Path) -> None:
    assert not KeyRing(path).protects
    with pytest.raises(ApiKeyError, match="not there"):
        KeyRing(path, required=True)


def test_a_first_key_closes_a_running_daemon_and_damage_does_not_open_it(path: Path, clock: Clock) -> None:
    ring = KeyRing(path, clock=clock)
    path.write_text("{")
    clock.seconds += 1.5
    assert ring.protects and ring.as_dict()["active_keys"] == 0
    path.unlink()
    clock.seconds += 1.5
    assert ring.protects
    key, stored = create_key(path, "dashboard", "read")
    clock.seconds += 1.5
    assert ring.verify(key) == (stored, "active")


def test_keys_are_rotated_without_a_restart(path: Path, clock: Clock) -> None:
    old, stored = create_key(path, "dashboard", "read")
    ring = KeyRing(path, clock=clock)
    new, _ = create_key(path, "dashboard", "read")
    clock.seconds += 1.5
    assert all(ring.verify(key)[1] == "active" for key in (old, new))
    revoke_key(path, stored.id)
    clock.seconds += 1.5
    assert ring.verify(old) == (None, "revoked") and ring.verify(new)[1] == "active"
    assert not ring.in_force(stored.id, "read")


def test_a_key_ends_when_its_time_has_come(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, stored = create_key(path, "dashboard", "read", timedelta(hours=1))
    ring = KeyRing(path)
    assert ring.verify(key)[1] == "active"
    later = utc_now() + timedelta(hours=1, seconds=1)
    monkeypatch.setattr(api_keys, "utc_now", lambda: later)
    assert ring.verify(key) == (None, "expired") and not ring.in_force(stored.id, "read")


@pytest.mark.parametrize(
    "wrong",
    ["", "tft_", "x" * 10_000, "tft_000000000000_" + "A" * 43, "ä" * 60, "{id}", "{key} ", "{key}A", "{sha256}"],
)
def test_what_is_no_key_opens_nothing(path: Path, wrong: str) -> None:
    key, stored = create_key(path, "dashboard", "read")
    presented = wrong.format(id=stored.id, key=key, sha256=stored.sha256)
    assert KeyRing(path).verify(presented) == (None, "unknown")


# ------------------------------------------------------------------------------------------------------------ commands
def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "main.py"), "keys", *arguments]
    settings = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=60, check=False)


def test_the_commands_make_list_and_revoke(tmp_path: Path) -> None:
    made = run("create", "--name", "dash", "--scope", "write", "--expires", "90d", "--json", cwd=tmp_path)
    answer = json.loads(made.stdout)
    assert (answer["scope"], answer["state"], answer["file"]) == ("write", "active", "api_keys.json")
    assert KeyRing(tmp_path / "api_keys.json").verify(answer["key"])[1] == "active"
    shown = run("create", "--name", "[red]other", cwd=tmp_path)
    other = shown.stdout.strip()  # alone on standard output, so that a script can take it
    assert KeyRing(tmp_path / "api_keys.json").verify(other)[1] == "active" and other not in shown.stderr

    listed = run("list", cwd=tmp_path).stdout
    assert "[red]other" in listed and answer["id"] in listed and answer["key"] not in listed
    assert run("revoke", answer["id"], cwd=tmp_path).returncode == 0
    states = {key["id"]: key for key in json.loads(run("list", "--json", cwd=tmp_path).stdout)["keys"]}
    assert states[answer["id"]]["state"] == "revoked" and "sha256" not in states[answer["id"]]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["revoke", "nobody"], 1, "no key with the id"),
        (["create", "--name", " "], 1, "name"),
        (["create", "--name", "x", "--expires", "soon"], 2, "90d"),
        (["create", "--name", "x", "--scope", "root"], 2, "admin"),
    ],
)
def test_wrong_options_are_told_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    ended = run(*arguments, cwd=tmp_path)
    assert ended.returncode == code and says in ended.stderr and "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())
