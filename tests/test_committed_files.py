"""What is in git: no large files, no outputs in notebooks; and pre-commit asks for exactly what is here."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 500_000


def committed() -> list[Path]:
    """Files that git tracks, or would with the next commit."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_is_large():
    assert {path.name for path in committed() if path.stat().st_size > MOST_BYTES} == set()


def test_notebooks_are_stripped():
    for path in committed():
        if path.suffix == ".ipynb":
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.name


def test_the_hooks_call_tools_of_the_environment():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "mypy", "committed-files"}
