"""Setting up on a Python that has nothing but its standard library."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tft_setup import IMPORTS, SetupError, check_python, python_of, set_up

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """An interpreter without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.EnvBuilder(with_pip=False).create(folder)
    return python_of(folder)


@pytest.fixture
def fresh_copy(tmp_path):
    """The files that `setup` runs on, in a folder that was never set up, with a lock file that asks for nothing."""
    for name in ("main.py", "tft_setup.py", "data_contract.py", "environment.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "requirements.lock").write_text("# nothing\n")
    return tmp_path


def run(python, folder, *arguments):
    return subprocess.run(
        [str(python), str(folder / "main.py"), *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        cwd=folder,
    )


def test_setup_has_help_on_a_bare_python(bare_python, fresh_copy):
    done = run(bare_python, fresh_copy, "setup", "--help")
    assert done.returncode == 0 and "python main.py setup" in done.stdout


def test_any_other_command_on_a_bare_python_says_to_run_setup(bare_python, fresh_copy):
    done = run(bare_python, fresh_copy, "status")
    assert done.returncode == 1 and done.stdout == ""
    assert "python main.py setup" in done.stderr and "Why it matters" in done.stderr
    assert "Traceback" not in done.stderr
    done = run(bare_python, fresh_copy, "status", "--json")
    assert done.returncode == 1 and "setup" in json.loads(done.stderr)["error"]["fix"]


def test_setup_on_a_bare_python_makes_the_environment_and_refuses_it_when_packages_are_missing(bare_python, fresh_copy):
    done = run(bare_python, fresh_copy, "setup")
    assert python_of(fresh_copy / ".venv").exists(), done.stderr
    assert done.returncode == 1
    assert "torch (ModuleNotFoundError" in done.stderr and "Traceback" not in done.stderr
    again = run(bare_python, fresh_copy, "status")  # an environment that is not complete is not used
    assert again.returncode == 1 and "python main.py setup" in again.stderr


def test_a_lock_file_that_cannot_be_installed_is_told_with_its_log(bare_python, fresh_copy):
    (fresh_copy / "requirements.lock").write_text("./no-such-package\n")
    done = run(bare_python, fresh_copy, "setup")
    assert done.returncode == 1 and "could not be installed" in done.stderr and "Traceback" not in done.stderr
    assert "no-such-package" in (fresh_copy / "logs" / "setup.log").read_text()


@pytest.mark.slow
def test_setup_of_what_stands_changes_nothing_and_says_what_is_there(tmp_path):
    said: list[str] = []
    environment = Path(sys.prefix)
    if environment == Path(sys.base_prefix):
        pytest.skip("the tests do not run in a virtual environment")
    set_up(said.append, venv=environment)
    found = set_up(said.append, venv=environment)
    assert found["installed"] is False
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.match(r"\d+\.\d+", found["torch"])


@pytest.mark.parametrize("version", [(3, 9), (3, 14), (2, 7)])
def test_other_pythons_are_refused_with_a_way_out(version):
    with pytest.raises(SetupError, match=re.escape(".".join(map(str, version)))) as refused:
        check_python(version)
    assert "conda env create" in refused.value.fix


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 13)])
def test_pythons_of_the_range_are_taken(version):
    check_python(version)


def test_what_is_checked_is_what_the_requirements_name():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    named = [
        re.match(r"[a-z0-9-]+", line)[0] for line in lines if line and not line.startswith("#") and ";" not in line
    ]
    modules = {
        "throttled-py": "throttled",
        "pillow": "PIL",
        "vl-convert-python": "vl_convert",
        "protobuf": "google.protobuf",
    }
    assert [modules.get(name, name.replace("-", "_")) for name in named] == list(IMPORTS)
