"""Memory that is freed and wanted again stays in the process, and only meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import memory_reuse

_ROOT = Path(memory_reuse.__file__).parent

# Blocks above 32 MB, the most from which glibc still asks the system for each block anew (M_MMAP_THRESHOLD in
# mallopt(3)): so the usual case is the same on every machine, with huge pages and without.
_PROGRAM = """
import resource, torch
from memory_reuse import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        parts = [torch.ones(10_000_000 + 100_000 * k) for k in range(4)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

faults()
usual = faults()
before = resident()
with freed_memory_kept():
    faults()
    kept = faults()
    meanwhile = resident()
print(usual, kept, before, meanwhile, resident())
"""


@pytest.mark.skipif(memory_reuse._glibc() is None, reason="the C library is not glibc")
def test_freed_memory_is_used_again_without_page_faults_and_given_back_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=_ROOT, capture_output=True, text=True, check=True)
    usual, kept, before, meanwhile, after = map(int, done.stdout.split())
    assert kept < usual / 10
    assert after < before + (meanwhile - before) / 2


def test_without_glibc_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_reuse, "_glibc", lambda: None)
    with memory_reuse.freed_memory_kept():
        pass
