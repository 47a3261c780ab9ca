"""What a training's losses look like: one picture, redrawn after every epoch.

Drawn with Pillow, which is there anyway (Streamlit needs it); a plotting library would be a larger dependency than two
lines are worth. Knows nothing of the training itself.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from common_utils import atomic_path

SIZE = (960, 540)
_LEFT, _TOP, _RIGHT, _BOTTOM = 80, 60, 30, 60
_INK, _GRID, _PAPER = "#222222", "#dddddd", "#ffffff"
_COLOURS = {"training loss": "#1f77b4", "validation loss": "#d62728"}
_MOST_MARKS = 60  # epochs beyond which single ones are not marked


def draw_losses(path: Path, epochs: Sequence[int], training: Sequence[float], validation: Sequence[float]) -> None:
    """Write a PNG of both losses over the epochs, the best epoch marked; atomically.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    picture = Image.new("RGB", SIZE, _PAPER)
    draw = ImageDraw.Draw(picture)
    font, large = ImageFont.load_default(16), ImageFont.load_default(20)
    values = [value for value in (*training, *validation) if math.isfinite(value)] or [0.0]
    ticks = _ticks(min(values), max(values))
    first, last = epochs[0], max(epochs[-1], epochs[0] + 1)

    def place(epoch: float, loss: float) -> tuple[float, float]:
        across = (epoch - first) / (last - first)
        up = (loss - ticks[0]) / (ticks[-1] - ticks[0])
        return _LEFT + across * (SIZE[0] - _LEFT - _RIGHT), SIZE[1] - _BOTTOM - up * (SIZE[1] - _TOP - _BOTTOM)

    for tick in ticks:
        left, right = place(first, tick), place(last, tick)
        draw.line([left, right], fill=_GRID)
        draw.text((left[0] - 8, left[1]), f"{tick:.4g}", fill=_INK, font=font, anchor="rm")
    for epoch in _whole_ticks(first, last):
        x, y = place(epoch, ticks[0])
        draw.line([(x, y), (x, y + 5)], fill=_INK)
        draw.text((x, y + 8), str(epoch), fill=_INK, font=font, anchor="mt")
    draw.line([place(first, ticks[0]), place(last, ticks[0])], fill=_INK)
    draw.text((SIZE[0] / 2, SIZE[1] - 8), "epoch", fill=_INK, font=font, anchor="mb")

    best = min(range(len(epochs)), key=lambda k: validation[k])
    x, y = place(epochs[best], validation[best])
    draw.ellipse([x - 9, y - 9, x + 9, y + 9], outline=_INK, width=2)
    at = _LEFT
    for (name, colour), losses in zip(_COLOURS.items(), (training, validation), strict=True):
        points = [place(epoch, loss) for epoch, loss in zip(epochs, losses, strict=True) if math.isfinite(loss)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=3, joint="curve")
        for x, y in points if len(points) <= _MOST_MARKS else []:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        draw.line([(at, 30), (at + 30, 30)], fill=colour, width=3)
        draw.text((at + 38, 30), name, fill=_INK, font=large, anchor="lm")
        at += 60 + int(large.getlength(name))
    best_text = f"best: {validation[best]:.4f} in epoch {epochs[best]}"
    draw.ellipse([at + 4, 21, at + 22, 39], outline=_INK, width=2)
    draw.text((at + 30, 30), best_text, fill=_INK, font=large, anchor="lm")
    with atomic_path(path) as partial:
        picture.save(partial, format="PNG")


def _ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers that enclose a range."""
    span = max(high - low, 1e-3 * abs(high), 1e-9)
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough)
    first = math.floor(low / step)
    return [step * k for k in range(first, math.ceil(high / step) + 1)] if high > low else [step * first, low + step]


def _whole_ticks(first: int, last: int) -> range:
    """At most about twelve epochs, evenly apart."""
    return range(first, last + 1, max(1, math.ceil((last - first) / 12)))


def _self_check() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for losses in ([0.5], [0.5, 0.4, 0.41], [1e-7, 1e7], [2.0, 2.0, 2.0]):
            epochs = range(1, len(losses) + 1)
            draw_losses(Path(folder) / "losses.png", epochs, losses, losses)
            with Image.open(Path(folder) / "losses.png") as picture:
                assert picture.size == SIZE
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
