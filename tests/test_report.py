# SPDX-License-Identifier: Apache-2.0
import os
import platform
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from studies import make_study

from pyrel import methods, metrics, report
from pyrel.report import words
from pyrel.report.page import config_sections

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
        assert element["tag"] not in {"script", "link", "iframe", "object", "embed"}
        for name in ("src", "href", "xlink:href", "data", "action"):
            target = element.get(name) or "#"
            assert target.startswith(("#", "data:image/png;base64,")), target[:80]
    assert not re.findall(r"@import|url\((?!#)", html)
    (policy,) = [e for e in page.all("meta") if e.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none';")


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
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 40 for svg in pictures)
    for table in page.all("table"):
        assert "caption" in [e["tag"] for e in page.elements[page.elements.index(table) + 1 :][:1]]
    assert all(th.get("scope") in {"col", "row", "rowgroup"} for th in page.all("th"))


def test_every_figure_is_there(page, study):
    labels = [svg["aria-label"] for svg in page.all("svg")]
    samples = len(study.shown.y)
    assert sum("input picture and relevance maps" in text for text in labels) == samples
    assert sum("mean share of relevance at each step" in text for text in labels) == 2
    assert sum("sum of relevance against" in text for text in labels) == 2
    assert sum(text.startswith("Share of relevance in the majority") for text in labels) == 1
    assert len(labels) == samples + 5


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
    for column in columns[1:]:
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
    assert not page.all("script") and not page.all("b")
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


def with_measure(study, cell, method, values, name="share"):
    result = study.cells[cell]
    evaluation = replace(result.evaluations[method], **{name: metrics.Summary.of(values)})
    result = replace(result, evaluations=result.evaluations | {method: evaluation})
    return replace(study, cells=study.cells | {cell: result})


def test_findings_name_the_best_and_who_is_ahead(study):
    n = len(study.relevant)
    wave = np.resize([-0.01, 0.01], n)
    study = with_measure(study, "Deep", "deep_taylor", 0.9 + wave)
    study = with_measure(study, "Shallow", "deep_taylor", 0.8 - wave)
    study = with_measure(study, "Deep", "sensitivity", 0.6 + wave)
    study = with_measure(study, "Shallow", "sensitivity", 0.6 - wave)
    found = [f.replace("\u00a0", " ") for f in words.findings(study)]
    assert found[0].startswith(
        "The highest share of relevance in the majority steps: Deep Taylor on"
    )
    assert "Deep, 0.900 ± 0.002" in found[0]
    assert "uniform map 0.667" in found[0]
    # Alternating ±0.02 around 0.1: standard error 0.02 / sqrt(29).
    assert "Share with Deep Taylor: Deep has clearly more than Shallow, by 0.100 ± 0.004." in found
    assert any("Sensitivity: Deep and Shallow do not differ clearly" in f for f in found)


def test_findings_say_who_is_above_and_below_the_pixels(study):
    mass = study.baselines["pixel_mass"]
    # Over pixel mass by ±0.01 in turn, of mean 0 and of standard error 0.01 / sqrt(29) = 0.0019:
    # a shift by 0.0037 is not clear, one by 0.0038 is.
    wave = np.resize([-0.01, 0.01], len(study.relevant))
    shifts = {
        ("Shallow", "sensitivity"): 0.0037,
        ("Shallow", "deep_taylor"): -0.0038,
        ("Deep", "sensitivity"): -0.0037,
        ("Deep", "deep_taylor"): 0.0038,
    }
    for (cell, method), shift in shifts.items():
        for name, sign in (("share", 1), ("cosine_digit", -1)):
            values = getattr(mass, name).values + wave + sign * shift
            study = with_measure(study, cell, method, values, name)
    found = words.findings(study)
    assert (
        f"The share of pixel mass is {mass.share.mean:.3f}. Clearly above pixel mass: Deep Taylor "
        f"on Deep. Clearly below pixel mass: Deep Taylor on Shallow. Not clearly above or below "
        f"it: Sensitivity on Shallow and Deep."
    ) in found
    assert (
        f"The cosine by digit of pixel mass is {mass.cosine_digit.mean:.3f}, that of the uniform "
        f"map 0.816. Clearly above pixel mass: Deep Taylor on Shallow. Clearly below pixel mass: "
        f"Deep Taylor on Deep. Not clearly above or below it: Sensitivity on Shallow and Deep."
    ) in found


def test_findings_say_when_all_are_above_the_pixels(study):
    mass = study.baselines["pixel_mass"].cosine_digit
    for cell, method, _ in study.evaluations():
        if cell:
            study = with_measure(study, cell, method, mass.values + 0.01, "cosine_digit")
    (sentence,) = [f for f in words.findings(study) if f.startswith("The cosine by digit")]
    assert sentence.endswith("Every method on every cell is clearly above pixel mass.")


def test_findings_warn_of_what_is_not_to_be_trusted(study):
    deep = study.cells["Deep"]
    lost = metrics.Summary.of(np.resize([1e-7, 3e-4], len(study.relevant)))
    evaluations = deep.evaluations | {
        "deep_taylor": replace(deep.evaluations["deep_taylor"], conservation=lost)
    }
    guess = metrics.Summary.of(np.resize([True, False], len(study.relevant)))
    worse = replace(deep, evaluations=evaluations, accuracy=guess)
    found = words.findings(replace(study, cells=study.cells | {"Deep": worse}))
    assert any(
        f.startswith("Deep Taylor on Deep does not conserve: up to 3.0 × 10⁻⁴") for f in found
    )
    assert any(
        f.startswith("Relevance is conserved by Deep Taylor on Shallow: in no") for f in found
    )
    assert any(f.startswith("Deep is right on 0.500") for f in found)
    assert not any(f.startswith("Shallow is right") for f in found)
    assert any("at most 1 of 30: Sensitivity on Shallow and Deep." in f for f in found)


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
    assert sum("input picture and relevance maps" in text for text in labels) == 2
    assert sum("mean share of relevance at each step" in text for text in labels) == 4
