"""How a bare Python becomes a working environment: `.venv`, the pinned packages, and what was found.

Knows the standard library and our error classes alone, because it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_contract import ProductError

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
LOG = ROOT / "logs" / "setup.log"
STAMP = "requirements.sha256"  # inside the environment: which lock file was installed in full

OLDEST_PYTHON = (3, 10)
NEWEST_PYTHON = (3, 13)

# What the product imports: one name per line of requirements.txt, in its order (a test compares the two).
IMPORTS = (
    "anyio",
    "cramjam",
    "fastapi",
    "fastapi_offline",
    "httpx2",
    "jinja2",
    "lightning",
    "markupsafe",
    "numpy",
    "pandas",
    "PIL",
    "plotly",
    "prometheus_client",
    "google.protobuf",
    "pyarrow",
    "pydantic",
    "pydantic_settings",
    "pytorch_forecasting",
    "rich",
    "safetensors",
    "stamina",
    "starlette",
    "streamlit",
    "structlog",
    "throttled",
    "torch",
    "typer",
    "typing_extensions",
    "uvicorn",
    "vl_convert",
    "websockets",
)

_CHECK_IMPORTS = """
import importlib, json, platform, sys, warnings
warnings.simplefilter("ignore")
broken = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        broken[name] = f"{type(error).__name__}: {error}"
found = {"python": platform.python_version(), "executable": sys.executable, "torch": None, "gpu": None}
if "torch" not in broken:
    import torch
    found["torch"] = torch.__version__
    found["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
print(json.dumps({**found, "broken": broken}))
"""


class SetupError(ProductError, RuntimeError):
    """An environment that cannot be set up."""

    document = "QUICK_START.md"


Say = Callable[[str], None]


def set_up(say: Say, venv: Path = VENV, lock: Path = LOCK) -> dict[str, Any]:
    """Create the environment, install the lock file and check the imports; what stands already is left alone.

    Parameters
    ----------
    say : callable
        Receives one line per step.
    venv, lock : path
        The environment to make and the pinned packages to put into it.

    Returns
    -------
    dict
        `python`, `executable`, `torch`, `gpu` (None without one) and `installed` (False: nothing had to be done).

    Raises
    ------
    SetupError
        If Python is of another version, has no `venv`, or if packages cannot be installed or imported.
    """
    check_python(sys.version_info[:2])
    python = _make_venv(venv, say)
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    stamp = venv / STAMP
    installed = not (stamp.is_file() and stamp.read_text(encoding="ascii").strip() == wanted)
    if installed:
        stamp.unlink(missing_ok=True)
        _install(python, lock, say)
    else:
        say(f"All packages of {lock.name} are installed.")
    found = {**_check(python, say), "installed": installed}
    stamp.write_text(wanted + "\n", encoding="ascii")
    return found


def check_python(version: tuple[int, ...]) -> None:
    """Refuse a Python that the pinned packages were not made for.

    Raises
    ------
    SetupError
        If `version` is outside 3.10 to 3.13.
    """
    if not OLDEST_PYTHON <= tuple(version) <= NEWEST_PYTHON:
        oldest, newest = (".".join(map(str, bound)) for bound in (OLDEST_PYTHON, NEWEST_PYTHON))
        raise SetupError(
            f"This is Python {'.'.join(map(str, version))}; the product runs on {oldest} to {newest}.",
            why="The pinned packages have no builds for other versions.",
            fix=f"Run it with such a Python, e.g. `python3.11 main.py setup`, or make one with conda: "
            f"`conda env create -f {ROOT / 'environment.yml'}`.",
        )


def python_of(venv: Path = VENV) -> Path:
    """Interpreter of an environment, there or not."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _make_venv(venv: Path, say: Say) -> Path:
    python = python_of(venv)
    if _answers(python):
        say(f"The environment {venv} is there.")
        return python
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            "This Python cannot make virtual environments: its `venv` module is incomplete.",
            why="The packages are installed beside the project, not into your system.",
            fix="Install it, e.g. `sudo apt-get install python3-venv`, then run the same command again.",
        )
    say(f"Making the environment {venv} …")
    shutil.rmtree(venv, ignore_errors=True)  # left by an interrupted run
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        shutil.rmtree(venv, ignore_errors=True)
        raise SetupError(
            f"The environment {venv} could not be made: {_last_line(done.stderr or done.stdout)}",
            why="The packages are installed beside the project, not into your system.",
            fix="Check that the folder can be written and that the disk has some 3 GB free, then run it again.",
        )
    return python


def _answers(python: Path) -> bool:
    if not python.exists():
        return False
    command = [str(python), "-c", "import pip"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


def _install(python: Path, lock: Path, say: Say) -> None:
    """Let pip install the lock file, say how far it is, and keep all of its output in the log."""
    wanted = set(re.findall(r"^([A-Za-z0-9][\w.-]*)==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    say(f"Installing about {len(wanted)} packages; the first time this takes some minutes …")
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", "-r", str(lock)]
    LOG.parent.mkdir(exist_ok=True)
    seen: set[str] = set()
    errors: list[str] = []
    with (
        LOG.open("w", encoding="utf-8") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,  # noqa: S603
    ):
        assert pip.stdout is not None
        for line in pip.stdout:
            log.write(line)
            if name := re.match(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)", line):
                seen.add(name[1])
                if name[0].startswith("Collecting") and len(seen) % 10 == 0:
                    say(f"  {len(seen):>3} of about {len(wanted)} collected")
            elif size := re.search(r"Downloading (\S+) \(([\d.]+ (?:GB|[\d.]{2,} MB))\)", line):
                say(f"       downloading {size[1].split('-')[0].rsplit('/')[-1]} ({size[2]}) …")
            elif line.startswith("Installing collected packages"):
                say("  unpacking …")
            elif line.startswith("ERROR:"):
                errors.append(line.removeprefix("ERROR:").strip())
    if pip.returncode != 0:
        raise SetupError(
            f"The packages could not be installed: {errors[0] if errors else f'pip ended with code {pip.returncode}'}",
            why="Without them no command of the product runs.",
            fix=f"Check the network (or the proxy that pip uses) and the free disk space, then run it again: what was "
            f"downloaded is kept. The whole output is in {LOG}.",
        )


def _check(python: Path, say: Say) -> dict[str, Any]:
    say("Checking that everything can be imported …")
    command = [str(python), "-c", _CHECK_IMPORTS, *IMPORTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    lines = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
    broken = found.pop("broken", {"python": _last_line(done.stderr)})
    if broken:
        listed = "; ".join(f"{name} ({reason})" for name, reason in broken.items())
        raise SetupError(
            f"Installed, but not usable: {listed}.",
            why="A package that cannot be imported stops the command that needs it half-way.",
            fix=f"Remove the folder {python.parent.parent} and run `python main.py setup` again.",
        )
    return found


def describe(found: dict[str, Any]) -> list[str]:
    """What `set_up` found, in lines for a person."""
    shown = Path(found["executable"])
    gpu = f"GPU: {found['gpu']}" if found["gpu"] else "no GPU found: training runs on the CPU"
    return [
        f"Python {found['python']}   {shown}",
        f"torch  {found['torch']}   {gpu}",
        f"Next: `make demo`, or `{shown} main.py status`.",
    ]


def run_setup(*, as_json: bool) -> None:
    """Body of `main.py setup`: steps on standard error, the result on standard output."""
    found = set_up(_say)
    print(json.dumps(found, indent=2) if as_json else "\n".join(describe(found)))


def start_without_packages(arguments: Sequence[str]) -> int:
    """What `main.py` does on a Python that lacks its packages; gives the exit code.

    `setup` runs here; any other command is handed to the environment if it stands.
    """
    try:
        if arguments[:1] == ["setup"]:
            parser = argparse.ArgumentParser(prog="python main.py setup", description=__doc__.splitlines()[0])
            parser.add_argument("--json", action="store_true", help="print what was found as JSON")
            run_setup(as_json=parser.parse_args(arguments[1:]).json)
            return 0
        python = python_of()
        if (VENV / STAMP).is_file() and Path(sys.prefix).resolve() != VENV.resolve():
            return subprocess.run([str(python), str(ROOT / "main.py"), *arguments], check=False).returncode  # noqa: S603
        raise SetupError(
            "The packages of the product are not installed for this Python.",
            why="Every command but `setup` needs them.",
            fix="Run `python main.py setup` once; then this command works.",
        )
    except ProductError as error:
        if "--json" in arguments:
            print(json.dumps({"error": error.as_dict()}, ensure_ascii=False), file=sys.stderr)
        else:
            print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Run it again to go on.", file=sys.stderr)
        return 130


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"


def _self_check() -> None:
    check_python((3, 11))
    for version in ((3, 9), (3, 14)):
        try:
            check_python(version)
        except SetupError as error:
            assert "3.10" in error.what
        else:
            raise AssertionError
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
