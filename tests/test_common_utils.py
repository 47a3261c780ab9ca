"""Are files written whole or not at all, links moved in one step, and times told in UTC on the grid?"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import signal
import stat
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common_utils import (
    atomic_path,
    floor_to_step,
    iso_z,
    move_link,
    read_json,
    remove_tree,
    sha256_of_file,
    uninterrupted,
    utc_now,
    write_json,
    written_together,
)

ROOT = Path(__file__).resolve().parent.parent

aware_times = st.datetimes(
    datetime(1971, 1, 1),  # noqa: DTZ001 - hypothesis wants naive bounds
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))]),
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with atomic_path(target) as partial:
        partial.write_text("whole")
        assert not target.exists() and partial.parent == target.parent
    assert target.read_text() == "whole" and names_in(target.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_path(target) as partial:
        partial.write_text("half")
        raise error
    assert target.read_text() == "old" and names_in(tmp_path) == ["a.txt"]


def test_what_a_killed_run_left_beside_a_file_goes_but_not_that_of_a_run_at_work_or_of_another_file(tmp_path):
    target = tmp_path / "a[1].csv"
    code = (
        "import os, signal, sys; from common_utils import atomic_path\n"
        "with atomic_path(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(target)], cwd=ROOT, check=False, timeout=60)
    (left,) = tmp_path.iterdir()
    other = tmp_path / ".b.csv.x.partial"
    other.touch()
    with atomic_path(target) as running:
        for work in (left, other, running):
            os.utime(work, (0, 0))
        with atomic_path(target) as partial:
            partial.write_text("whole")
        assert running.exists() and not left.exists()
    assert names_in(tmp_path) == [other.name, target.name]


def test_no_file_takes_the_place_of_a_device_or_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a file"), atomic_path(tmp_path / "pipe"):
        raise AssertionError("nothing may be written")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and names_in(tmp_path) == ["pipe"]


def test_written_files_may_be_read_by_others_as_the_umask_says(tmp_path):
    code = "import os, sys; os.umask(0o027); from common_utils import write_json; write_json(sys.argv[1], {})"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], cwd=ROOT, check=True, timeout=60)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


def test_a_full_disk_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"old": True})
    code = "import sys; from common_utils import write_json; write_json(sys.argv[1], ['x' * 100] * 1000)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert done.returncode != 0 and "OSError" in done.stderr
    assert json.loads(target.read_text()) == {"old": True} and names_in(tmp_path) == ["a.json"]


def test_ctrl_c_waits_while_the_files_are_moved():
    moved = False
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        moved = True
    assert moved


def test_files_that_belong_together_appear_together(tmp_path):
    (tmp_path / "a").write_text("old")
    with written_together(tmp_path, ["a", "b"]) as aside:
        (aside / "a").write_text("new")
        (aside / "b").write_text("new")
        assert (tmp_path / "a").read_text() == "old" and aside.parent == tmp_path
    assert [(tmp_path / name).read_text() for name in names_in(tmp_path)] == ["new", "new"]


def test_what_is_stale_goes_away_with_what_is_replaced_or_stays_whole(tmp_path):
    for name in ("old", "deeper/old"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "part-0.parquet").write_text("old")
    (tmp_path / "plain").write_text("old")
    with pytest.raises(OSError), written_together(tmp_path, ["a"], ["plain", "old", "deeper/old"]) as aside:
        (aside / "a").write_text("new")  # a name with a folder in it cannot be put aside: all goes back
    assert names_in(tmp_path) == ["deeper", "old", "plain"] and (tmp_path / "plain").read_text() == "old"
    assert (tmp_path / "old" / "part-0.parquet").read_text() == "old"
    with written_together(tmp_path, ["a"], ["plain", "old"]) as aside:
        (aside / "a").write_text("new")
    assert names_in(tmp_path) == ["a", "deeper"]


@pytest.mark.parametrize("fault", ["a file lacks", "a folder is in the way", "the block fails"])
def test_if_one_file_cannot_appear_none_does(tmp_path, fault):
    (tmp_path / "a").write_text("old")
    if fault == "a folder is in the way":
        (tmp_path / "b" / "c").mkdir(parents=True)
    names = names_in(tmp_path)
    with pytest.raises(OSError), written_together(tmp_path, ["a", "b"]) as aside:
        (aside / "a").write_text("new")
        if fault != "a file lacks":
            (aside / "b").write_text("new")
        if fault == "the block fails":
            raise OSError(fault)
    assert (tmp_path / "a").read_text() == "old" and names_in(tmp_path) == names


def test_what_killed_runs_left_is_swept_up_but_no_other_run_is_disturbed(tmp_path):
    (tmp_path / ".writing-killed").mkdir()
    (tmp_path / ".writing-young").mkdir()
    with written_together(tmp_path, ["a"]) as running:
        (running / "a").write_text("first")
        for old in (tmp_path / ".writing-killed", running):
            os.utime(old, (0, 0))
        with written_together(tmp_path, ["a"]) as aside:
            assert names_in(tmp_path) == sorted([".writing-young", running.name, aside.name])
            (aside / "a").write_text("second")
    assert (tmp_path / "a").read_text() == "first"


def test_json_is_readable_utf_8_with_a_final_newline(tmp_path):
    write_json(tmp_path / "a.json", {"name": "サーバー", "n": 1.5})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "サーバー" in text and text.endswith("}\n") and json.loads(text)["n"] == 1.5


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_read_as_an_empty_one(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == {}
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_is_refused_and_writes_nothing(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"a": value})
    assert names_in(tmp_path) == []


def test_a_link_moves_from_one_folder_to_another_and_is_relative(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        move_link(tmp_path / "latest", tmp_path / name)
        assert (tmp_path / "latest").resolve() == (tmp_path / name).resolve()
        assert (tmp_path / "latest").readlink() == Path(name)
    assert names_in(tmp_path) == ["first", "latest", "second"]


def test_a_link_does_not_take_the_place_of_a_folder(tmp_path):
    (tmp_path / "latest" / "kept").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    with pytest.raises(OSError):
        move_link(tmp_path / "latest", tmp_path / "model")
    assert (tmp_path / "latest" / "kept").is_dir() and names_in(tmp_path) == ["latest", "model"]


def test_removing_a_tree_that_is_not_there_is_no_error(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_checksums_are_sha_256_of_the_whole_file(tmp_path, size):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_times_end_in_z_and_naive_ones_are_utc():
    moment = datetime(2026, 1, 5, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    assert iso_z(moment) == "2026-01-05T10:00:00Z" == iso_z(moment.astimezone(timezone.utc).replace(tzinfo=None))
    assert iso_z(moment + timedelta(milliseconds=5)) == "2026-01-05T10:00:00.005000Z"
    assert utc_now().tzinfo is timezone.utc


@given(moment=aware_times)
def test_iso_times_are_read_back_as_the_same_moment(moment):
    assert datetime.fromisoformat(iso_z(moment).replace("Z", "+00:00")) == moment


@given(moment=aware_times, step=st.sampled_from([1, 5, 15, 60]))
def test_a_moment_lies_within_the_step_that_it_is_floored_to(moment, step):
    begin = floor_to_step(moment, step)
    assert timedelta(0) <= moment - begin < timedelta(minutes=step)
    assert begin.timestamp() % (60 * step) == 0 and begin.tzinfo is timezone.utc
    assert floor_to_step(begin, step) == begin


@pytest.mark.parametrize("json_lines", [False, True])
def test_logs_of_both_libraries_go_to_standard_error_in_one_form(json_lines):
    code = f"""
import logging, structlog
from common_utils import configure_logging
configure_logging("info", json_lines={json_lines})
structlog.get_logger("a").info("first", servers=90)
logging.getLogger("b").warning("second %s", 2)
logging.getLogger("b").debug("hidden")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    if json_lines:
        first, second = map(json.loads, lines)
        assert first["event"] == "first" and first["servers"] == 90 and first["level"] == "info"
        assert second["event"] == "second 2" and second["logger"] == "b" and second["timestamp"].endswith("Z")
    else:
        assert "first" in lines[0] and "90" in lines[0] and "second 2" in lines[1]


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_logged_traceback_shows_no_local_variables(json_lines):
    """They may be keys."""
    code = f"""
import structlog
from common_utils import configure_logging
configure_logging("debug", json_lines={json_lines})
def ask(key):
    raise ValueError("no answer")
try:
    ask("".join(["very ", "secret"]))
except ValueError:
    structlog.get_logger("a").exception("failed")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert "no answer" in done.stderr and "Traceback" in done.stderr and "very secret" not in done.stderr


def test_the_permissions_of_a_file_may_be_chosen(tmp_path):
    target = tmp_path / "keys.json"
    with atomic_path(target, mode=0o600) as partial:
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
        partial.write_text("{}")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_importing_sets_up_no_logging():
    code = "import logging, common_utils; print(logging.getLogger().handlers, logging.getLogger().level)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["[]", str(logging.WARNING)]


def test_a_folder_of_parquet_parts_is_replaced_like_a_file_and_put_back_if_another_cannot_be(tmp_path):
    parts = tmp_path / "data" / "day=1"
    parts.mkdir(parents=True)
    (parts / "part.parquet").write_text("old")
    (tmp_path / "stale").write_text("old")
    with written_together(tmp_path, ["data", "b"], stale=["stale"]) as aside:
        (aside / "data").write_text("a file now")
        (aside / "b").write_text("new")
    assert names_in(tmp_path) == ["b", "data"] and (tmp_path / "data").read_text() == "a file now"
    with pytest.raises(OSError), written_together(tmp_path, ["data", "lacks"], stale=["b"]) as aside:
        (aside / "data" / "day=2").mkdir(parents=True)
        (aside / "data" / "day=2" / "part.parquet").write_text("new")
    assert names_in(tmp_path) == ["b", "data"] and (tmp_path / "data").read_text() == "a file now"
