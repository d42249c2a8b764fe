# SPDX-License-Identifier: Apache-2.0
"""A study as files: JSON for people and programs, and the arrays beside it as .npz."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrel.files.atomic import replacing, together
from pyrel.files.foreign import parsing, read_whole, shown
from pyrel.metrics.degradation import Degradation, DegradationCurves
from pyrel.metrics.evaluation import Evaluation
from pyrel.metrics.study import CellResult, ShownSamples, Study
from pyrel.metrics.summary import Summary

FORMAT = "pyrel evaluation 2"  # 1 had heatmaps of the true class alone

_Arrays = dict[str, NDArray[Any]]
_MEASURES = ("share", "cosine_digit", "cosine_step", "positivity", "conservation")


def save_study(path: str | os.PathLike[str], study: Study) -> Path:
    """Write a study to `path` (.json) and the arrays to the .npz of the same name.

    Both files are written whole or neither is: an error leaves an earlier evaluation of that name
    as it was. The JSON repeats every summary for readers and names the checksum of the arrays, so
    that files of two evaluations are never read as one.

    Returns
    -------
    The path of the JSON file.

    Raises
    ------
    ValueError
        If `path` does not end in .json.
    TypeError
        If `study.config` or a fact of a cell cannot be written as JSON, or an array holds objects.
    """
    path = _json_path(path)
    arrays: _Arrays = {}
    content = _describe(study, arrays)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_plain(arrays))
    content["arrays_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    try:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"study: config and facts have to be JSON-able: {error}") from error
    with replacing(path.with_suffix(".npz"), path) as (npz_file, json_file):
        npz_file.write(buffer.getvalue())
        json_file.write(text.encode())
    return path


def load_study(path: str | os.PathLike[str]) -> Study:
    """Read a study that `save_study` wrote.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    ValueError
        If a file is damaged, of another format, or the two do not belong together.
    """
    path = _json_path(path)
    arrays_path = path.with_suffix(".npz")
    with together(path.parent):
        content = _parsed(path, read_whole(path))
        raw = read_whole(arrays_path)
    arrays = _arrays(arrays_path, raw, content.get("arrays_sha256"))
    with parsing(path, "lacks a part of the evaluation, or has another in its place: {error}"):
        return _rebuild(content, arrays)


def _plain(arrays: _Arrays) -> dict[str, Any]:
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"study: {name} holds Python objects; wanted an array of numbers")
    return arrays


def _json_path(path: str | os.PathLike[str]) -> Path:
    if Path(path).suffix != ".json":
        raise ValueError(f"path: wanted a name ending in .json, given {os.fspath(path)!r}")
    return Path(path)


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    with parsing(path, "is not a whole JSON file ({error}); evaluate again"):
        content = json.loads(raw)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{shown(path)}: expected format {FORMAT!r}, found {shown(repr(found))}; evaluate again"
        )
    return dict(content)


def _arrays(path: Path, raw: bytes, expected: object) -> _Arrays:
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise ValueError(
            f"{shown(path)}: expected sha256 {shown(expected)}, found {found}; the file is damaged "
            f"or belongs to another evaluation; evaluate again"
        )
    with (
        parsing(path, "is not an .npz file of plain arrays: {error}"),
        np.load(io.BytesIO(raw), allow_pickle=False) as file,
    ):
        return dict(file)


def _describe(study: Study, arrays: _Arrays) -> dict[str, Any]:
    arrays["relevant"] = study.relevant
    for name in ("x", "y", "relevant", "index"):
        arrays[f"shown/{name}"] = getattr(study.shown, name)
    cells = {
        name: _describe_cell(result, f"cell{i}", arrays)
        for i, (name, result) in enumerate(study.cells.items())
    }
    return {
        "format": FORMAT,
        "title": study.title,
        "problem": study.problem,
        "class_names": list(study.class_names),
        "samples": len(study.relevant),
        "cells": cells,
        "baselines": _describe_methods(study.baselines, "baseline", arrays),
        "config": study.config,
    }


def _describe_cell(result: CellResult, key: str, arrays: _Arrays) -> dict[str, Any]:
    arrays[f"{key}/accuracy"] = result.accuracy.values
    arrays[f"{key}/outputs"] = result.outputs
    for i, heatmap in enumerate(result.heatmaps.values()):
        arrays[f"{key}/heatmap{i}"] = heatmap
    return {
        "key": key,
        "accuracy": result.accuracy.to_dict(),
        "facts": result.facts,
        "heatmaps": list(result.heatmaps),
        "methods": _describe_methods(result.evaluations, f"{key}/method", arrays),
        "degradation": _describe_degradation(result.degradation, f"{key}/degradation", arrays),
    }


def _describe_degradation(
    made: DegradationCurves | None, key: str, arrays: _Arrays
) -> dict[str, Any] | None:
    if made is None:
        return None
    arrays[f"{key}/removed"] = made.random.removed
    arrays[f"{key}/random"] = made.random.scores
    for i, curve in enumerate(made.curves.values()):
        arrays[f"{key}/curve{i}"] = curve.scores
    return {
        "samples": len(made.random.scores),
        "area of random order": made.random_area().to_dict(),
        "areas": {method: made.area(method).to_dict() for method in made.curves},
    }


def _describe_methods(
    evaluations: dict[str, Evaluation], prefix: str, arrays: _Arrays
) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for i, (method, evaluation) in enumerate(evaluations.items()):
        key = f"{prefix}{i}"
        summaries = evaluation.summaries()
        for name, summary in summaries.items():
            if summary is not None:
                arrays[f"{key}/{name}"] = summary.values
        arrays[f"{key}/step_shares"] = evaluation.step_shares
        arrays[f"{key}/total"] = evaluation.total
        if evaluation.output is not None:
            arrays[f"{key}/output"] = evaluation.output
        described[method] = {"key": key, "propagates": evaluation.propagates} | {
            name: summary.to_dict() if summary else None for name, summary in summaries.items()
        }
    return described


def _rebuild(content: dict[str, Any], arrays: _Arrays) -> Study:
    shown = {name: arrays[f"shown/{name}"] for name in ("x", "y", "relevant", "index")}
    return Study(
        title=content["title"],
        problem=content["problem"],
        relevant=arrays["relevant"],
        cells={name: _rebuild_cell(cell, arrays) for name, cell in content["cells"].items()},
        baselines=_rebuild_methods(content["baselines"], arrays),
        shown=ShownSamples(**shown),
        config=content["config"],
        class_names=tuple(content["class_names"]),
    )


def _rebuild_cell(cell: dict[str, Any], arrays: _Arrays) -> CellResult:
    key = cell["key"]
    return CellResult(
        accuracy=Summary.of(arrays[f"{key}/accuracy"]),
        evaluations=_rebuild_methods(cell["methods"], arrays),
        heatmaps={name: arrays[f"{key}/heatmap{i}"] for i, name in enumerate(cell["heatmaps"])},
        outputs=arrays[f"{key}/outputs"],
        facts=cell["facts"],
        degradation=_rebuild_degradation(cell["degradation"], f"{key}/degradation", arrays),
    )


def _rebuild_degradation(
    described: dict[str, Any] | None, key: str, arrays: _Arrays
) -> DegradationCurves | None:
    if described is None:
        return None
    removed = arrays[f"{key}/removed"]
    curves = {
        method: Degradation(removed, arrays[f"{key}/curve{i}"])
        for i, method in enumerate(described["areas"])
    }
    return DegradationCurves(curves, Degradation(removed, arrays[f"{key}/random"]))


def _rebuild_methods(described: dict[str, Any], arrays: _Arrays) -> dict[str, Evaluation]:
    return {method: _rebuild_evaluation(entry, arrays) for method, entry in described.items()}


def _rebuild_evaluation(entry: dict[str, Any], arrays: _Arrays) -> Evaluation:
    key = entry["key"]
    summaries = {
        name: Summary.of(arrays[f"{key}/{name}"]) if entry[name] is not None else None
        for name in _MEASURES
    }
    return Evaluation(
        **summaries,  # type: ignore[arg-type]
        propagates=bool(entry["propagates"]),
        step_shares=arrays[f"{key}/step_shares"],
        total=arrays[f"{key}/total"],
        output=arrays.get(f"{key}/output"),
    )
