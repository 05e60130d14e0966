"""The same training with several seeds: how much of a figure is chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from wsi_ats.cache import TileCache
from wsi_ats.config import MAX_SEED, Config
from wsi_ats.errors import ConfigError, Failure
from wsi_ats.manifest import Row, with_splits
from wsi_ats.output import make_folder
from wsi_ats.reading import Reading
from wsi_ats.shown import csv_bytes
from wsi_ats.train.epoch_checkpoint import Say
from wsi_ats.train.figures import final_figures, metric_label, plain_figures
from wsi_ats.train.folder import SEED, read_failures, read_record, refuse_other_kind, write_table
from wsi_ats.train.folds import answered, train_unless_done
from wsi_ats.train.frozen import cache_for
from wsi_ats.train.processes import ONE_BY_ONE, refuse_several
from wsi_ats.train.progress import OnProgress, within
from wsi_ats.train.targets import ask, targets_of

TABLE = "seeds.csv"


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds."""

    name: str
    """Name of the figure: `val_auc`, `test_auc`."""
    values: tuple[float, ...]
    """Its value with each seed; NaN where it has none."""

    @property
    def mean(self) -> float:
        """Mean over the seeds that have one, as of all that follows."""
        return fmean(self._known) if self._known else math.nan

    @property
    def sd(self) -> float:
        """Standard deviation (n - 1)."""
        return stdev(self._known) if len(self._known) > 1 else math.nan

    @property
    def least(self) -> float:
        """Smallest value."""
        return min(self._known, default=math.nan)

    @property
    def most(self) -> float:
        """Largest value."""
        return max(self._known, default=math.nan)

    @property
    def _known(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]


@dataclass(frozen=True)
class OverSeeds:
    """The result of a training with several seeds."""

    folder: Path
    """Folder with a run a seed, `seed-0` and so on, and seeds.csv."""
    seeds: tuple[int, ...]
    spreads: tuple[Spread, ...]
    failures: tuple[Failure, ...]
    """Slides, or patients, that could not be used, those of each run."""

    @property
    def folders(self) -> list[Path]:
        """Folder of the run with each seed."""
        return [self.folder / SEED.format(seed) for seed in self.seeds]

    def lines(self) -> Iterator[str]:
        """The table for people, a line at a time."""
        yield f"{f'over {len(self.seeds)} seeds':28s}    mean      sd     min     max"
        for s in self.spreads:
            yield f"  {metric_label(s.name):26s} {s.mean:7.3f} {s.sd:7.3f} {s.least:7.3f} {s.most:7.3f}"


def train_seeds(
    rows: Sequence[Row],
    config: Config,
    count: int,
    out: Path,
    *,
    reading: Reading | None = None,
    say: Say = print,
    overwrite: bool = False,
    cache: TileCache | None = None,
    on_progress: OnProgress | None = None,
) -> OverSeeds:
    """Train with `count` seeds, `train.seed` and those that follow, on one split; answer `test` rows, if there are any.

    A run that is finished is not trained again, so that the same command goes on after an interruption. reading: how
    the test slides are read. Raises `ConfigError` as `train` does, and for fewer than 2 seeds.
    """
    refuse_several("a training with several seeds", ONE_BY_ONE)
    first = config.train.seed
    if count < 2 or first + count - 1 > MAX_SEED:
        raise ConfigError(
            f"seeds is {count} from train.seed = {first} on; it must be at least 2",
            remedy="5 is usual",
        )
    tasks = ask(config, rows)
    strata = tasks[0].strata(targets_of(tasks, rows)[0])
    # One split for all: what differs is chance in training, not which slides are hard.
    rows = with_splits(rows, config.train.val_fraction, first, strata)
    make_folder(out)
    refuse_other_kind(out, "seeds")
    cache = cache_for(config, out, say) if cache is None else cache
    seeds = tuple(range(first, first + count))
    figures: list[dict[str, float]] = []
    failures: list[Failure] = []
    for number, seed in enumerate(seeds, 1):
        say(f"seed {seed} ({number} of {count})")
        folder, mine = out / SEED.format(seed), _with_seed(config, seed)
        tell = on_progress and within(on_progress, "seed", number, count)
        train_unless_done(rows, mine, folder, say=say, overwrite=overwrite, cache=cache, on_progress=tell)
        figures.append(_validation(folder))
        failures += read_failures(folder)
        if any(row.split == "test" for row in rows):
            tested = answered(folder, rows, mine, reading or Reading(), cache)
            rng = np.random.default_rng(first)
            found = final_figures(tested.tasks, tested.values, tested.targets, rng, tested.patients)
            renamed = {f"test_{name.removeprefix('val_')}": f for name, f in plain_figures(found).items()}
            figures[-1] |= _values(renamed)
            failures += tested.failures
    names = dict.fromkeys(name for one in figures for name in one)
    spreads = [Spread(name, tuple(one.get(name, math.nan) for one in figures)) for name in names]
    write_table(out, TABLE, _table(seeds, spreads))
    return OverSeeds(out, seeds, tuple(spreads), tuple(failures))


def _with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def _validation(folder: Path) -> dict[str, float]:
    """Validation figures of a finished run."""
    return _values({name: value for name, value in read_record(folder).items() if name.startswith("val_")})


def _values(figures: Mapping[str, Any]) -> dict[str, float]:
    """Values of figures as a record has them: numbers, or objects with intervals."""
    plain = {name: f.get("value") if isinstance(f, dict) else f for name, f in figures.items()}
    return {name: math.nan if value is None else float(value) for name, value in plain.items()}


def _table(seeds: Sequence[int], spreads: Sequence[Spread]) -> bytes:
    """Content of seeds.csv."""
    header = ["figure", "mean", "sd", "min", "max", *map(SEED.format, seeds)]
    rows = ([s.name, *map(_cell, (s.mean, s.sd, s.least, s.most, *s.values))] for s in spreads)
    return csv_bytes(header, rows)


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""
