"""The sections of the page, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from wsi_ats.report import cautions, cost, evidence, examples, performance, provenance
from wsi_ats.report.blocks import Block, Grid, Heading, Image, Plot, Plots, Points, Section, Words
from wsi_ats.report.found import Found
from wsi_ats.report.plots import training
from wsi_ats.report.words import figure_name, interval, number, units
from wsi_ats.shown import counted
from wsi_ats.train.looked_at import USABLE

MOST_ROWS = 40
"""Number of rows of a list that could be of any length; the files have all."""
KINDS = {
    "classes": "which of these classes a slide is of",
    "ordinal": "which of these grades a slide has",
    "labels": "which of these labels a slide has",
    "regression": "a number",
    "survival": "the time to an event, as a risk",
}


def sections_of(found: Found) -> list[Section]:
    """All sections that there is something to say in."""
    made = [Section(id, title, list(make(found))) for id, title, make in SECTIONS]
    return [section for section in made if section.blocks]


def _summary(found: Found) -> Iterator[Block]:
    if found.folds:
        yield Words(
            f"A cross-validation: {found.folds} models, each asked about the {found.by}s that it has not seen."
        )
    elif found.is_run:
        yield Words(f"A training run, judged by its own validation {found.by}s.")
    elif found.evaluation:
        yield Words(f"An evaluation: answers of a model about {found.by}s whose truth is known.")
    if found.by == "patient":
        yield Words(
            "One answer a patient, from all slides of the patient together: what is counted are patients."
        )
    for task in found.evaluation.get("tasks", ()):
        whole = task["parts"][0]
        names = f" ({', '.join(task['names'])})" if task["names"] else ""
        yield Words(
            f"Asked: {task['task']}: {KINDS.get(task['kind'], task['kind']).replace('slide', found.by)}{names}. "
            f"{units(whole, found.by)} are in the figures."
            + (f" Decided by: {task['rule']}." if task["rule"] else "")
        )
        rows = [
            [figure_name(f["name"], f["of"]), number(f["value"]), interval(f)] for f in whole["figures"][:3]
        ]
        yield Grid(
            "The main figures; intervals of 95 % over patients", ["figure", "value", "95 % interval"], rows
        )


def _cautions(found: Found) -> Iterator[Block]:
    said = cautions.cautions(found)
    yield Points(
        said or ["Nothing that this program can see. It cannot see whether slides and labels are right."]
    )


def _flow(found: Found) -> Iterator[Block]:
    flow = found.evaluation.get("flow")
    if found.is_run and (looked := found.table("slides_looked_at.csv")):
        kinds = list(dict.fromkeys(line.get("found", "") for line in looked))
        splits = list(dict.fromkeys(line.get("split", "") for line in looked))
        rows = [
            [
                kind,
                *(
                    str(sum((line.get("found"), line.get("split")) == (kind, s) for line in looked))
                    for s in splits
                ),
            ]
            for kind in sorted(kinds, key=lambda kind: kind != USABLE)
        ]
        yield Grid("Slides that were looked at before training, by split", ["found", *splits], rows)
    if flow:
        rows = [
            [f"labelled {found.by}s", f"{flow['labelled']:,}"],
            ["of them failed", f"{flow['failed']:,}"],
            ["of them pending", f"{flow['pending']:,}"],
            ["of them not predicted", f"{len(flow['without_answer']):,}"],
            ["in the figures", f"{flow['evaluated']:,}"],
            *([["patients in the figures", f"{flow['patients']:,}"]] if found.by == "slide" else []),
            [f"predicted {found.by}s without a label", f"{flow['without_label']:,}"],
        ]
        title = f"Flow of {found.by}s, from the manifest to the figures"
        yield Grid(title, [f"{found.by}s", "number"], rows)
        by_class = flow.get("by_class") or {}
        if flow["failed"] and by_class:
            rows = [[name, str(n["labelled"]), str(n["failed"])] for name, n in by_class.items()]
            yield Grid(
                f"{found.by.capitalize()}s that failed, by class", ["class", "labelled", "failed"], rows
            )
    failures = found.table("failures.csv")
    if failures:
        rows = [
            [
                line.get("slide") or line.get("patient", ""),
                *(line.get(k, "") for k in ("stage", "error", "remedy")),
            ]
            for line in failures[:MOST_ROWS]
        ]
        more = f"; the first {MOST_ROWS} of {len(failures)}" if len(failures) > MOST_ROWS else ""
        yield Grid(
            f"{found.by.capitalize()}s that could not be used{more} (failures.csv)",
            [found.by, "stage", "error", "remedy"],
            rows,
        )


def _cohort(found: Found) -> Iterator[Block]:
    lines = found.table("cohort.csv") if found.is_run else []
    if lines:
        columns = ["class", "split", "site", "slides", "patients"]
        rows = [[line.get(column, "") for column in columns] for line in lines[:MOST_ROWS]]
        more = f"; the first {MOST_ROWS} of {len(lines)} rows" if len(lines) > MOST_ROWS else ""
        yield Grid(
            f"Slides and patients of the run by class, split and site (cohort.csv){more}", columns, rows
        )
    for task in found.evaluation.get("tasks", ()):
        if task["kind"] not in ("classes", "ordinal"):
            yield Words(
                "Evaluated: " + ", ".join(f"{name} {words}" for name, words in task["counts"].items()) + "."
            )
            continue
        sites = sorted({slide["site"] for slide in task["slides"]})[:MOST_ROWS]
        held = {
            (name, site): [
                s for s in task["slides"] if (task["names"][int(s["target"][0])], s["site"]) == (name, site)
            ]
            for name in task["names"]
            for site in sites
        }
        rows = [[name, *(_counts(held[name, site], found.by) for site in sites)] for name in task["names"]]
        header = [
            "class",
            *(site or (f"{found.by}s" if len(sites) == 1 else "site not given") for site in sites),
        ]
        brackets = ", in brackets patients," if found.by == "slide" else ""
        title = f"{found.by.capitalize()}s in the figures{brackets} by class and site"
        yield Grid(title, header, rows)


def _counts(slides: Sequence[dict[str, object]], by: str) -> str:
    """Number of slides and, in brackets, of patients; or of patients alone."""
    patients = len({str(slide["patient"]) for slide in slides})
    return f"{len(slides)} ({patients})" if by == "slide" else str(patients)


def _examples(found: Found) -> Iterator[Block]:
    for number_, task in enumerate(found.evaluation.get("tasks", ())):
        if number_:
            break  # pictures of the main task: those of others would be of the same attention
        yield Words(
            "Chosen by the stated probability of the truth (of numbers, by the error): look whether the model was "
            "right for a reason. In each picture the first map is where the model looked, the second what each tile "
            "that was read added to the answer (red) or took from it (blue). Below are the tiles that counted most. "
            "Of a training run the tiles were drawn anew for this page: the answer in a picture may differ a little."
        )
        for why, cards in examples.cards(found, task).items():
            if cards:
                yield Heading(
                    {"most wrong": "Least right", "least sure": "Least sure", "best": "Most right"}[why]
                )
                yield from cards


def _training(found: Found) -> Iterator[Block]:
    if not found.is_run or found.folds:
        return
    log = found.table("log.csv")
    members = list(dict.fromkeys(line.get("member", "") for line in log))
    for member in members:
        if member:
            yield Heading(f"Member {member} of {len(members)}")
        yield from _epochs([line for line in log if line.get("member", "") == member])
    stages = found.table("stages.csv")
    if stages:
        rows = [
            [line.get(column, "") for column in ("stage", "seconds", "share", "meaning")] for line in stages
        ]
        yield Grid(
            "Where the time of the epochs went (stages.csv)", ["stage", "seconds", "share", "meaning"], rows
        )


def _epochs(log: Sequence[Mapping[str, str]]) -> Iterator[Block]:
    """Figures of every epoch of a network; nothing where the table does not hold them."""
    try:
        series = {
            name: [float(line[name]) for line in log] for name in log[0] if name not in ("epoch", "member")
        }
    except (ValueError, KeyError):
        return
    epochs = [float(i) for i in range(1, len(log) + 1)]
    scores = series.get("val_score", [])
    chosen = epochs[scores.index(max(scores))] if scores else None
    shown = {k: v for k, v in series.items() if k not in ("seconds", "val_score") and not k.endswith("loss")}
    losses = {k: v for k, v in series.items() if k.endswith("loss")}
    told = f"the epoch with the best validation score, {chosen:g} of {len(log)}, was kept" if chosen else ""
    plots = [
        Plot(Image(training(epochs, part, chosen), f"{title} by epoch; {told}"), f"{title} by epoch; {told}.")
        for title, part in (("Validation figures", shown), ("Losses", losses))
        if part
    ]
    yield Plots(plots)
    total = sum(series.get("seconds", []))
    if total:
        yield Words(
            f"{counted(len(log), 'epoch')} took {total:,.0f} s, {total / len(log):,.1f} s each on average."
        )


SECTIONS: tuple[tuple[str, str, Callable[[Found], Iterator[Block]]], ...] = (
    ("summary", "In short", _summary),
    ("cautions", "What to know first", _cautions),
    ("flow", "Flow of slides and patients", _flow),
    ("cohort", "Who is in it", _cohort),
    ("performance", "Figures", performance.figures),
    ("curves", "Curves", performance.curves),
    ("calibration", "Calibration", performance.calibration),
    ("sites", "Sites and folds", performance.members),
    ("slides", "Slides to look at", _examples),
    ("evidence", "How many tiles the answers need", evidence.evidence),
    ("training", "Training", _training),
    ("cost", "Time and bytes", cost.cost),
    ("methods", "How this was made", provenance.methods),
    ("versions", "Versions and hashes", provenance.versions),
)
"""Anchor, title and maker of each section."""
