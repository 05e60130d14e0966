"""A sweep: settings are searched with Optuna, a training run a trial, and a sweep that was killed goes on.

Source: T. Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019; its sampler: J.
Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011 (TPE).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wsi_ats.config import Config, config_hash, load_config, parse_config, save_config, template, to_values
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row
from wsi_ats.output import writing
from wsi_ats.train.epoch_checkpoint import Say
from wsi_ats.train.folder import alone_in
from wsi_ats.train.processes import ONE_BY_ONE, refuse_several
from wsi_ats.train.run import train

STUDY, TRIALS, BEST = "study.db", "trials.csv", "best.toml"
NAME = "sweep"


@dataclass(frozen=True)
class Range:
    """Values that a setting may have: any from `low` to `high`, all alike likely at first."""

    low: float
    high: float
    log: bool = False
    """Whether it is their logarithms that are."""


@dataclass(frozen=True)
class Swept:
    """What a sweep found."""

    best: Path
    """Settings of the best trial, whole."""
    values: dict[str, float]
    """Those that were searched, by name."""
    score: float
    """Its `val_score`, the highest of its epochs; of the best of many it is too good."""


def sweep(
    rows: Sequence[Row],
    config: Config,
    space: Mapping[str, Range],
    out: Path,
    trials: int,
    *,
    say: Say = print,
) -> Swept:
    """Train with settings of `space`, the others as in `config`, until so many trials are finished.

    space: ranges by setting, such as "train.lr". The study is `out/study.db`, its runs are `out/trial-0000` and so on,
    trials.csv has a row a trial, best.toml the settings of the best. A trial that was killed is tried again, and its
    run goes on after its last whole epoch. Raises `ConfigError` where Optuna is missing, a setting cannot be searched
    like that, or `out` holds another sweep, and what `train` raises.
    """
    refuse_several("a sweep", ONE_BY_ONE)
    if find_spec("optuna") is None:
        raise ConfigError("optuna is not installed, which a sweep needs", "pip install 'wsi-ats[sweep]'")
    if trials < 1 or not space:
        raise ConfigError(f"{trials} trials of {len(space)} settings", "give at least one of each")
    for end in ("low", "high"):
        with_settings(config, {name: getattr(values, end) for name, values in space.items()})
    with alone_in(out):
        study = _study(out, _of(rows, config, space))

        def run(trial: Any) -> float:
            found = {name: trial.suggest_float(name, r.low, r.high, log=r.log) for name, r in space.items()}
            folder = out / trial.user_attrs.get("folder", f"trial-{trial.number:04d}")
            trial.set_user_attr("folder", folder.name)
            say(f"{folder.name}: {', '.join(f'{name} = {value:.4g}' for name, value in found.items())}")
            if not (folder / "run.json").exists():
                train(rows, with_settings(config, found), folder, say=say)
            return best_score(folder)

        study.optimize(run, max(0, trials - len(_finished(study))))
        return _write(study, out)


def with_settings(config: Config, values: Mapping[str, float]) -> Config:
    """The settings with others by name. Raises `ConfigError` for what they cannot be."""
    plain = to_values(config)
    for name, value in values.items():
        section, _, key = name.partition(".")
        if not isinstance(plain.get(section), dict) or not key:
            raise ConfigError(
                f"{name} is not of the form section.key", "name a setting, train.lr for example"
            )
        plain[section][key] = value
    return parse_config(plain, "the sweep")


def best_score(run: Path) -> float:
    """Highest `val_score` of the epochs of a run."""
    with (run / "log.csv").open(newline="", encoding="utf-8") as log:
        return max(float(epoch["val_score"]) for epoch in csv.DictReader(log))


def _of(rows: Sequence[Row], config: Config, space: Mapping[str, Range]) -> str:
    """What tells a sweep from others."""
    slides = [(row.slide, row.label, row.patient, row.split, dict(row.cells)) for row in rows]
    return config_hash(template(config), repr(dict(space)), repr(slides))


def _study(out: Path, of: str) -> Any:
    """The study of a folder, begun or to go on, with the trials that were killed put first in line."""
    import optuna

    running = optuna.trial.TrialState.RUNNING
    with writing(out):
        study = optuna.create_study(
            storage=f"sqlite:///{out.absolute() / STUDY}",
            study_name=NAME,
            direction="maximize",
            load_if_exists=True,
        )
    if study.user_attrs.get("of", of) != of:
        raise ConfigError(
            f"{out} holds a sweep of other slides, ranges or settings", "name a new folder for this one"
        )
    study.set_user_attr("of", of)
    for killed in study.get_trials(states=[running]):
        study.tell(killed.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(killed.params, user_attrs=killed.user_attrs)
    # Another seed every time, or what was proposed before a kill is proposed again.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    return study


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def _write(study: Any, out: Path) -> Swept:
    if not _finished(study):
        raise ConfigError(
            f"no trial in {out} has a validation score",
            "see the log.csv of its trials, and try narrower ranges",
        )
    best = study.best_trial
    with writing(out):
        save_config(load_config(out / best.user_attrs["folder"] / "config.toml"), out / BEST)
        study.trials_dataframe().to_csv(out / TRIALS, index=False)
    return Swept(out / BEST, best.params, best.value)
