"""A training run: manifest in, model folder out."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from torch.utils.data import DataLoader, SequentialSampler

from wsi_ats.build import build_member, build_model, together
from wsi_ats.cache import TileCache
from wsi_ats.config import Config
from wsi_ats.errors import ConfigError, Failure, SlideError, WsiAtsError
from wsi_ats.lowres.patient import Prepared
from wsi_ats.manifest import Row, with_splits
from wsi_ats.manifest.audit import audit
from wsi_ats.manifest.patients import rows_by, unit_of
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import save_model
from wsi_ats.output import writing
from wsi_ats.prediction import OfResults
from wsi_ats.sampling import generator_for
from wsi_ats.shown import cell
from wsi_ats.slide_model import SlideModel
from wsi_ats.statistics.novelty import Description
from wsi_ats.stopwatch import noting
from wsi_ats.tasks.answer import TaskResult
from wsi_ats.tasks.task import Task
from wsi_ats.train.ahead import LookingAhead
from wsi_ats.train.balance import balanced_chances, chances_in_words, check_balanced, in_words
from wsi_ats.train.calibrate import calibrate, outputs_of_tasks, values_of_outputs
from wsi_ats.train.card import Trained, model_card
from wsi_ats.train.data import TILES, BadTiles, Batches, Example, Examples, Shuffled, pool_bad_tiles
from wsi_ats.train.epoch_checkpoint import Checkpoints, EpochCheckpoint, Say
from wsi_ats.train.figures import Figures, final_figures
from wsi_ats.train.folder import (
    alone_in,
    finish_run,
    prepare_run,
    read_failures,
    write_failures,
    write_table,
    write_validation,
)
from wsi_ats.train.frozen import cache_for, embed_all, may_be_stored, tell_store
from wsi_ats.train.hardware import accelerator, check_precision
from wsi_ats.train.loggers import check_loggers, loggers_of
from wsi_ats.train.looked_at import LookedAt, look_at
from wsi_ats.train.module import TrainingModule, answer
from wsi_ats.train.patients import patients_in_words, say_patients
from wsi_ats.train.processes import Processes, joined
from wsi_ats.train.progress import OnProgress, TellProgress, within
from wsi_ats.train.reference import reference_of
from wsi_ats.train.stages import StageClock, stages_in_words, stages_table, total_of
from wsi_ats.train.standardise import fit_standardisation
from wsi_ats.train.targets import ask, classes_of, counts_of, refuse_lacking, targets_of

Sets = dict[str, Examples]
"""Examples of each split, by its name."""
STANDARDISED_ON = 32
"""Number of slides that the mean and variance of features are taken from: before training and, of a network that
learns, after every epoch."""


def train(
    rows: Sequence[Row],
    config: Config,
    out: Path,
    *,
    say: Say = print,
    overwrite: bool = False,
    cache: TileCache | None = None,
    on_progress: OnProgress | None = None,
) -> Trained:
    """Train on the `train` rows, choose the epoch by the `val` rows, write `out/model/`.

    With `train.by` patient, an example is a patient, whose slides share one label and, each step, `sampling.tiles`.
    Slides that cannot be used are listed in `out/failures.csv` and left out; one with more damaged tiles than are
    tolerated from the epoch on in which the last of them was drawn. A run that was interrupted goes on after its
    last whole epoch when the same slides and settings are given again, and ends with the same weights as if it had
    not been. `say` gets progress, a line at a time; `on_progress` how far an epoch is, at every step. `cache` keeps
    tiles and frozen features beyond this run; by default it is of this run alone, in front of a store beside `out`
    (`train.disk_mb`). Raises `ConfigError` where a class has
    no usable slide, a target makes no sense or `out` holds another run.

    In several processes that `torchrun` has started (`train/processes.py`) each takes `train.batch` slides a step, and
    what comes out is what one process makes of the batches of all. The first alone writes, and calls `say` and
    `on_progress`; all return the result.
    """
    start = time.monotonic()
    with joined() as processes, ExitStack() as lock:
        if not processes.is_first:
            say, on_progress = _silent, None
        rows, config = processes.of_first(lambda: (rows, config))
        run = _Run(config, out, say, on_progress, processes)
        units, tasks = _prepare(rows, run, lock, overwrite=overwrite)
        if cache is None:
            cache = cache_for(config, out, say)
        return _train(units, tasks, run, cache, start)


def _silent(_: str) -> None:
    """Say nothing: another process does."""


@dataclass(frozen=True, eq=False)
class _Run:
    """What a training was given, and the damaged tiles that it has met."""

    config: Config
    out: Path
    say: Say
    on_progress: OnProgress | None
    processes: Processes
    bad_tiles: BadTiles = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether this process writes the files."""
        return self.processes.is_first


def _prepare(
    rows: Sequence[Row], run: _Run, lock: ExitStack, *, overwrite: bool
) -> tuple[Sequence[Row], list[Task]]:
    """Rows to train on and tasks, with the folder prepared, and locked as long as `lock` lasts."""
    config, out, say = run.config, run.out, run.say
    check_precision(config)
    check_loggers(config)
    tasks = ask(config, rows)
    strata, given = tasks[0].strata(targets_of(tasks, rows)[0]), {row.split for row in rows}
    rows = with_splits(rows, config.train.val_fraction, config.train.seed, strata)
    classes = classes_of(tasks[0], rows, strata)
    # What is wrong with splits and networks is told before slides are opened and anything is written.
    units = rows_by(config.train.by, rows)
    refuse_lacking(tasks, units)
    if config.train.balanced:
        check_balanced(tasks[0])
    found = audit(rows, classes)
    build_model(config, tasks)
    if run.writes:
        lock.enter_context(alone_in(out))
        prepare_run(out, rows, config, overwrite=overwrite)
        write_table(out, "cohort.csv", found.cohort.as_csv())
    run.processes.gather(None)  # others wait for the folder
    say_patients(rows, say)
    if given == {"train", "test"}:
        say("no slide has the split val: some of those of train are kept to choose the epoch by")
    for line in (*found.cohort.lines(), *(f"warning: {words}" for words in found.warnings)):
        say(line)
    return units, tasks


def _train(rows: Sequence[Row], tasks: Sequence[Task], run: _Run, cache: TileCache, start: float) -> Trained:
    config, out, say, processes = run.config, run.out, run.say, run.processes
    sets, failures = _inspect(rows, tasks, run, stored=may_be_stored(config) and cache.store is not None)
    while True:
        _check(sets, tasks, failures, out, say)
        tasks = ask(config, rows)
        for task, targets in zip(tasks, sets["train"].targets, strict=True):
            task.fit(targets)
        for words in in_words(tasks):
            say(words)
        if config.train.balanced:
            say(chances_in_words(classes_of(tasks[0], sets["train"].rows)))
        try:
            members = _train_members(tasks, sets, run, cache)
            model = together(config, [member.model for member in members])
            model.cache = cache
            figures = _validate(model, sets, run)
            break
        except WsiAtsError as met:
            error = processes.agreed(met)
            if not isinstance(error, SlideError):
                raise error from met
            # Pixels that cannot be decoded: without that slide, on from the last epoch.
            failures.append(_set_aside(error, sets))
            if run.writes:
                write_failures(out, failures)
            say(f"left out {failures[-1].slide}: {error.message}")
    tell_store(cache, say, processes)
    stages = total_of([member.clock for member in members])
    for line in stages_in_words(stages):
        say(line)
    seconds = time.monotonic() - start + sum(member.keeper.seconds_before for member in members)
    pool_bad_tiles(run.bad_tiles, processes)
    bad = {slide: len(tiles) for slide, tiles in sorted(run.bad_tiles.items()) if tiles}
    if bad:
        say(
            f"{sum(bad.values())} damaged tile(s) of {len(bad)} slide(s) were background: see {out / 'run.json'}"
        )
    epochs = sum(len(member.keeper.epochs) for member in members)
    result = Trained(out / "model", figures, epochs, seconds, failures, bad, config.train.members)
    if run.writes:
        write_table(out, "stages.csv", stages_table(stages))
        with writing(result.folder):
            card = model_card(list(model.tasks), rows, result, model.reference)
            save_model(model, result.folder, card)
        finish_run(out, config, result, processes.count)
    return processes.of_first(lambda: result)


@dataclass(frozen=True, eq=False)
class _Member:
    """A network of the model, trained, and what is known of its training."""

    model: AttentionSampler
    keeper: EpochCheckpoint
    clock: StageClock


def _train_members(tasks: Sequence[Task], sets: Sets, run: _Run, cache: TileCache) -> list[_Member]:
    """Every member of the model, one after the other, with the weights of its best epoch."""
    config, out, say, processes = run.config, run.out, run.say, run.processes
    members: list[_Member] = []
    for number in range(config.train.members):
        own = config.of_member(number)
        if config.train.members > 1:
            say(f"member {number + 1} of {config.train.members}, of seed {own.train.seed}")
        model = build_member(own, tasks, [member.model for member in members])
        model.cache = cache
        if own.train.embed_all and not number:
            embed_all(model, [*sets.values()], say, processes)
        before = tuple(member.keeper for member in members)
        keeper = EpochCheckpoint(out, own.train.patience, say, run.bad_tiles, own.warm_up, before, processes)
        members.append(_Member(model, keeper, StageClock()))
        callbacks: list[Callback] = [members[-1].clock, keeper]
        if run.writes:
            callbacks += loggers_of(out, own, keeper)
        if run.on_progress is not None:
            tell = within(run.on_progress, "member", number + 1, config.train.members)
            total = sum(map(len, sets.values()))
            callbacks.append(TellProgress(tell, total, own.train.by, processes.count))
        with noting(members[-1].clock.watch):
            _fit(TrainingModule(model, processes), sets, own, keeper, callbacks)
    return members


def _inspect(
    rows: Sequence[Row], tasks: Sequence[Task], run: _Run, *, stored: bool
) -> tuple[Sets, list[Failure]]:
    """Prepare every slide; those that cannot be used are not in the sets that are returned."""
    config, out, say, processes = run.config, run.out, run.say, run.processes
    # What an interrupted run found out in its middle: whether it would be found again depends on what is drawn.
    before = processes.of_first(lambda: read_failures(out))
    failures = [failure for failure in before if failure.stage == TILES]
    known = {failure.slide for failure in failures}
    # Views may take a quarter of the memory; tiles and features, met more often, the rest.
    room = (config.train.cache_mb << 20) // 8
    sets: Sets = {
        split: Examples(
            [r for r in rows if r.split == split and cell(r.slide) not in known],
            tasks,
            config,
            room,
            run.bad_tiles,
            stored=stored,
        )
        for split in ("train", "val")
    }
    looked = Counter[str]()
    total = sum(len(processes.share(examples.rows)) for examples in sets.values())

    def tick() -> None:
        looked["slides"] += 1
        if looked["slides"] % max(1, total // 4) == 0:
            say(f"looked at {looked['slides']} of {total} {config.train.by}s{_by_this_one(processes)}")

    for examples in sets.values():
        failures += examples.inspect(tick, processes=processes)
    for failure in failures:
        say(f"left out {failure.slide}: {failure.error}")
    looked_at = _looked_at(rows, tasks[0], failures)
    for line in looked_at.lines():
        say(line)
    if run.writes:
        write_failures(out, failures)
        write_table(out, "slides_looked_at.csv", looked_at.as_csv())
    return sets, failures


def _by_this_one(processes: Processes) -> str:
    return "" if processes.count == 1 else f" in this of {processes.count} processes"


def _looked_at(rows: Sequence[Row], task: Task, failures: Sequence[Failure]) -> LookedAt:
    """Which slides can be used, and whether those that cannot are of one class or site."""
    opened = [slide for row in rows if row.split in ("train", "val") for slide in row.of_slides]
    return look_at(opened, classes_of(task, opened), failures, unit_of(rows))


def _check(sets: Sets, tasks: Sequence[Task], failures: Sequence[Failure], out: Path, say: Say) -> None:
    """Say what there is to learn from. Raises `ConfigError` where that is not enough."""
    for split, examples in sets.items():
        targets, what = examples.targets, f"{unit_of(examples.rows)}s"
        words = (f"{name} {n}" for name, n in counts_of(tasks, targets).items())
        say(f"{split}: {len(examples)} {what} ({', '.join(words)})")
        say(f"{split}: {patients_in_words(tasks, examples.rows, targets)}")
        for task, mine in zip(tasks, targets, strict=True):
            lacking = task.lacks(mine)
            if lacking:
                raise ConfigError(
                    f"the {split} split has no usable {lacking} ({len(failures)} {what} failed)",
                    remedy=f"see {out / 'failures.csv'}, or add such {what}",
                )


def _set_aside(error: SlideError, sets: Sets) -> Failure:
    for examples in sets.values():
        failure = examples.set_aside(error)
        if failure is not None:
            return failure
    raise error


def _fit(
    module: TrainingModule,
    sets: Sets,
    config: Config,
    keeper: EpochCheckpoint,
    callbacks: Sequence[Callback],
) -> None:
    """Train, or go on training, and leave the weights of the best epoch in `module`."""
    train_set, processes = sets["train"], module.processes
    settings, task = config.train, next(iter(module.model.tasks))
    some = slides_to_standardise_on(train_set, settings.seed)
    fit_standardisation(module.model, some, settings.seed, processes=processes)
    module.standardised_on = some
    chances = balanced_chances(classes_of(task, train_set.rows)) if settings.balanced else None
    shuffled = Shuffled(train_set, settings.seed, chances)
    loader: type[DataLoader[Example]] = LookingAhead if settings.read_ahead else DataLoader
    batches = Batches(shuffled, settings.batch, processes)
    to_validate = Batches(SequentialSampler(sets["val"]), settings.batch, processes)
    checkpoints = Checkpoints(module)
    if keeper.last.exists():
        checkpoints.load_checkpoint(
            keeper.best
        )  # needed at the end: what is wrong with it is told before the work
    try:
        with _without_advice():
            _trainer(config, keeper, callbacks, checkpoints, processes).fit(
                module,
                loader(train_set, batch_sampler=batches, collate_fn=list),
                DataLoader(sets["val"], batch_sampler=to_validate, collate_fn=list),
                ckpt_path=str(keeper.last) if keeper.last.exists() else None,
            )
    except SystemExit as end:
        # Lightning ends the process by itself, at Ctrl-C with status 1 and at SIGTERM with 0: neither is true.
        if isinstance(end.__context__, KeyboardInterrupt):
            raise end.__context__ from None
        raise SystemExit(128 + signal.SIGTERM) from None
    module.load_state_dict(processes.of_first(lambda: checkpoints.load_checkpoint(keeper.best)["state_dict"]))


def slides_to_standardise_on(train_set: Examples, seed: int) -> list[Prepared]:
    """Prepared slides chosen at random: a manifest may be sorted by class."""
    chosen = torch.randperm(len(train_set), generator=generator_for(seed, "calibration"))
    return [train_set[i].prepared for i in chosen[:STANDARDISED_ON].tolist()]


class _OneProcess(LightningEnvironment):
    """As far as Lightning knows, there is this process alone; what it shares with others, `TrainingModule` exchanges.

    Also inside a SLURM job: no help of the job's manager is needed. There, Lightning also goes on from a state that
    another program of its kind left in the working folder: ours has none."""

    def teardown(self) -> None:
        """Leave the environment as it is: Lightning's own takes WORLD_SIZE from it, which is the launcher's."""


def _trainer(
    config: Config,
    keeper: EpochCheckpoint,
    callbacks: Sequence[Callback],
    checkpoints: Checkpoints,
    processes: Processes,
) -> pl.Trainer:
    kind = accelerator()
    return pl.Trainer(
        accelerator=kind,
        devices=[processes.on_host] if kind == "gpu" and processes.count > 1 else 1,
        precision=config.train.precision,
        max_epochs=config.train.epochs,
        gradient_clip_val=config.train.clip,
        accumulate_grad_batches=config.train.accumulate,
        callbacks=[*callbacks],
        plugins=[checkpoints, _OneProcess()],
        default_root_dir=keeper.last.parent,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep Lightning's hints from the user: none of them is about the user's slides or settings."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # What "possibly" is wrong for others and is right here: no loader processes (tiles are chosen inside the
            # step and read by threads), frozen networks in evaluation mode, one process without `srun`.
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Its own use of torch.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
            yield
    finally:
        log.setLevel(level)


@dataclass(frozen=True, eq=False)
class _Answer(OfResults):
    """What is needed of the prediction of a validation slide."""

    results: tuple[TaskResult, ...]
    description: Description | None


def _validate(model: SlideModel, sets: Sets, run: _Run) -> Figures:
    """Predict the validation slides with the chosen weights, calibrate the model on them, note what its slides are like
    and write `validation.csv`."""
    config, say, val_set, tasks = run.config, run.say, sets["val"], model.tasks

    def answered(number: int) -> _Answer:
        prediction = answer(model, val_set[number])
        return _Answer(prediction.results, prediction.description)

    predictions = run.processes.each(len(val_set), answered)
    if config.train.calibrate:
        calibrated = calibrate(tasks, predictions, val_set.targets, f"validation {config.train.by}s")
        for words in (*calibrated.done, *calibrated.missing):
            say(words)
    described = [prediction.description for prediction in predictions]
    model.reference = reference_of(model, sets["train"], described, config.train.seed, say, run.processes)
    outputs = outputs_of_tasks(predictions)
    values = [values_of_outputs(task, mine) for task, mine in zip(tasks, outputs, strict=True)]
    if run.writes:
        write_validation(run.out, tasks, val_set.rows, values, outputs)
    patients = [row.patient for row in val_set.rows]
    return final_figures(tasks, values, val_set.targets, np.random.default_rng(config.train.seed), patients)
