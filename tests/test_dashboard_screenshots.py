"""The dashboard looks as it did: every page beside a stored picture, on a desk and on a phone, light and dark."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from dashboard_pictures import (
    BLOCK,
    MOST_BLOCK_SHARE,
    MOST_SHARE,
    SCHEMES,
    SHOTS,
    SIZES,
    STORED,
    compare,
    file_of,
    show_difference,
    take_all,
)
from live_dashboard import CHROMIUM
from PIL import Image, ImageDraw, ImageFilter

ALL = [file_of(name, size, scheme) for scheme in SCHEMES for name in SHOTS for size in SIZES]
RENEW = "If that is meant: `make screenshots`, look at each, and commit them."


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium")
def test_every_page_looks_as_it_did(tmp_path):
    folder = Path(os.environ.get("TFT_SCREENSHOT_DIFFERENCES", tmp_path / "differences"))
    wrong, seen = [], []
    for path, picture in take_all(tmp_path):
        seen.append(path)
        expected = Image.open(path).convert("RGB") if path.exists() else None
        if expected is None:
            wrong.append(f"{path.name}: not stored")
            continue
        found = compare(expected, picture)
        if not found.same:
            show_difference(folder, path.stem, expected, picture, found)
            wrong.append(
                f"{path.name}: {found.share:.2%} of the pixels (at most {MOST_SHARE:.2%}); "
                f"{found.block_share:.0%} of the block at {found.at} (at most {MOST_BLOCK_SHARE:.0%})"
            )
    assert seen == ALL
    assert not wrong, "\n".join([*wrong, f"What came, what was expected and where they differ: {folder}", RENEW])


def test_what_is_stored_is_what_is_compared_and_small():
    assert set(STORED.glob("*.png")) == set(ALL)
    assert sum(path.stat().st_size for path in ALL) < 2_000_000


def _stored(name: str) -> Image.Image:
    return Image.open(file_of(name, "desktop", "light")).convert("RGB")


def _most_common_colour(picture: Image.Image, box: tuple[int, int, int, int]) -> tuple[int, int, int]:
    colours = picture.crop(box).getcolors(maxcolors=1_000_000)
    assert colours is not None
    return max(colours)[1]


def _red_cell(picture: Image.Image) -> tuple[int, int]:
    """Left upper corner of a place of 20 by 14 pixels that is all of a strong red: part of a heatmap's cell."""
    pixels = np.asarray(picture, dtype=np.int16)
    red = (pixels[..., 0] - pixels[..., 1:].max(axis=-1)) > 60
    whole = np.lib.stride_tricks.sliding_window_view(red, (14, 20)).all(axis=(2, 3))
    top, left = np.argwhere(whole)[0]
    return int(left), int(top)


def test_letters_that_are_drawn_a_little_differently_are_the_same():
    picture = _stored("overview")
    softer = Image.blend(picture, picture.filter(ImageFilter.GaussianBlur(0.6)), 0.5)
    assert compare(picture, picture).share == 0
    assert compare(picture, softer).same


def test_a_single_cell_of_another_colour_is_a_difference():
    picture = _stored("heatmap")
    left, top = _red_cell(picture)
    changed = picture.copy()
    ImageDraw.Draw(changed).rectangle((left - 2, top - 4, left + 22, top + 18), fill=(46, 125, 80))
    found = compare(picture, changed)
    assert not found.same and abs(found.at[0] - left) <= BLOCK and abs(found.at[1] - top) <= BLOCK


def test_a_chart_that_is_missing_is_a_difference():
    picture = _stored("server")
    changed = picture.copy()
    box = (60, picture.height // 2, 600, picture.height // 2 + 200)
    ImageDraw.Draw(changed).rectangle(box, fill=_most_common_colour(picture, box))
    assert not compare(picture, changed).same


def test_a_line_of_text_that_moved_or_is_gone_is_a_difference():
    picture = _stored("top")
    moved = picture.copy()
    moved.paste(picture.crop((0, 300, picture.width, 600)), (0, 308))
    assert not compare(picture, moved).same
    assert not compare(picture, picture.crop((0, 0, picture.width, picture.height - 1))).same


def test_pages_panels_sizes_and_schemes_differ_from_each_other():
    pictures = {path.name: Image.open(path).convert("RGB") for path in ALL}
    names = sorted(pictures)
    assert not any(compare(pictures[one], pictures[two]).same for one, two in itertools.pairwise(names))


def test_what_differs_is_shown(tmp_path):
    picture = _stored("heatmap")
    changed = Image.new("RGB", picture.size, "white")
    found = compare(picture, changed)
    show_difference(tmp_path / "differences", "heatmap", picture, changed, found)
    assert {path.name for path in (tmp_path / "differences").iterdir()} == {
        "heatmap-actual.png",
        "heatmap-expected.png",
        "heatmap-difference.png",
    }
