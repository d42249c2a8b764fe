# SPDX-License-Identifier: Apache-2.0
import csv
import io
import itertools
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from studies import make_study

from pyrel import data, metrics


def test_evaluation_holds_what_the_single_measures_give():
    rng = np.random.default_rng(1)
    relevance = rng.normal(size=(7, 12, 4, 2)).astype(np.float32)
    relevant = np.repeat(rng.permuted(np.tile([True, True, False], (7, 1)), axis=1), 4, axis=1)
    output, start, absorbed = rng.random((3, 7))
    e = metrics.evaluate(relevance, relevant, output=output, start=start, absorbed=absorbed)
    same = np.testing.assert_array_equal
    same(e.share.values, metrics.relevance_in_region(relevance, relevant))
    same(e.cosine_digit.values, metrics.cosine_similarity(relevance, relevant, "digit"))
    same(e.cosine_step.values, metrics.cosine_similarity(relevance, relevant, "step"))
    same(e.positivity.values, metrics.positivity(relevance))
    same(e.conservation.values, metrics.conservation_error(relevance, start, absorbed))
    same(e.step_shares, metrics.step_shares(relevance))
    same(e.total, metrics.total_relevance(relevance))
    same(e.output, output)
    assert e.propagates


def test_without_start_sums_are_compared_with_the_output():
    relevance, relevant = np.ones((2, 3, 1)), np.ones((2, 3), bool)
    e = metrics.evaluate(relevance, relevant, output=[3.0, 6.0])
    assert not e.propagates
    assert e.conservation.values.tolist() == [0.0, 0.5]
    assert metrics.evaluate(relevance, relevant).conservation is None
    with pytest.raises(ValueError, match="absorbed: given without start"):
        metrics.evaluate(relevance, relevant, output=[3.0, 6.0], absorbed=[0.0, 0.0])


@pytest.mark.parametrize(
    ("samples", "share", "cosine_step"),
    # DESIGN's numbers, 0.653 and 0.580, are those of the first 2,000 test digits; all 10,000 of
    # them give a little more.
    [(2_000, 0.653, 0.580), (10_000, 0.663, 0.590)],
)
def test_baselines_on_the_mnist_majority_problem(real_data, samples, share, cosine_step):
    images, labels = data.load_images("mnist", "test", root=real_data)
    problem = data.majority(images, labels, seed=0)
    evaluations = metrics.evaluate_baselines(problem.x[:samples], problem.relevant[:samples])
    assert evaluations["uniform"].share.mean == pytest.approx(2 / 3, rel=1e-12)
    assert evaluations["uniform"].cosine_digit.mean == pytest.approx(np.sqrt(2 / 3), rel=1e-12)
    assert evaluations["uniform"].cosine_step.mean == pytest.approx(np.sqrt(2 / 3), rel=1e-12)
    # Another seed moves the means by a standard error; 0.0005 more for the three printed digits.
    mass = evaluations["pixel_mass"]
    for summary, wanted in ((mass.share, share), (mass.cosine_step, cosine_step)):
        assert summary.mean == pytest.approx(wanted, abs=3 * summary.standard_error + 5e-4)
        assert summary.used == samples


def test_rows_hold_every_cell_and_method_and_the_baselines_last():
    study = make_study()
    rows = metrics.table_rows(study)
    assert [(r["cell"], r["method"]) for r in rows] == [
        ("Shallow", "sensitivity"),
        ("Shallow", "deep_taylor"),
        ("Deep", "sensitivity"),
        ("Deep", "deep_taylor"),
        (None, "uniform"),
        (None, "pixel_mass"),
    ]
    deep = study.cells["Deep"]
    assert rows[3]["accuracy"] == deep.accuracy.mean
    assert rows[3]["share"] == deep.evaluations["deep_taylor"].share.mean
    assert rows[3]["share_standard_error"] == deep.evaluations["deep_taylor"].share.standard_error
    assert rows[4]["accuracy"] is rows[4]["conservation"] is None
    assert rows[0]["used"] + rows[0]["left_out"] == len(study.relevant)
    assert rows[0]["left_out"] == 1


def test_csv_reads_back_and_text_lines_up():
    study = make_study(names=('Deep, "wide"', "Deep\nnarrow"))
    rows = metrics.table_rows(study)
    read = list(csv.DictReader(io.StringIO(metrics.table_csv(study))))
    assert [r["cell"] for r in read] == ['Deep, "wide"'] * 2 + ["Deep\nnarrow"] * 2 + ["", ""]
    assert float(read[1]["share"]) == rows[1]["share"]
    lines = metrics.table_text(make_study()).splitlines()
    assert len(lines) == 2 + len(rows)
    column = lines[0].index("share")
    assert lines[-2][column:].startswith("0.667 ± 0.000")
    assert all(line[column - 1] == " " for line in lines)


def test_saved_study_comes_back_whole(tmp_path):
    study = make_study()
    path = metrics.save_study(tmp_path / "evaluation.json", study)
    again = metrics.load_study(path)
    assert metrics.table_rows(again) == metrics.table_rows(study)
    assert (again.title, again.problem, again.config) == (study.title, study.problem, study.config)
    assert again.class_names == study.class_names
    np.testing.assert_array_equal(again.relevant, study.relevant)
    for name in ("x", "y", "relevant", "index"):
        np.testing.assert_array_equal(getattr(again.shown, name), getattr(study.shown, name))
    for name, cell in study.cells.items():
        assert again.cells[name].facts == cell.facts
        np.testing.assert_array_equal(again.cells[name].outputs, cell.outputs)
        kept, made = again.cells[name].degradation, cell.degradation
        assert list(kept.curves) == list(made.curves)
        for after, before in zip(
            (kept.random, *kept.curves.values()), (made.random, *made.curves.values()), strict=True
        ):
            np.testing.assert_array_equal(after.removed, before.removed)
            np.testing.assert_array_equal(after.scores, before.scores)
        for method, heatmap in cell.heatmaps.items():
            np.testing.assert_array_equal(again.cells[name].heatmaps[method], heatmap)
    for (*_, before), (*_, after) in zip(study.evaluations(), again.evaluations(), strict=True):
        np.testing.assert_array_equal(after.step_shares, before.step_shares)
        np.testing.assert_array_equal(after.total, before.total)
        np.testing.assert_array_equal(after.output, before.output)
        assert after.propagates == before.propagates
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation.json", "evaluation.npz"]


def test_the_json_alone_tells_the_numbers(tmp_path):
    study = make_study()
    path = metrics.save_study(tmp_path / "evaluation.json", study)
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    deep = content["cells"]["Deep"]
    wanted = study.cells["Deep"].evaluations["deep_taylor"].share
    assert deep["methods"]["deep_taylor"]["share"] == wanted.to_dict()
    assert deep["accuracy"]["mean"] == study.cells["Deep"].accuracy.mean
    assert content["baselines"]["uniform"]["conservation"] is None
    curves = study.cells["Deep"].degradation
    assert deep["degradation"]["areas"]["deep_taylor"] == curves.area("deep_taylor").to_dict()
    assert deep["degradation"]["area of random order"] == curves.random_area().to_dict()


def test_a_study_without_degradation_curves_comes_back_without(tmp_path):
    study = make_study()
    study = replace(study, cells={"Deep": replace(study.cells["Deep"], degradation=None)})
    path = metrics.save_study(tmp_path / "evaluation.json", study)
    assert metrics.load_study(path).cells["Deep"].degradation is None


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def damage_flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip])
def test_damaged_arrays_are_refused_by_name(tmp_path, damage):
    path = metrics.save_study(tmp_path / "evaluation.json", make_study())
    damage(path.with_suffix(".npz"))
    with pytest.raises(ValueError, match=r"evaluation\.npz: expected sha256 .* evaluate again"):
        metrics.load_study(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "pyrel eval', r"evaluation\.json is not a whole JSON file"),
        ('{"format": "pyrel evaluation 9"}', "expected format 'pyrel evaluation 2', found 'pyrel"),
        ("[1, 2]", "found None"),
    ],
    ids=["truncated", "another version", "another file"],
)
def test_damaged_json_is_refused_by_name(tmp_path, text, message):
    path = metrics.save_study(tmp_path / "evaluation.json", make_study())
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        metrics.load_study(path)


def test_json_with_a_part_missing_is_refused_by_name(tmp_path):
    path = metrics.save_study(tmp_path / "evaluation.json", make_study())
    content = json.loads(path.read_text())
    del content["cells"]["Deep"]["methods"]["deep_taylor"]["share"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"evaluation\.json lacks a part .*: 'share'"):
        metrics.load_study(path)


def test_files_of_two_evaluations_are_not_mixed(tmp_path):
    first = metrics.save_study(tmp_path / "a.json", make_study(seed=1))
    second = metrics.save_study(tmp_path / "b.json", make_study(seed=2))
    first.with_suffix(".npz").write_bytes(second.with_suffix(".npz").read_bytes())
    with pytest.raises(ValueError, match="belongs to another evaluation"):
        metrics.load_study(first)


def test_what_cannot_be_saved_is_refused_and_leaves_no_file(tmp_path):
    study = make_study()
    for config in ({"seed": object()}, {"rate": float("nan")}):
        with pytest.raises(TypeError, match="study: config and facts have to be JSON-able"):
            metrics.save_study(tmp_path / "evaluation.json", replace(study, config=config))
    objects = replace(study.shown, y=study.shown.y.astype(object))
    with pytest.raises(TypeError, match="shown/y holds Python objects"):
        metrics.save_study(tmp_path / "evaluation.json", replace(study, shown=objects))
    with pytest.raises(ValueError, match=r"ending in \.json, given 'evaluation'"):
        metrics.save_study("evaluation", study)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("writes", [1, 2])
def test_a_full_disk_leaves_the_earlier_evaluation(tmp_path, monkeypatch, writes):
    path = metrics.save_study(tmp_path / "evaluation.json", make_study(seed=1))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    calls = itertools.count(1)

    def fill(descriptor):
        if next(calls) == writes:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(OSError, match="No space left"):
        metrics.save_study(path, make_study(seed=2))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_parts_that_do_not_fit_are_named():
    study = make_study()
    cell, shown = study.cells["Deep"], study.shown
    for wrong, message in [
        (replace(cell, accuracy=metrics.Summary.of([1.0])), "Deep, accuracy: wanted 30 samples"),
        (replace(cell, outputs=np.zeros((3, 9))), r"Deep, outputs: .*\(3, 10\), given \(3, 9\)"),
        (replace(cell, heatmaps={}), "Deep, heatmaps: wanted the evaluated methods"),
        (
            replace(cell, heatmaps={m: h[:1] for m, h in cell.heatmaps.items()}),
            r"Deep, sensitivity: wanted heatmaps of shape \(3, 10, 12, 28, 7\)",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(study, cells={"Deep": wrong})
    with pytest.raises(ValueError, match="Shallow, sensitivity: wanted"):
        replace(study, relevant=study.relevant[:5])
    with pytest.raises(ValueError, match="y: wanted shape"):
        replace(shown, y=shown.y[:1])
    with pytest.raises(ValueError, match=r"x: wanted shape \(k, steps, height, width\)"):
        replace(shown, x=shown.x[0])


def test_metrics_load_neither_torch_nor_matplotlib():
    # The package's own __init__ may load torch; metrics themselves are imported without it.
    code = """
import sys, types
folder = sys.argv[1]
package = types.ModuleType("pyrel")
package.__path__ = [folder]
sys.modules.update(pyrel=package, torch=None, matplotlib=None, jinja2=None)
import pyrel.metrics
"""
    folder = metrics.__path__[0].rsplit("metrics", 1)[0]
    subprocess.run([sys.executable, "-c", code, folder], check=True)


def test_threads_that_save_to_one_path_leave_files_that_belong_together(tmp_path):
    path = tmp_path / "evaluation.json"
    made = [make_study(seed=seed) for seed in (1, 2)]
    titles = {study.title for study in made}
    metrics.save_study(path, made[0])
    failures = []

    def save(number):
        try:
            for _ in range(10):
                metrics.save_study(path, made[number % 2])
                assert metrics.load_study(path).title in titles
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation.json", "evaluation.npz"]
