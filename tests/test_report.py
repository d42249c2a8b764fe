# SPDX-License-Identifier: Apache-2.0
import base64
import hashlib
import io
import itertools
import json
import os
import platform
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from studies import make_study

from pyrel import methods, metrics, plots, report
from pyrel.report import words
from pyrel.report.explorer import explorer
from pyrel.report.findings import findings
from pyrel.report.page import config_sections
from pyrel.report.pictures import input_png, map_png

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A page taken apart: elements with their text, and whether the tags balance."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        self.text.append(data)
        for element in self.open:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]


@pytest.fixture(scope="module")
def study():
    return make_study()


@pytest.fixture(scope="module")
def html(study):
    return report.render(study)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_page_needs_nothing_from_anywhere(html, page):
    for element in page.elements:
        assert element["tag"] not in {"link", "iframe", "object", "embed"}
        for name in ("src", "href", "xlink:href", "data", "action"):
            target = element.get(name) or "#"
            assert target.startswith(("#", "data:image/png;base64,")), target[:80]
    assert not re.findall(r"@import|url\((?!#)", html)
    (policy,) = [e for e in page.all("meta") if e.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none';")
    # One script, which the policy names by its hash, and what it reads; both without a source.
    data, script = page.all("script")
    assert (data["type"], data["id"]) == ("application/json", "data")
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy["content"]
    assert not [name for e in page.elements for name in e if name.startswith("on")]


def test_ids_are_unique_and_every_reference_has_its_target(page):
    ids = [element["id"] for element in page.elements if "id" in element]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        names = [v[1:] for k, v in element.items() if k.endswith("href") and v.startswith("#")]
        names += [n for v in element.values() for n in re.findall(r"url\(#([^)]+)\)", str(v))]
        names += [n for n in (element.get("aria-labelledby") or "").split()]
        assert set(names) <= set(ids), names


def test_page_can_be_heard(page):
    assert page.all("html")[0]["lang"] == "en"
    assert [e["text"] for e in page.all("h1")] == ["A study"]
    pictures = page.all("svg")
    maps = [e for e in page.all("img") if e["alt"]]
    assert len(maps) == 2 * 3 and all(len(e["alt"]) > 30 for e in maps)
    asked = {e["id"] for e in page.all("select")}
    assert {e["for"] for e in page.all("label") if "for" in e} == asked
    assert [e["text"] for e in page.all("legend")] == ["Sample"]
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 40 for svg in pictures)
    for table in page.all("table"):
        assert "caption" in [e["tag"] for e in page.elements[page.elements.index(table) + 1 :][:1]]
    assert all(th.get("scope") in {"col", "row", "rowgroup"} for th in page.all("th"))


def test_every_figure_is_there(page):
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert sum("mean share of relevance at each step" in text for text in labels) == 2
    assert sum("sum of relevance against" in text for text in labels) == 2
    assert sum("mean probability of the true class against" in text for text in labels) == 2
    assert sum(text.startswith("Share of relevance in the majority") for text in labels) == 1
    assert len(labels) == 7


def test_every_sample_class_model_and_method_can_be_picked(page, study):
    options = {
        e["name"]: [o["text"] for o in page.all("option") if o in picked(page, e)]
        for e in page.all("select")
    }
    assert options["method"] == ["all methods", "Sensitivity", "Deep Taylor"]
    assert options["model"] == ["all models", "Shallow", "Deep"]
    true = int(study.shown.y[0])
    named = [f"{c} (true class, answer)" if c == true else str(c) for c in range(10)]
    assert options["class"] == named
    radios = [e for e in page.all("input") if e["type"] == "radio"]
    assert [e["value"] for e in radios] == ["0", "1", "2"]
    (data,) = [json.loads(e["text"]) for e in page.all("script") if e.get("id") == "data"]
    assert (data["models"], data["methods"]) == (
        ["Shallow", "Deep"],
        ["Sensitivity", "Deep Taylor"],
    )
    for k, sample in enumerate(data["samples"]):
        assert sample["true"] == study.shown.y[k]
        assert sample["marked"] == study.shown.relevant[k].tolist()
        assert np.array(sample["maps"]).shape == (10, 2, 2)
    wrong = data["samples"][1]
    other = (wrong["true"] + 1) % 10
    assert wrong["verdicts"] == [f"answers {other}: wrong"] * 2
    assert wrong["classes"][other] == f"{other} (answer)"


def picked(page, select):
    """Return the options of a select element."""
    first = page.elements.index(select) + 1
    rest = itertools.takewhile(lambda e: e["tag"] == "option", page.elements[first:])
    return list(rest)


def test_maps_of_the_page_are_those_of_the_study(study):
    made = explorer(study)
    for k, sample in enumerate(made.samples):
        for c, (i, cell), (j, method) in itertools.product(
            range(10), enumerate(study.cells), enumerate(study.methods())
        ):
            relevance = study.cells[cell].heatmaps[method][k, c]
            view = sample.maps[c][i][j]
            shares = metrics.step_shares(relevance[None])[0]
            assert len(view.bars) == 12
            if not relevance.any():
                assert view.note.startswith("empty map")
                assert set(view.bars) == {0}
                continue
            # A bar is in percent of the tallest, rounded to one.
            np.testing.assert_allclose(view.bars, 100 * shares / shares.max(), atol=0.5)
            share = metrics.relevance_in_region(relevance[None], study.shown.relevant[k : k + 1])[0]
            assert view.note == f"{share:.2f} in green steps"
            assert f"on {cell}, class {c}: {share:.2f} of the relevance" in view.alt


def test_an_empty_map_of_a_method_that_shares_out_has_its_reason(study):
    deep = study.cells["Deep"]
    outputs = deep.outputs.copy()
    empty = (study.shown.y[0] + 1) % 10
    outputs[0, empty] = -2.5
    study = replace(study, cells={"Deep": replace(deep, outputs=outputs)})
    sensitivity, deep_taylor = explorer(study).samples[0].maps[empty][0]
    assert sensitivity.note == "empty map"
    assert deep_taylor.note == "empty map: the score is −2.50, so there is nothing to share out"


def test_pictures_have_the_colours_of_the_figures():
    rng = np.random.default_rng(0)
    signed = rng.normal(size=(3, 4, 2))
    for steps in (signed, np.abs(signed), np.zeros((3, 4, 2))):
        image = plots.as_image(steps)
        colours, low, high = plots.colour_scale(image)
        wanted = colours((image - low) / (high - low))[:, :, :3] * 255
        shown = matplotlib.image.imread(io.BytesIO(base64.b64decode(map_png(steps))))
        assert shown.shape[:2] == image.shape
        # 63 levels of a half: a colour changes by less than 255 * 2.5 from one end to the other.
        np.testing.assert_allclose(shown[:, :, :3] * 255, wanted, atol=255 * 2.5 / 63 / 2 + 1)
    grey = matplotlib.image.imread(io.BytesIO(base64.b64decode(input_png(np.abs(signed)))))
    image = plots.as_image(np.abs(signed))
    wanted = (image - image.min()) / (image.max() - image.min())
    np.testing.assert_allclose(grey[:, :, 0], wanted, atol=1 / 63 / 2 + 1 / 255)


def test_a_study_without_degradation_curves_has_no_section_on_them(page, study):
    assert "Degradation" in [e["text"] for e in page.all("h2")]
    cells = {name: replace(cell, degradation=None) for name, cell in study.cells.items()}
    without = Page(report.render(replace(study, cells=cells)))
    assert "Degradation" not in [e["text"] for e in without.all("h2")]
    assert not [f for f in findings(replace(study, cells=cells)) if f.startswith("Degradation")]


def test_areas_under_the_curves_are_in_the_table(page, study):
    rows = [" ".join(e["text"].split()).replace("\u00a0", " ") for e in page.all("tr")]
    first = next(i for i, row in enumerate(rows) if row.startswith("Order of the patches"))
    for cell, result in study.cells.items():
        at = next(i for i in range(first, len(rows)) if rows[i].startswith(f"{cell} 30 samples"))
        for i, method in enumerate(result.degradation.curves, start=1):
            area, below = result.degradation.area(method), result.degradation.below_random(method)
            assert rows[at + i].startswith(words.label(method))
            for summary in (area, below):
                assert f"{summary.mean:.3f} ± {summary.standard_error:.3f}" in rows[at + i]
        assert rows[at + 4].startswith("random order")


def test_table_has_the_numbers_of_the_study(page, study):
    rows = [" ".join(e["text"].split()) for e in page.all("tr")]
    for cell, method, evaluation in study.evaluations():
        heading = f"{cell} accuracy" if cell else "Baselines"
        first = next(i for i, r in enumerate(rows) if r.startswith(heading))
        row = next(r for r in rows[first:] if r.startswith(words.label(method)))
        assert f"{evaluation.share.mean:.3f}" in row
        assert f"± {evaluation.share.standard_error:.3f}" in row.replace("\u00a0", " ")
        assert f"{evaluation.cosine_digit.mean:.3f}" in row
        assert f"{evaluation.cosine_step.mean:.3f}" in row
        difference = evaluation.share.values - study.baselines["pixel_mass"].share.values
        if method != "pixel_mass":
            assert f"{abs(np.nanmean(difference)):.3f}" in row
        if method == "sensitivity":
            assert "(1 left out)" in row
            assert "not claimed" in row
    for cell, result in study.cells.items():
        heading = next(r for r in rows if r.startswith(f"{cell} accuracy"))
        assert f"accuracy {result.accuracy.mean:.3f}" in heading
        assert "parameters 153,578, training seconds 61.25" in heading


def test_every_column_and_every_method_is_explained(page):
    columns = [" ".join(e["text"].split()) for e in page.all("th") if e.get("scope") == "col"]
    terms = [e["text"] for e in page.all("dt")]
    joined = [re.sub(r"\W", "", term) for term in terms]
    columns = [c for c in columns if not c.startswith(("Shallow", "Deep"))]
    for column in columns[1:7]:
        assert re.sub(r"\W", "", column) in joined, column
    explained = [e["text"].split(":")[0] for e in page.all("strong")]
    assert explained == ["Sensitivity", "Deep Taylor", "Uniform map", "Pixel mass"]


def test_configuration_is_there(page):
    rows = [e["text"].split("\n")[0] for e in page.all("tr")]
    assert {"seed7", "namemade up", "test samples30"} <= set(rows)


def test_configuration_becomes_titled_lists():
    config = {"seed": 7, "data": {"sizes": {"Deep": [256, 128]}, "cut": None}, "fast": True}
    assert config_sections(config) == [
        ("general", [("seed", "7"), ("fast", "True")]),
        ("data", [("sizes.Deep", "256, 128"), ("cut", "none")]),
    ]
    assert config_sections({}) == []


EVIL = "</svg><script>alert(\"x\")</script><b onmouseover='y'>&amp;$\\frac{"


def test_whatever_users_give_stays_text():
    study = make_study(shown=1, names=(EVIL, "Deep"), title=EVIL)
    cell = replace(study.cells["Deep"], facts={EVIL: EVIL})
    evaluations = cell.evaluations | {EVIL: cell.evaluations["deep_taylor"]}
    heatmaps = cell.heatmaps | {EVIL: cell.heatmaps["deep_taylor"]}
    cell = replace(cell, evaluations=evaluations, heatmaps=heatmaps)
    study = replace(
        study,
        problem=EVIL,
        cells=study.cells | {"Deep": cell},
        config={EVIL: {EVIL: EVIL}},
        class_names=(EVIL,) * 10,
    )
    page = Page(report.render(study))
    assert [e.get("id") for e in page.all("script")] == ["data", None]
    assert EVIL not in [e["text"] for e in page.all("b") if e["text"] != EVIL]
    assert not [e for e in page.elements if "onmouseover" in e]
    assert page.all("h1")[0]["text"] == page.all("title")[0]["text"] == EVIL
    ids = [element["id"] for element in page.elements if "id" in element]
    assert len(ids) == len(set(ids))


def test_text_that_looks_like_markup_of_a_figure_is_not_rewritten():
    study = make_study(shown=1, names=('x id="a"', "fill: #1f2328"))
    texts = "".join(svg["text"] for svg in Page(report.render(study)).all("svg"))
    assert 'x id="a"' in texts
    assert "fill: #1f2328" in texts
    assert "var(" not in texts


def test_same_study_gives_the_same_bytes_and_a_saved_one_too(tmp_path, study, html):
    saved = metrics.save_study(tmp_path / "evaluation.json", study)
    written = report.write(tmp_path / "report.html", report.load_study(saved))
    assert written.read_text() == html


def test_report_is_written_whole_or_not_at_all(tmp_path, study, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(source, target):
        raise OSError("disk gone")

    monkeypatch.setattr("pyrel.report.page.render", lambda study: "new")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        report.write(path, study)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def test_page_of_a_usual_study_is_small():
    # Two cells, eight samples and 1,000 of noise, which no compression makes smaller.
    study = make_study(n=1000, shown=8)
    assert len(report.render(study).encode()) < 3_000_000


def test_page_and_machine_facts_name_no_place_and_no_owner(html):
    facts = report.machine_facts(threads=3)
    assert facts["threads"] == 3
    assert {"processor", "cores", "system", "python", "pyrel", "torch", "numpy"} < set(facts)
    told = " ".join(map(str, facts.values()))
    # "/" alone is the home of some users, and tells nothing.
    for private in (str(place) for place in (Path.home(), Path.cwd()) if len(place.parts) > 1):
        assert private not in told
        assert private not in html
    assert platform.node() not in told.split()
    assert "threads" not in report.machine_facts()


def test_every_method_has_a_name_and_a_sentence_for_readers():
    assert set(words.METHODS) == set(methods.names())
    labels = [label for label, _ in words.METHODS.values()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("values", "sign", "text"),
    [
        ([0.25, 0.25], False, ("0.250", "±\u00a00.000")),
        ([0.25], True, ("+0.250", "")),
        ([-0.5, -0.5], True, ("−0.500", "±\u00a00.000")),
        ([-0.0001], True, ("0.000", "")),
        ([np.nan], True, ("–", "")),
    ],
)
def test_means_are_short(values, sign, text):
    assert words.plus_minus(metrics.Summary.of(values), sign) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (3.14e-7, "3.1 × 10⁻⁷"), (0.0099, "9.9 × 10⁻³"), (0.126, "0.13"), (np.nan, "–")],
)
def test_sizes_are_short(value, text):
    assert words.size(value) == text


def test_cells_beyond_two_and_a_single_sample_have_their_figures():
    study = make_study(n=1, shown=1, names=("A", "B", "C"))
    labels = [svg["aria-label"] for svg in Page(report.render(study)).all("svg")]
    assert sum("mean share of relevance at each step" in text for text in labels) == 4
