"""The report of a backtest: one page that needs nothing else, tells losses, and takes names for text."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_up_backtest import HOSTILE_NAME, TITLES, make_result

from backtest_report import render_report, write_report
from data_contract import METRICS, BacktestError

CHROMIUM = Path("/usr/bin/chromium")
VOID = {"meta", "br", "img", "link", "input", "hr", "path", "line", "rect", "circle", "col", "base"}


class Page(HTMLParser):
    """Elements, texts and attributes of a page; fails where tags are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, (tag, self.open[-3:], self.getpos())

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return make_result()


@pytest.fixture(scope="module")
def text(result: dict[str, Any]) -> str:
    return render_report(result)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def without_scores(result: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A small result: what a test looks at, and no plots, whose drawing takes time."""
    return {**copy.deepcopy(result), "by_step": [], "calibration": [], "examples": [], "alerts": None, **more}


def test_the_page_is_well_formed_and_has_a_head(text, page):
    assert text.startswith("<!doctype html>") and page.count("html") == page.count("main") == page.count("h1") == 1
    assert ("html", {"lang": "en"}) in page.elements
    assert page.count("section") == 11


def test_every_method_and_metric_appears_and_what_was_left_out_says_why(page):
    for title in (*TITLES.values(), *(metric.label for metric in METRICS), "AutoETS", "statsforecast is not installed"):
        assert title in page.texts, title


def test_the_page_needs_nothing_from_outside_and_runs_nothing(text, page):
    assert not re.findall(r"(?:https?:)?//[^\s\"'<]+", re.sub(r'xmlns(:\w+)?="[^"]+"', "", text))
    assert not {name for name, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("src", "href", "xlink:href") for name in attributes)
    assert "@import" not in text and "url(" not in text
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert "default-src 'none'" in policy


def test_hostile_names_are_text_everywhere(result, text, page):
    assert "<img" not in text and HOSTILE_NAME in " ".join(page.texts)
    hostile = without_scores(result)
    hostile["what"] |= {"data": HOSTILE_NAME, "notes": [HOSTILE_NAME]}
    hostile["what"]["model"]["name"] = HOSTILE_NAME
    hostile["methods"][1]["title"] = hostile["methods"][-1]["skipped"] = HOSTILE_NAME
    for row in hostile["scores"]:
        if row["group"] == "profile":
            row["value"] = HOSTILE_NAME
    shown = render_report(hostile)
    assert "<img" not in shown and "49" not in Page(shown).texts
    assert sum(HOSTILE_NAME in each for each in Page(shown).texts) >= 6


def test_losses_stand_in_the_verdict_and_are_marked_in_the_tables(page):
    assert any("(not on Memory)" in each for each in page.texts)
    assert any(each.startswith("It loses against Plain MLP in Memory CRPS") for each in page.texts)
    classes = [attributes.get("class") or "" for name, attributes in page.elements if name == "td"]
    assert sum("beats" in each for each in classes) >= 3, "CRPS, MASE and MAE of the memory"
    assert sum("lost" in each for each in classes) >= 3 and sum("best" in each for each in classes) > 20
    assert page.texts.count("better than the TFT") >= 3, "not by colour alone"


def test_a_result_that_is_good_everywhere_has_no_mark_of_a_loss(result):
    good = without_scores(result)
    for row in good["scores"]:
        if row["method"] == "tft" and row["group"] != "profile_known":
            row.update(crps=0.01, mase=0.01, mae=0.01 if row["mae"] is not None else None)
    shown = Page(render_report(good))
    assert "better than the TFT" not in shown.texts and "another is better" not in shown.texts
    assert any("on all 4 metrics" in each for each in shown.texts)


def test_every_plot_has_a_title_and_a_description_and_differs_in_more_than_colour(text):
    plots = re.findall(r'<svg role="img".*?</svg>', text, re.DOTALL)
    assert len(plots) == 4 * 4 + 3 + 8 + 1, "errors twice, calibration, coverage; alerts; examples; an explanation"
    for plot in plots:
        assert re.search(r"<title>[^<]+</title><desc>[^<]+</desc>", plot), plot[:200]
    curves = next(plot for plot in plots if "CPU: CRPS by hours ahead" in plot)
    dashes = re.findall(r'stroke="var\(--line-(\d)\)"[^>]*?(stroke-dasharray="[^"]*")?/?>', curves)
    assert {line for line, _ in dashes} == set("12345")
    assert len({dash for _, dash in dashes}) == 5


def test_an_error_curve_goes_through_its_scores(text):
    """The first and the last point of the model's curve, which the description says and the drawing shows."""
    plot = re.search(r'<svg role="img"[^>]*><title>CPU: CRPS by hours ahead.*?</svg>', text, re.DOTALL)[0]
    made_up = [0.3 * (0.4 + 0.6 * (step / 96) ** 0.5) for step in range(1, 97)]  # means over half hours
    assert f"TFT (this product): {sum(made_up[:6]) / 6:.3g} to {sum(made_up[-6:]) / 6:.3g};" in plot
    path = re.search(r'd="M([^"]+)" stroke="var\(--line-1\)"', plot)[1]
    heights = [float(y) for y in re.findall(r",(-?[\d.]+)", path)]
    assert len(heights) == 16 and heights[0] > heights[-1], "y grows downwards"


def test_without_alerts_examples_or_explanations_their_sections_are_absent(result):
    shown = render_report(without_scores(result, explanations=None))
    assert 'id="alerts"' not in shown and 'id="explanations"' not in shown and "Some forecasts" not in shown
    assert "Per profile" in shown


def test_alerts_show_the_rules_beside_the_model(page):
    for part in ("predict_linear", "Holt-Winters", "86.0 % (78 % to 92 %)", "75 min", "memory leak"):
        assert part in page.texts, part
    assert any("64 events that can be foreseen, 21 sudden ones" in each for each in page.texts)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"what": None, "methods": None, "scores": None},
        {"methods": [{"name": "tft"}], "scores": [{"method": "tft"}, 3], "by_step": [{}], "calibration": [{}]},
        {"examples": [{}, {"quantiles": {"0.5": [None]}, "past": None}], "alerts": {"methods": [{}]}},
        {"explanations": [{}, {"past": {"a": None}, "attention": {"past_hours": [{}]}, "anchors": {"all": None}}]},
        {"alerts": {"reliability": [{}], "by_kind": [{}], "operating_curve": [{}], "examples": [{}]}},
    ],
)
def test_what_is_missing_is_left_out(broken):
    assert "How good are the forecasts?" in Page(render_report(broken)).texts


def test_groups_without_labels_and_scores_that_are_none_are_dashes(result):
    some = without_scores(result)
    for row in some["scores"]:
        if row["value"] == "offline":
            row.update(crps=None, mase=None, mae=None, coverage_p10_p90=None, labels=0)
        if row["method"] == "ridge":
            row.update(mase=None)
    shown = Page(render_report(some))
    assert "offline" not in shown.texts and "recovery" in shown.texts and "–" in shown.texts


def test_the_file_appears_whole_or_not_at_all(result, tmp_path):
    target = tmp_path / "new" / "report.html"
    write_report(without_scores(result), target)
    assert target.read_text(encoding="utf-8").endswith("</html>")
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("here first")
    with pytest.raises(BacktestError, match="cannot be written") as caught:
        write_report({}, tmp_path / "file" / "report.html")
    assert caught.value.why and caught.value.fix


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium")
def test_the_page_fits_wide_and_narrow_screens_and_nothing_is_asked_for_or_run(text, tmp_path):
    from playwright.sync_api import sync_playwright

    target = tmp_path / "report.html"
    target.write_text(text, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in ((1280, "light"), (390, "dark")):
            context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
            opened = context.new_page()
            asked: list[str] = []
            faults: list[str] = []
            opened.on("request", lambda request, asked=asked: asked.append(request.url))
            opened.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
            opened.on("console", lambda message, faults=faults: faults.append(message.text))
            opened.goto(target.as_uri())
            opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            content, shown = opened.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert content <= shown, f"{content} px wide on a screen of {shown} px"
            assert asked == [target.as_uri()] and not faults
            ground, ink = opened.evaluate(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
            assert (sum(map(int, re.findall(r"\d+", ground))) > sum(map(int, re.findall(r"\d+", ink)))) == (
                scheme == "light"
            )
            context.close()
        browser.close()
