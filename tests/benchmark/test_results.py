# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the protocol on numbers that were made up, and what is shown of it."""

from __future__ import annotations

import dataclasses
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.console import Console

from pyrel import plots
from pyrel.benchmark.charts import figures
from pyrel.benchmark.contestants import CONTESTANTS
from pyrel.benchmark.results import Block, CaseResult, Protocol, Results, Spread, load_results
from pyrel.benchmark.tables import markdown, print_results

PEAKS = (100.0, 95.0, 89.0, 110.0, 99.0)  # 90 % of the highest is 99
OURS = (0.1, 0.2, 0.3, 0.4, 0.5)
THEIRS = (0.3, 0.5, 9.9, 0.8, 2.0)


def case(batch: int = 10) -> CaseResult:
    """Make a case; torch, for the test's sake, is compared with another peak than pyrel."""
    blocks = [
        Block({"avx512": p, "avx2": 2 * p}, {"pyrel": [a + 1, a], "torch": [b, b + 1]})
        for p, a, b in zip(PEAKS, OURS, THEIRS, strict=True)
    ]
    return CaseResult(
        cell="Deep",
        steps=12,
        method="deep_taylor",
        batch=batch,
        sizes="1-2",
        weights="random",
        inputs="uniform",
        zeros={"input": 0.0, "activations": 0.5},
        flops=5.0,
        bytes=2.0,
        undecided=(1, 9),
        isa={"pyrel": "avx512", "torch": "avx2"},
        blocks=blocks,
        errors={"pyrel": 1e-7, "torch": None},
        excesses={"pyrel": 0.1, "torch": None},
    )


@pytest.fixture
def results() -> Results:
    return Results(
        machine={"processor": "some"},
        protocol=Protocol(blocks=5, threads=2),
        titles={"pyrel": "pyrel", "torch": "torch by hand"},
        versions={"torch": {"torch": "2.0"}},
        notes={"torch": "its answers differ"},
        skipped={"jax": "jax not installed"},
        bandwidth=3.0,
        cases=(case(), case(batch=1000)),
    )


def test_blocks_of_a_busy_machine_are_dropped(results: Results) -> None:
    assert results.highest_peak == 110.0
    assert results.floor == pytest.approx(99.0)
    assert [block.peak["avx512"] for block in case().kept(99.0)] == [100.0, 110.0, 99.0]
    assert len(case().kept(0.0)) == 5
    assert case().kept(111.0) == []
    assert Results(machine={}, protocol=Protocol()).floor == 0


def test_the_highest_peak_is_that_of_the_run(results: Results) -> None:
    """A case that was measured on a busy machine throughout has no numbers."""
    block = Block({"avx512": 200.0, "avx2": 200.0}, {"pyrel": [1.0], "torch": [2.0]})
    quiet = dataclasses.replace(case(batch=7), blocks=[block])
    more = results.with_case(quiet)
    assert case().row("torch", more.floor) is None
    text = markdown(more)
    assert "|  | torch by hand* | – | – | – | – |" in text
    assert "|  | torch by hand* | 4 | 2.00 | 9 % | ∞ |" in text
    assert "5 of 5 (batch 10), 5 of 5 (batch 1,000), 0 of 1 (batch 7)" in text
    assert set(figures(more)) == {"throughput-deep-12-deep-taylor", "roofline"}


def test_medians_are_of_ratios_block_by_block() -> None:
    """The fastest call of each turn counts; ratios are 3, 2, 4 in the blocks that count."""
    row = case().row("torch", 99.0)
    assert row is not None
    assert row.ratio.median == pytest.approx(3.0)
    assert row.ratio.lower == pytest.approx(2.5)
    assert row.ratio.upper == pytest.approx(3.5)
    assert row.samples_per_second.median == pytest.approx(10 / 0.8)
    assert row.share_of_peak.median == pytest.approx(5 * 10 / 0.8 / 220)
    assert row.error == row.excess == float("inf")
    own = case().row("pyrel", 99.0)
    assert own is not None
    assert own.ratio == Spread(1.0, 1.0, 1.0)
    assert own.share_of_peak.median == pytest.approx(5 * 10 / 0.4 / 110)
    assert (own.error, own.excess) == (1e-7, 0.1)


def test_one_block_has_no_spread() -> None:
    assert Spread.of([2.5]) == Spread(2.5, 2.5, 2.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": 0},
        {"calls": 0},
        {"arrays": 0},
        {"threads": 0},
        {"pause": -0.1},
        {"turn_seconds": 0.0},
        {"least_peak": 1.1},
    ],
    ids=str,
)
def test_settings_without_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Protocol(**wrong)


def test_a_file_gives_back_what_was_saved(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "r.json")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    again = load_results(tmp_path / "r.json")
    assert markdown(again) == markdown(results)
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "r.json").read_text()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 99}', '{"format": 1, "protocol": {"blocks": 1}, "cases": [{}]}'],
)
def test_other_files_are_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=r"r\.json is no file of results"):
        load_results(tmp_path / "r.json")


def test_a_case_without_blocks_is_refused(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    content["cases"][0]["blocks"] = []
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="without blocks"):
        load_results(tmp_path / "r.json")


def test_tables_have_the_numbers(results: Results) -> None:
    text = markdown(results)
    assert "|  | torch by hand* | 12 | 3.00 (2.50–3.50) | 28 % | ∞ |" in text
    assert "| 1,000 | pyrel | 2,500 | 1.00 | 11364 % | 1e-07 |" in text
    assert "Blocks dropped: 2 of 5 (batch 10), 2 of 5 (batch 1,000)." in text
    assert "50 % of the activations" in text
    assert "* torch by hand: its answers differ" in text
    assert "Without jax: jax not installed." in text
    assert "torch 2.0" in text
    gradient = dataclasses.replace(case(), method="sensitivity")
    assert "torch by hand |" in markdown(dataclasses.replace(results, cases=(gradient,)))


@pytest.mark.parametrize("faster", [1, 100])
def test_tables_fit_into_a_terminal(results: Results, faster: float) -> None:
    """The widest contents that are expected, on 80 columns."""
    blocks = [
        dataclasses.replace(
            b, seconds={"pyrel": [b.best("pyrel") / faster], "torch": [1.0 + i * i]}
        )
        for i, b in enumerate(case().blocks)
    ]
    wide = dataclasses.replace(case(batch=10000), flops=5e-4 / faster, blocks=blocks)
    longest = max((c.title for c in CONTESTANTS), key=len)
    titles = {"pyrel": "pyrel", "torch": longest}
    shown = io.StringIO()
    console = Console(file=shown, width=80)
    print_results(dataclasses.replace(results, cases=(wide,), titles=titles), console)
    (line,) = [line for line in shown.getvalue().splitlines() if f"{longest}*  " in line]
    assert len(line) <= 80
    ratios = sorted((1 + i * i) * faster / OURS[i] for i in (0, 3, 4))  # of the blocks that count
    quartiles = (sum(ratios[:2]) / 2, sum(ratios[1:]) / 2)
    assert "({}–{})".format(*(f"{q:,.0f}" if q >= 100 else f"{q:.1f}" for q in quartiles)) in line


def test_figures_show_every_case(results: Results) -> None:
    drawn = figures(results)
    assert set(drawn) == {"throughput-deep-12-deep-taylor", "roofline"}
    for figure in drawn.values():
        svg = plots.to_svg(figure)
        ET.fromstring(svg)
        assert "$" not in svg  # numbers of a logarithmic axis, not matplotlib's formulas of them
        for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
            low, high = axis.get_view_interval()
            labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            assert len([label.get_text() for at, label in labels if low <= at <= high]) >= 2
    (axes,) = drawn["throughput-deep-12-deep-taylor"].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["pyrel"].get_xdata()) == [10, 1000]
    assert list(lines["pyrel"].get_ydata()) == pytest.approx([25.0, 2500.0])
    assert lines["all useful FLOPs at the peak"].get_ydata()[0] == 110 / 5
    assert figures(dataclasses.replace(results, cases=())) == {}
