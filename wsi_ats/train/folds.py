"""Cross-validation: a run a fold, each slide answered by the one model that has not seen it or its group."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wsi_ats.atomic import write_atomic
from wsi_ats.cache import TileCache
from wsi_ats.config import Config
from wsi_ats.errors import Failure
from wsi_ats.manifest import Row
from wsi_ats.model_folder import load_model
from wsi_ats.output import make_folder, writing
from wsi_ats.predict import predict_prepared
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading
from wsi_ats.shown import cell
from wsi_ats.tasks.answer import columns_of
from wsi_ats.train.data import Examples
from wsi_ats.train.epoch_checkpoint import Say
from wsi_ats.train.folder import is_finished
from wsi_ats.train.frozen import cache_for, may_be_stored
from wsi_ats.train.run import train

FOLD, PREDICTIONS = "fold-{}", "predictions.csv"


@dataclass(frozen=True)
class CrossValidated:
    """The result of a cross-validation."""

    folder: Path
    """Folder with a run a fold, `fold-0` and so on, and predictions.csv of all of them."""
    answered: int
    """Number of slides that were answered."""
    failures: tuple[Failure, ...]
    """Slides that could not be."""


def cross_validate(
    folds: Sequence[Sequence[Row]],
    config: Config,
    out: Path,
    *,
    reading: Reading | None = None,
    say: Say = print,
    overwrite: bool = False,
    cache: TileCache | None = None,
) -> CrossValidated:
    """Train on each fold's `train` rows, choose by its `val` rows, answer its `test` rows; write all into `out`.

    A fold that is finished is not trained again, so that the same command goes on after an interruption. reading: how
    the test slides are read. Raises `ConfigError` as `train` does.
    """
    make_folder(out)
    cache = cache_for(config, out, say) if cache is None else cache
    lines: list[dict[str, str]] = []
    columns: list[str] = []
    failures: list[Failure] = []
    for number, rows in enumerate(folds):
        folder = out / FOLD.format(number)
        say(f"fold {number + 1} of {len(folds)}")
        mine = [row for row in rows if row.split is not None]
        if overwrite or not is_finished(folder, mine, config):
            train(mine, config, folder, say=say, overwrite=overwrite, cache=cache)
        answered = _answered(folder, mine, config, reading or Reading(), cache)
        columns = list(dict.fromkeys([*columns, *answered.columns]))
        lines += [{"fold": str(number), **line} for line in answered.lines]
        failures += answered.failures
        with writing(out):
            write_atomic(out / PREDICTIONS, _csv(["fold", *columns], lines))
    return CrossValidated(out, len(lines) - len(failures), tuple(failures))


@dataclass(frozen=True)
class _Answered:
    columns: list[str]
    lines: list[dict[str, str]]
    failures: list[Failure]


def _answered(
    folder: Path, rows: Sequence[Row], config: Config, reading: Reading, cache: TileCache
) -> _Answered:
    """The fold's test slides, answered by its model; as they were where that was done before."""
    kept = folder / "test.json"
    model = load_model(folder / "model")
    own = [model.hash, asdict(reading)]
    if kept.exists():
        stored = json.loads(kept.read_bytes())
        if stored["of"] == own:
            return _Answered(stored["columns"], stored["lines"], [Failure(**f) for f in stored["failures"]])
    model.cache = cache
    test = [row for row in rows if row.split == "test"]
    examples = Examples(test, list(model.tasks), config, 1 << 30, stored=may_be_stored(config))
    failures = examples.inspect(lambda: None)
    targets = list(dict.fromkeys(column for task in model.tasks for column in task.columns))
    lines = []
    for i, row in enumerate(examples.rows):
        prediction = predict_prepared(model, examples[i].prepared, reading)
        lines.append({**_of_row(row, targets), **_of_prediction(prediction), "status": "done"})
    unread = {failure.slide for failure in failures}
    lines += [{**_of_row(row, targets), "status": "failed"} for row in test if row.slide in unread]
    columns = ["slide", "patient", *targets, *columns_of(model.specs), "tiles_read", "status", "notes"]
    content = {"of": own, "columns": columns, "lines": lines, "failures": [asdict(f) for f in failures]}
    with writing(folder):
        write_atomic(kept, json.dumps(content).encode())
    return _Answered(columns, lines, failures)


def _of_row(row: Row, targets: Sequence[str]) -> dict[str, str]:
    return {
        "slide": cell(row.slide),
        "patient": cell(row.patient),
        **{target: cell(row.cell(target)) for target in targets},
    }


def _of_prediction(prediction: Prediction) -> dict[str, str]:
    """Cells of a prediction, under the names that predictions.csv of a batch has for them."""
    columns = columns_of([result.spec for result in prediction.results])
    cells = [
        text
        for result in prediction.results
        for text in (
            cell(result.text),
            *((";".join(result.set), "yes" if result.refer else "no") if result.spec.sets else ()),
            *map(_number, (*result.values, *result.stderr)),
        )
    ]
    return {
        **dict(zip(columns, cells, strict=True)),
        "tiles_read": str(prediction.tiles_read),
        "notes": cell("; ".join(prediction.notes)),
    }


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def _csv(columns: Sequence[str], lines: Sequence[Mapping[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()
