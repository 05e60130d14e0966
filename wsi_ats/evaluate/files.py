"""evaluation.json, evaluation.csv, comparison.json and comparison.csv, whose keys and columns docs/formats.md names."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from wsi_ats.atomic import write_atomic
from wsi_ats.batch.job import versions
from wsi_ats.evaluate.answers import Answers
from wsi_ats.evaluate.compare import Comparison, TaskComparison
from wsi_ats.evaluate.curves import curves_of, survival_groups
from wsi_ats.evaluate.join import Truth
from wsi_ats.evaluate.run import Evaluation, How, Part, TaskEvaluation
from wsi_ats.output import writing
from wsi_ats.shown import cell, csv_bytes, shown
from wsi_ats.statistics.evaluation import alternatives
from wsi_ats.statistics.interval import LEVEL, Interval
from wsi_ats.tasks.answer import number_cell

FORMAT = 1
"""Number of the files' format, raised when what is written changes its meaning."""
Values = dict[str, Any]
Rows = Iterable[Sequence[object]]


def write_evaluation(evaluation: Evaluation, out: Path | str) -> None:
    """Write evaluation.json and evaluation.csv into the folder `out`."""
    _write(Path(out), "evaluation", evaluation_values(evaluation), _evaluation_rows(evaluation))


def write_comparison(comparison: Comparison, out: Path | str) -> None:
    """Write comparison.json and comparison.csv into the folder `out`."""
    _write(Path(out), "comparison", comparison_values(comparison), _comparison_rows(comparison))


def evaluation_values(evaluation: Evaluation) -> Values:
    """An evaluation as plain values of JSON; null where there is no number."""
    joined = evaluation.joined
    values = {
        "format": FORMAT,
        **_provenance(evaluation.truth, evaluation.how),
        "answers": _answers(joined.answers),
        "seeds": list(evaluation.seeds),
        "flow": joined.flow.to_values(),
        "warnings": [shown(words) for words in evaluation.warnings],
        "tasks": [_task(task, evaluation) for task in evaluation.tasks],
    }
    return dict(_plain(values))


def comparison_values(comparison: Comparison) -> Values:
    """A comparison as plain values of JSON; null where there is no number."""
    values = {
        "format": FORMAT,
        **_provenance(comparison.truth, comparison.how),
        "answers": [_answers(joined.answers) for joined in comparison.joined],
        "flow": [joined.flow.to_values() for joined in comparison.joined],
        "tasks": [_compared(task) for task in comparison.tasks],
    }
    return dict(_plain(values))


def _provenance(truth: Truth, how: How) -> Values:
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "manifest": {
            "path": str(truth.path),
            "sha256": _digest(truth.path),
            "split": how.chosen.split,
            "site": truth.site_column or None,
        },
        "intervals": {
            "by": "bootstrap over patients",
            "method": how.method,
            "resamples": how.resamples,
            "seed": how.seed,
            "level": LEVEL,
        },
    }


def _answers(answers: Answers) -> Values:
    return {
        "path": str(answers.path),
        "sha256": _digest(answers.path),
        "model": dict(answers.model) or None,
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _task(task: TaskEvaluation, evaluation: Evaluation) -> Values:
    answered, spec = task.answered, task.task.spec
    sites = [evaluation.joined.sites[place] for place in task.rows.tolist()]
    return {
        "task": spec.name,
        "kind": spec.kind,
        "names": list(answered.names),
        "positive": task.positive or None,
        "threshold": task.threshold,
        "rule": task.rule,
        "point": spec.point.to_values() if spec.point else None,
        "counts": task.task.counts(answered.targets),
        "parts": [_part(part, task) for part in task.parts],
        "confusion": _confusion(task),
        "curves": [curves_of(part, task.patients, sites, evaluation.how) for part in alternatives(answered)],
        "survival": survival_groups(answered, task.patients, evaluation.how),
        "slides": _slides(task, evaluation),
    }


def _part(part: Part, task: TaskEvaluation) -> Values:
    figures = []
    for number, sampled in enumerate(part.figures):
        figure = {"name": sampled.figure.name, "of": sampled.figure.of, **asdict(sampled.interval)}
        spread = task.spread(number) if part.by == "all" else None
        if spread is not None:
            values = task.by_seed[:, number].tolist()
            figure["over_seeds"] = {
                "values": values,
                **dict(zip(("sd", "least", "largest"), spread, strict=True)),
            }
        figures.append(figure)
    return {
        "by": part.by,
        "member": part.member,
        "slides": part.slides,
        "patients": part.patients,
        "figures": figures,
    }


def _confusion(task: TaskEvaluation) -> list[list[int]] | None:
    """Numbers of slides of each true class (rows) and each answer (columns)."""
    if task.answered.kind not in ("classes", "ordinal"):
        return None
    from sklearn.metrics import confusion_matrix

    truth = task.answered.targets[:, 0].astype(np.int64)
    labels = np.arange(len(task.answered.names))
    found: list[list[int]] = confusion_matrix(truth, task.answered.decisions, labels=labels).tolist()
    return found


def _slides(task: TaskEvaluation, evaluation: Evaluation) -> list[Values]:
    answered, joined = task.answered, evaluation.joined
    decided = answered.kind in ("classes", "ordinal")
    ids = joined.answers.table.column(joined.answers.slide)
    return [
        {
            "slide": cell(joined.rows[place].slide),
            "in_answers": ids[joined.places[place]],
            "patient": cell(joined.rows[place].patient),
            "site": cell(joined.sites[place]),
            "fold": cell(joined.folds[place]),
            "target": answered.targets[i].tolist(),
            "decision": answered.names[answered.decisions[i]] if decided else None,
            "values": answered.values[i].tolist(),
        }
        for i, place in enumerate(task.rows.tolist())
    ]


def _compared(task: TaskComparison) -> Values:
    return {
        "task": task.task.spec.name,
        "kind": task.task.spec.kind,
        "names": list(task.task.spec.names),
        "slides": task.slides,
        "patients": task.patients,
        "figures": [
            {
                "name": figure.difference.figure.name,
                "of": figure.difference.figure.of,
                "first": figure.first,
                "second": figure.second,
                "difference": asdict(figure.difference.interval),
                "p": figure.p,
            }
            for figure in task.figures
        ],
        "delong": [{"of": of, **asdict(found)} for of, found in task.areas],
        "mcnemar": None
        if task.decisions is None
        else {**asdict(task.decisions), "clustered": task.clustered},
    }


def _evaluation_rows(evaluation: Evaluation) -> Rows:
    yield (
        *("task", "by", "member", "slides", "patients", "figure", "of"),
        *("value", "low", "high", "note", "sd_over_seeds"),
    )
    for task in evaluation.tasks:
        for part in task.parts:
            for number, sampled in enumerate(part.figures):
                spread = task.spread(number) if part.by == "all" else None
                yield (
                    *(task.task.spec.name, part.by, part.member, part.slides, part.patients),
                    *(sampled.figure.name, sampled.figure.of, *_cells(sampled.interval)),
                    number_cell(spread and spread[0]),
                )


def _comparison_rows(comparison: Comparison) -> Rows:
    yield "task", "figure", "of", "first", "second", "difference", "low", "high", "note", "p"
    for task in comparison.tasks:
        for figure in task.figures:
            sampled = figure.difference
            yield (
                *(task.task.spec.name, sampled.figure.name, sampled.figure.of),
                *(number_cell(figure.first), number_cell(figure.second), *_cells(sampled.interval)),
                number_cell(figure.p),
            )


def _cells(interval: Interval) -> tuple[str, ...]:
    return *map(number_cell, (interval.value, interval.low, interval.high)), interval.note


def _write(out: Path, name: str, values: Values, rows: Rows) -> None:
    header, *lines = rows
    content = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / f"{name}.csv", csv_bytes(header, lines))
        write_atomic(out / f"{name}.json", content.encode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    """The values with null for what is no number of JSON."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
