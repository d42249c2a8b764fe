# SPDX-License-Identifier: Apache-2.0
"""The report in a browser: what is picked is what is shown, by keys and mouse, wide and narrow."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser as browsers
import pytest
from studies import make_study

from pyrel import report
from pyrel.metrics import Study
from pyrel.report.explorer import Explorer, explorer
from pyrel.report.words import METHODS

WIDE, PHONE = 1400, 400


@pytest.fixture(scope="module")
def study() -> Study:
    made = make_study()
    cells = dict(made.cells)
    # A model without one of the methods has a gap in its column.
    deep = cells["Deep"]
    maps = {**deep.heatmaps, "gradient": -deep.heatmaps["deep_taylor"]}
    evaluations = {**deep.evaluations, "gradient": deep.evaluations["sensitivity"]}
    cells["Deep"] = replace(deep, heatmaps=maps, evaluations=evaluations)
    return replace(made, cells=cells)


@pytest.fixture(scope="module")
def page(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(tmp_path_factory.mktemp("page") / "report.html", study)


@pytest.fixture(scope="module")
def made(study: Study) -> Explorer:
    return explorer(study)


@pytest.fixture(scope="module")
def started() -> Iterator[browsers.Browser]:
    path = browsers.found()
    if path is None:
        pytest.skip("needs Chromium: install the package chromium, or set PYREL_CHROMIUM to it")
    browser = browsers.Browser(path)
    yield browser
    browser.close()


@pytest.fixture
def browser(started: browsers.Browser) -> Iterator[browsers.Browser]:
    yield started
    assert started.faults == []


SHOWN = """
Array.from(document.querySelectorAll("#maps tr")).filter((row) => !row.hidden).map((row) =>
  Array.from(row.children).filter((cell) => cell.getClientRects().length).map((cell) => {
    const image = cell.querySelector("img"), note = cell.querySelector(".note");
    const bars = Array.from(cell.querySelectorAll(".bars i"));
    return image === null ? cell.innerText : {
      png: image.src, alt: image.alt, loaded: image.complete && image.naturalWidth,
      note: note && note.innerText,
      bars: bars.map((bar) => bar.style.height),
      marked: bars.map((bar) => bar.classList.contains("marked")),
    };
  }))
"""


def wanted(made: Explorer, k: int, c: int, methods: list[int], models: list[int]) -> list[Any]:
    """Return what SHOWN has to find."""
    sample = made.samples[k]
    marked = list(sample.marked)

    def picture(view: Any, note: str | None, bars: Any) -> Any:
        return {
            "png": made.prefix + view.png,
            "alt": view.alt,
            "loaded": 84,
            "note": note,
            "bars": [f"{bar}%" for bar in bars],
            "marked": marked,
        }

    heads = [f"{made.models[i]} {sample.verdicts[i]}\n{sample.scores[c][i]}" for i in models]
    rows = [["Input", *(picture(sample, None, [100 * on for on in marked]) for _ in models)]]
    for j in methods:
        views = [sample.maps[c][i][j] for i in models]
        rows.append(
            [
                made.methods[j],
                *(
                    "not explained with this method" if v is None else picture(v, v.note, v.bars)
                    for v in views
                ),
            ]
        )
    return [heads, *rows]


def check(
    browser: browsers.Browser,
    made: Explorer,
    k: int,
    c: int,
    methods: list[int] | None = None,
    models: list[int] | None = None,
) -> None:
    """Check that the page shows a sample and class, and says so."""
    methods = list(range(len(made.methods))) if methods is None else methods
    models = list(range(len(made.models))) if models is None else models
    shown = browser.run(SHOWN)
    shown[0] = [text for text in shown[0] if text]  # the corner is empty
    assert shown == wanted(made, k, c, methods, models)
    said = browser.run("document.getElementById('said').innerText")
    assert said.startswith(f"{made.samples[k].name}, class {made.samples[k].classes[c]}, ")
    width = browser.run("window.innerWidth")
    assert browser.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_keys_pick_sample_class_method_and_model(
    browser: browsers.Browser, page: Path, made: Explorer, width: int
) -> None:
    browser.open(page, width)
    first, second = made.samples[0].true, made.samples[1].true
    check(browser, made, 0, first)
    browser.run("document.querySelector('input[name=sample]').focus()")
    browser.press("ArrowRight")
    check(browser, made, 1, second)
    browser.press("Tab")
    browser.press("ArrowDown" if second < 9 else "ArrowUp")
    c = second + 1 if second < 9 else second - 1
    check(browser, made, 1, c)
    browser.press("Tab")
    browser.press("ArrowDown")
    check(browser, made, 1, c, methods=[0])
    browser.press("ArrowDown")
    check(browser, made, 1, c, methods=[1])
    text = browser.run("document.querySelector('[data-method-text]:not([hidden])').innerText")
    assert text == f"{METHODS['deep_taylor'][0]}: {METHODS['deep_taylor'][1]}."
    browser.press("Tab")
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    check(browser, made, 1, c, methods=[1], models=[1])
    for key, k in (("Tab", 1), ("Enter", 0), ("Tab", 0), (" ", 1), ("Enter", 2), ("Enter", 0)):
        browser.press(key)
        if key != "Tab":
            check(browser, made, k, made.samples[k].true, methods=[1], models=[1])


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_clicks_pick_sample_class_method_and_model(
    browser: browsers.Browser, page: Path, made: Explorer, width: int
) -> None:
    browser.open(page, width)
    browser.click(".thumb:nth-child(3)")
    check(browser, made, 2, made.samples[2].true)
    browser.click("button[value='1']")
    check(browser, made, 0, made.samples[0].true)
    browser.click("button[value='-1']")
    check(browser, made, 2, made.samples[2].true)
    for number, name in enumerate(("class", "method", "model")):
        browser.click(f"#pick-{name}")
        for key in ("Home", "ArrowDown", "Enter"):
            browser.press(key)
        picked = [{}, {"methods": [0]}, {"methods": [0], "models": [0]}][number]
        check(browser, made, 2, 1, **picked)


def test_every_choice_shows_its_own(browser: browsers.Browser, page: Path, made: Explorer) -> None:
    browser.open(page, WIDE)
    for k, c in itertools.product(range(len(made.samples)), range(10)):
        browser.run(
            f"(() => {{ const form = document.getElementById('pick');"
            f"const radio = form.elements.sample[{k}]; radio.checked = true;"
            f"radio.dispatchEvent(new Event('change'));"
            f"form.elements.class.value = '{c}';"
            f"form.elements.class.dispatchEvent(new Event('change')); }})()"
        )
        check(browser, made, k, c)


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_without_its_script_the_page_shows_the_first_sample(
    browser: browsers.Browser, page: Path, made: Explorer, width: int
) -> None:
    browser.open(page, width, script=False)
    told = browser.accessible()
    assert not {"combobox", "radio", "button"} & {node["role"] for node in told}
    assert any("With JavaScript you can pick" in node["name"] for node in told)
    sample = made.samples[0]
    views = [v for model in sample.maps[sample.true] for v in model if v]
    pictures = [node["name"] for node in told if node["role"] == "image"]
    assert {sample.alt, *(v.alt for v in views)} <= set(pictures)


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_a_screen_reader_is_told_what_everything_is(
    browser: browsers.Browser, page: Path, made: Explorer, width: int
) -> None:
    browser.open(page, width)
    told = browser.accessible()
    by_role: dict[str, list[str]] = {}
    for node in told:
        by_role.setdefault(node["role"], []).append(node["name"])
    assert by_role["combobox"] == ["Class to explain", "Method", "Model"]
    assert by_role["radio"] == [f"{sample.name}, class {sample.true}" for sample in made.samples]
    assert by_role["button"] == ["Previous sample", "Next sample"]
    assert "Sample" in by_role["group"]
    assert by_role["form"] == ["What the heatmaps show"]
    assert all(by_role["image"])
    tables = by_role["table"]
    assert any(name.startswith("Heatmaps of one sample") for name in tables)
    assert all(tables)
    # The heads of rows and columns stay so where the table is laid out for a telephone.
    for name in made.methods:
        assert name in by_role["rowheader"]
    for model, verdict in zip(made.models, made.samples[0].verdicts, strict=True):
        assert any(h.startswith(f"{model} {verdict}") for h in by_role["columnheader"])
    assert len(by_role["status"]) == 1


@pytest.mark.parametrize("names", [(), ("A", "B", "C", "Deep with long dropout")])
def test_no_window_scrolls_sideways(
    browser: browsers.Browser, page: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    if names:
        page = report.write(tmp_path / "report.html", make_study(shown=1, names=names))
    for width in (320, PHONE, 768, WIDE):
        browser.open(page, width)
        assert browser.run("window.innerWidth") == width
        assert browser.run("document.documentElement.scrollWidth") == width
        outside = browser.run(
            "Array.from(document.querySelectorAll('main *')).filter((e) => !e.closest('.scroll, svg"
            ", .heard') && e.getBoundingClientRect().right > window.innerWidth + 1)"
            ".map((e) => e.outerHTML.slice(0, 80))"
        )
        assert outside == []


def test_faults_of_a_page_are_found(browser: browsers.Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for fault in ("throw new Error('a')", "console.error('a')", "new Image().src = 'none.png'"):
        page.write_text(f"<!doctype html><title>t</title><body><script>{fault}</script>")
        browser.open(page, WIDE)
        for _ in range(600):  # until the browser has told of it
            if browser.run("1") and browser.faults:
                break
            time.sleep(0.05)
        assert browser.faults, fault
    browser.faults.clear()
