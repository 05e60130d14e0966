"""The model card: what a model was trained on, what it is worth and what it is not for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_ats import __version__
from wsi_ats.errors import Failure
from wsi_ats.manifest import Row
from wsi_ats.manifest.patients import unit_of
from wsi_ats.shown import shown
from wsi_ats.statistics.interval import Interval
from wsi_ats.statistics.novelty import Reference, expected_rate
from wsi_ats.tasks.task import Task
from wsi_ats.tasks.texts import natural_order
from wsi_ats.train.figures import Figures, metric_label
from wsi_ats.train.targets import counts_of, targets_of

HEADING = "## From outputs to answers"
CARD = """\
# Attention-sampling model of slides

{tasks}

Settings: `config.toml` in this folder.

## Trained on

{splits}
{groups}
{failed} {unit}(s) could not be used; {bad} damaged tile(s) of others were background. Training took {epochs} epochs,
{seconds:.0f} s, with wsi_ats {version}.

## Validation

| metric | value |
|---|---|
{figures}

In brackets the 95 % interval over {over}: how far off a figure may be because it rests on so few. It does not cover
other scanners, stains or sites. {judged}

{decisions}
## Slides unlike these

{unlike}

## Intended use

Research. Not a medical device: no diagnosis may rest on its answers. Slides from other scanners, stains, sites or
tissues than those above need a validation of their own.

## Licence

The weights carry the licence that the owner of the training slides gives them; none is implied here.
"""
ONE_A_PATIENT = (
    "\n\nOne answer a patient, from tiles drawn from all slides at once; classes are counted by patient."
)
ENSEMBLE = "\n\nAn ensemble of {members} networks, {of}: the mean of their outputs, from the same tiles."
BY_SEED, BY_FOLD = "each trained from a seed of its own", "those of all folds of a cross-validation"
CHOSEN = """The epoch was chosen on these same validation slides, so the figures lean to the optimistic
side; a test set that training never saw is the fair judge."""
LEFT_OUT = """Each slide was answered by the networks of its fold alone, which had not
seen it; those of all folds together were judged on none."""
MOST_NAMED = 20
"""Groups or sites of a split that a card names; of more their number."""


@dataclass(frozen=True)
class Trained:
    """The result of a training run."""

    folder: Path
    """The model folder, for `load_model`."""
    figures: Figures
    """Metric values on the validation slides by name: `val_auc` and so on."""
    epochs: int
    """Epochs of all members."""
    seconds: float
    failures: list[Failure]
    bad_tiles: Mapping[str, int]
    """Damaged tiles by slide that were learned from, or judged by, as background."""
    members: int = 1

    @property
    def headline(self) -> str:
        """Main metric value of each task in words, with its interval."""
        intervals = {name: f for name, f in self.figures.items() if isinstance(f, Interval)}
        words = ", ".join(f"{_words(name)} {figure}" for name, figure in intervals.items())
        return words + " (95 % interval)" * any(figure.low is not None for figure in intervals.values())


def model_card(
    tasks: Sequence[Task],
    rows: Sequence[Row],
    result: Trained,
    reference: Reference | None = None,
    of: str = BY_SEED,
) -> str:
    """Markdown text of a model card; reference: by which slides unlike the training slides are told; of: where the
    networks come from, if there are several."""
    return CARD.format(
        tasks="\n".join(map(_asked, tasks))
        + ONE_A_PATIENT * (unit_of(rows) == "patient")
        + (ENSEMBLE.format(members=result.members, of=of) if result.members > 1 else ""),
        judged=LEFT_OUT if of == BY_FOLD else CHOSEN,
        over=_over(rows, every=of == BY_FOLD),
        splits=_splits_table(rows, tasks),
        groups=_groups(rows),
        version=__version__,
        unlike=_unlike(reference, unit_of(rows)),
        unit=unit_of(rows),
        failed=len(result.failures),
        bad=sum(result.bad_tiles.values()),
        epochs=result.epochs,
        seconds=result.seconds,
        decisions=decisions(tasks),
        figures="\n".join(f"| {_words(name)} | {_cell(f)} |" for name, f in result.figures.items()),
    )


def decisions(tasks: Iterable[Task]) -> str:
    """Section of a card on how outputs become answers: calibration, operating point, prediction sets."""
    lines = [HEADING, ""]
    for task in tasks:
        point, sets, calibration = task.spec.point, task.spec.sets, task.calibration
        if calibration is None:
            lines.append(f"- **{task.spec.name}**: not calibrated; values are the network's own.")
            continue
        named = zip(task.spec.outputs, calibration.slopes, calibration.intercepts, strict=True)
        terms = ", ".join(f"{name}: {slope:.3f} x output {shift:+.3f}" for name, slope, shift in named)
        lines.append(f"- **{task.spec.name}**, calibrated on {calibration.on}: {terms}.")
        if point is not None:
            lines.append(f"  Operating point: {point}.")
        if sets is not None:
            counts = ", ".join(f"{n} {name}" for name, n in zip(task.spec.names, sets.slides, strict=True))
            lines.append(
                f"  Prediction sets: the true class is left out of at most {sets.error:.0%} of the slides of each "
                f"class, if slides are like those they were made from ({sets.on}: {counts}). A class is in the set "
                f"from a probability of {_least(task)} on."
            )
    return "\n".join([*lines, ""])


def with_decisions(card: str, tasks: Iterable[Task]) -> str:
    """A card whose section on how outputs become answers is that of `tasks`."""
    before, heading, rest = card.partition(f"{HEADING}\n")
    if not heading:
        return f"{card.rstrip()}\n\n{decisions(tasks)}"
    end = rest.find("\n## ")
    return before + decisions(tasks) + (rest[end:] if end >= 0 else "")


def _least(task: Task) -> str:
    """Least probability of each class that is in its prediction set, in words."""
    sets = task.spec.sets
    assert sets is not None
    least = zip(task.spec.names, sets.quantiles, strict=True)
    return ", ".join(f"{max(0.0, 1 - quantile):.3f} ({name})" for name, quantile in least)


def _groups(rows: Sequence[Row]) -> str:
    """Groups and sites of the slides of each split, where the manifest has them."""
    lines = []
    for what, name in (("groups", "group"), ("sites", "site")):
        for split in ("train", "val"):
            found = natural_order({str(getattr(row, name)) for row in rows if row.split == split} - {""})
            if found:
                named = f": {', '.join(map(shown, found))}" if len(found) <= MOST_NAMED else ""
                lines.append(f"- {what} of {split}, {len(found)}{named}")
    return "\n".join(["", *lines, ""]) if lines else ""


def _over(rows: Sequence[Row], *, every: bool) -> str:
    """What the intervals are over, as `final_figures` makes them: of the validation slides or, of a cross-validation,
    of `every` slide."""
    judged = [row for row in rows if every or row.split == "val"]
    patients = {row.patient for row in judged}
    if unit_of(rows) == "patient":
        return "patients"
    if len(patients) < len(judged):
        return "patients, all slides of one together"
    return "patients, who have one slide each" if patients - {row.slide for row in judged} else "slides"


def _unlike(reference: Reference | None, unit: str) -> str:
    if reference is None:
        return f"They cannot be told: too few {unit}s were there to learn what is usual."
    rate = expected_rate(reference.rank, reference.slides)
    return (
        f"A {unit} is flagged where its tiles or the tones of its view are farther from the training {unit}s than "
        f"a limit, the distance of rank {reference.rank} among {reference.slides} {unit}s like these. About {rate:.1%} "
        f"of such {unit}s are flagged by mistake. The model's answers on what is flagged have not been tested."
    )


def _asked(task: Task) -> str:
    spec = task.spec
    names = f": {', '.join(spec.names)}" if spec.names else ""
    return f"- **{spec.name}** ({spec.kind}){names}"


def _words(name: str) -> str:
    return metric_label(name).removeprefix("val ")


def _cell(figure: Interval | float) -> str:
    return str(figure) if isinstance(figure, Interval) else f"{figure:.3f}"


def _splits_table(rows: Sequence[Row], tasks: Sequence[Task]) -> str:
    lines: list[str] = []
    for split in ("train", "val"):
        mine = [row for row in rows if row.split == split]
        counts = counts_of(tasks, targets_of(tasks, mine))
        if not lines:
            lines += [
                f"| split | slides | patients | {' | '.join(counts)} |",
                "|---" * (3 + len(counts)) + "|",
            ]
        cells = [
            split,
            sum(len(row.of_slides) for row in mine),
            len({row.patient for row in mine}),
            *counts.values(),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
