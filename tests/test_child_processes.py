"""Children end with their parent, grandchildren too; ports are judged by trying them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from child_processes import ChildProcesses, next_free_port, port_is_free
from data_contract import DaemonError, DataFileError

ROOT = Path(__file__).resolve().parent.parent

# A child that does not want to end, with a child of its own that does not either.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""

# A program like the demo: starts children, tells their ids, waits, and exits with 130 when interrupted.
PARENT = """
import sys, time
from pathlib import Path
from child_processes import ChildProcesses, ended_by_signals
try:
    with ended_by_signals(), ChildProcesses(Path(sys.argv[1])) as children:
        for name in ("one", "two"):
            child = children.start(name, [sys.executable, "-c", "import time; time.sleep(600)"])
            print(child.process.pid, flush=True)
        print("ready", flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    sys.exit(130)
"""


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_log_that_cannot_be_written_is_told_and_nothing_is_started(tmp_path):
    (tmp_path / "logs").write_text("a file where the folder belongs")
    children = ChildProcesses(tmp_path / "logs")
    with pytest.raises(DataFileError, match=r"one\.log cannot be written") as caught:
        children.start("one", [sys.executable, "-c", "open('started', 'w')"])
    assert caught.value.why and caught.value.fix and not (tmp_path / "started").exists()


def test_children_have_ended_when_the_block_is_left_by_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), ChildProcesses(tmp_path) as children:
        child = children.start("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"])
        raise ZeroDivisionError
    assert not is_running(child.process.pid)


def test_a_child_that_ignores_the_request_is_ended_with_its_own_children(tmp_path, monkeypatch):
    monkeypatch.setattr("child_processes.GRACE_SECONDS", 0.2)
    with ChildProcesses(tmp_path) as children:
        child = children.start("stubborn", [sys.executable, "-c", STUBBORN])
        wait_for(lambda: child.log.read_text().strip())
        grandchild = int(child.log.read_text())
        assert is_running(grandchild)
    assert child.process.returncode == -signal.SIGKILL
    wait_for(lambda: not is_running(grandchild))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_parent_ends_all_children(tmp_path, number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        lines = iter(parent.stdout.readline, "ready\n")
        pids = [int(line) for line in lines]
        assert len(pids) == 2 and all(map(is_running, pids))
        os.kill(parent.pid, number)
        assert parent.wait(30) == 130
        assert not any(map(is_running, pids))
    finally:
        parent.stdout.close()
        parent.kill()
        parent.wait()


def test_a_child_that_ended_by_itself_is_reported_with_the_end_of_its_log(tmp_path):
    with ChildProcesses(tmp_path) as children:
        child = children.start("crasher", [sys.executable, "-c", "import sys; sys.exit('out of luck')"])
        child.process.wait(30)
        with pytest.raises(DaemonError, match="crasher ended by itself with code 1") as ended:
            children.check()
    assert "out of luck" in ended.value.what and "crasher.log" in ended.value.fix


def test_a_port_in_use_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_is_free("127.0.0.1", port)
        free = next_free_port("127.0.0.1", port)
    assert free > port


def test_when_no_port_is_free_the_error_says_how_to_choose_others():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(DaemonError, match="No port") as refused:
            next_free_port("127.0.0.1", taken.getsockname()[1], tries=1)
    assert "--port" in refused.value.fix
