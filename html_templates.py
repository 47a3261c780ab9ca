"""How the markup of pages is filled in: everything that comes from outside is escaped, and no name may be missing.

Knows nothing of what the pages show.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import jinja2


def template_environment(folder: Path) -> jinja2.Environment:
    """Templates of a folder; filters and globals are added by who draws."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _self_check() -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "page.html").write_text("<p>{{ server }}</p>", encoding="utf-8")
        template = template_environment(Path(name)).get_template("page.html")
        assert template.render(server="<b>") == "<p>&lt;b&gt;</p>"
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
