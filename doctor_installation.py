"""What is wrong with an installation and its settings: Python, packages, disk, folders, threads, torch, keys, TLS.

Knows neither data nor models. Imports torch in a process of its own alone, so that a broken one cannot end the doctor.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from pydantic_settings import SettingsError

from api_keys import list_keys
from config import Settings, config_file, is_misspelt
from data_contract import ApiKeyError, shorten
from doctor_findings import Finding
from tft_setup import LOCK, SetupError, check_python

REQUIREMENTS: Final = LOCK.with_name("requirements.txt")
LEAST_FREE_GB: Final = 2.0

_TORCH_SECONDS: Final = 120.0
_FOLDERS: Final = ("data_dir", "models_dir", "history_dir")
_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)", re.MULTILINE)
_WANTED = re.compile(r"^([A-Za-z0-9][\w.-]*)(?!.*python_version)", re.MULTILINE)


# ------------------------------------------------------------------------------------------------------- installation
def check_installation(settings: Settings) -> Iterator[Finding]:
    """Everything that can be wrong before any data is looked at."""
    yield from python_findings(sys.version_info[:2])
    yield from package_findings(REQUIREMENTS, LOCK)
    yield from torch_findings(sys.executable)
    yield from thread_findings(os.environ, len(_cores()))
    for name in _FOLDERS:
        yield from folder_findings(name, getattr(settings, name))
    yield from disk_findings([getattr(settings, name) for name in _FOLDERS])


def python_findings(running: tuple[int, ...]) -> Iterator[Finding]:
    """Whether the packages were made for this Python."""
    try:
        check_python(running)
    except SetupError as error:
        yield Finding("python-version", error.what)


def package_findings(requirements: Path, lock: Path) -> Iterator[Finding]:
    """Which packages are missing, and which are of another version than the one that is tested."""
    installed = {name: _version_of(name) for name in _WANTED.findall(requirements.read_text(encoding="utf-8"))}
    missing = sorted(name for name, found in installed.items() if found is None)
    if missing:
        yield Finding("packages-missing", f"Packages are missing: {shorten(missing)}.")
    pinned: dict[str, set[str]] = {}
    for name, tested in _PINNED.findall(lock.read_text(encoding="utf-8")):
        pinned.setdefault(name, set()).add(tested)
    differ = []
    for name, tested_versions in pinned.items():
        found = _version_of(name)
        if found is not None and found.split("+")[0] not in tested_versions:  # 2.13.0+cpu is a build of 2.13.0
            differ.append(f"{name} {found}, not {' or '.join(sorted(tested_versions))}")
    if differ:
        yield Finding("packages-differ", f"Packages of other versions than the tested ones: {shorten(differ)}.")


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def torch_findings(python: str) -> Iterator[Finding]:
    """Whether torch can be imported and can multiply two numbers."""
    code = "import torch; assert float(torch.ones(2) @ torch.ones(2)) == 2"
    try:
        done = subprocess.run(  # noqa: S603
            [python, "-c", code], capture_output=True, text=True, check=False, timeout=_TORCH_SECONDS
        )
    except subprocess.TimeoutExpired:
        yield Finding("torch-broken", f"torch could not be loaded within {_TORCH_SECONDS:g} s.")
        return
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        yield Finding("torch-broken", f"torch cannot be used: {lines[-1]}.")


def thread_findings(environment: Mapping[str, str], cores: int) -> Iterator[Finding]:
    """Whether a variable holds torch to fewer threads than there are cores, or makes it start more."""
    told = environment.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told) != cores:
        more = "more" if int(told) > cores else "fewer"
        yield Finding("threads", f"OMP_NUM_THREADS is {told}: {more} threads than the {cores} core(s) of this machine.")


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def folder_findings(name: str, folder: Path) -> Iterator[Finding]:
    """Whether a folder is there and can be written, or could be made."""
    present = nearest_folder(folder)
    if present is None:
        yield Finding("folder-not-writable", f"{name} is {folder}, and a part of this path is no folder.")
    elif not os.access(present, os.W_OK | os.X_OK):
        yield Finding("folder-not-writable", f"{name} is {folder}, and {present} cannot be written by this account.")
    elif not folder.is_dir():

        def make() -> str:
            folder.mkdir(parents=True, exist_ok=True)
            return f"made the folder {folder}"

        yield Finding("folder-missing", f"{name} is {folder}, which is not there yet.", make)


def nearest_folder(path: Path) -> Path | None:
    """`path`, or the nearest folder above it that is there; None if a file, or no name at all, is in the way."""
    for place in (path, *path.absolute().parents):
        try:
            place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # a name that no file system takes
            return None
        return place if place.is_dir() else None
    return None


def disk_findings(folders: list[Path], least_gb: float = LEAST_FREE_GB) -> Iterator[Finding]:
    """Which disks have less than `least_gb` gigabytes free; each is told once."""
    told = set()
    for folder in folders:
        place = nearest_folder(folder)
        if place is None or place.stat().st_dev in told:
            continue
        told.add(place.stat().st_dev)
        free_gb = shutil.disk_usage(place).free / 1e9
        if free_gb < least_gb:
            yield Finding("disk-low", f"{free_gb:.1f} GB are free on the disk of {folder}, less than {least_gb:g} GB.")


# ------------------------------------------------------------------------------------------------------------ settings
def read_settings() -> tuple[Settings | None, list[Finding]]:
    """The settings, or None with every reason why they cannot be used."""
    findings = [_unknown(name, f"The environment variable {name}") for name in os.environ if is_misspelt(name)]
    file = config_file()
    if ("TFT_CONFIG_FILE" in os.environ or os.path.lexists(file)) and not file.is_file():
        return None, [*findings, Finding("settings-unreadable", f"The settings file {file} is no file, or not there.")]
    try:
        settings = Settings()
    except ValidationError as error:
        for fault in error.errors():
            name = ".".join(str(part) for part in fault["loc"])
            if fault["type"] == "extra_forbidden":
                findings.append(_unknown(name, f"The key `{name}` in {file}"))
            else:
                findings.append(Finding("setting-bad", f"{name or 'The settings'}: {fault['msg']}."))
        return None, findings
    except (SettingsError, ValueError, OSError) as error:
        return None, [*findings, Finding("settings-unreadable", f"The settings cannot be read: {error}.")]
    return (None if findings else settings), findings


def _unknown(name: str, what: str) -> Finding:
    bare = name.upper().removeprefix("TFT_").lower()
    close = difflib.get_close_matches(bare, Settings.model_fields, n=1)
    meant = f"; was `{close[0]}` meant?" if close else "."
    return Finding("setting-unknown", f"{what} is no setting{meant}")


def check_settings(settings: Settings) -> Iterator[Finding]:
    """What is wrong with what usable settings point to: keys and certificates."""
    keys_file = settings.api_keys_file
    if os.path.lexists(keys_file):
        yield from _key_findings(keys_file)
    elif not _is_loopback(settings.daemon_host) and not settings.allow_open_bind:
        yield Finding("open-without-keys", f"daemon_host is {settings.daemon_host}, and there is no {keys_file}.")
    for name in ("tls_cert", "tls_key"):
        path = getattr(settings, name)
        if path is not None and not os.access(path, os.R_OK):
            yield Finding("tls-file", f"{name} is {path}, which is not there or cannot be read.")


def _key_findings(path: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode) if path.is_file() else 0
    if mode & 0o077:  # told first: what others may write counts as damaged

        def close() -> str:
            path.chmod(0o600)
            return f"took the access of others to {path} away (mode 600)"

        yield Finding("keys-readable", f"{path} has mode {mode:o}; it was made with 600.", close)
        return
    try:
        list_keys(path)
    except ApiKeyError as error:
        yield Finding("keys-damaged", error.what)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
