"""What should be known before any figure is believed; it stands at the top of the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from wsi_ats.report.found import Found, Values
from wsi_ats.shown import counted
from wsi_ats.statistics.interval import LEAST
from wsi_ats.train.looked_at import USABLE

NAMED = 3
"""Number of slides that a sentence names."""


def cautions(found: Found) -> list[str]:
    """Sentences, the gravest first; none where there is nothing to say."""
    said = [*_of_run(found), *_of_answers(found)]
    if found.evaluation:
        said += [*found.evaluation.get("warnings", ()), *_of_patients(found.evaluation)]
        said += [words for task in found.evaluation["tasks"] for words in _of_sites(task, found.by)]
    return list(dict.fromkeys(said))


def _of_run(found: Found) -> Iterator[str]:
    if not found.is_run:
        return
    if found.missing:
        yield f"There are no figures: {found.missing}"
    if not found.folds:
        yield (
            f"These figures are of the validation {found.by}s, on which the epoch, the calibration and the threshold "
            "were chosen: they lean to the optimistic side. Slides that training never saw are the fair judge (wsi-ats "
            "evaluate)."
        )
    bad = found.run.get("bad_tiles") or {}
    if bad:
        total = sum(int(n) for n in bad.values())
        yield f"{counted(total, 'damaged tile')} of {counted(len(bad), 'slide')} were taken for background."
    lost = [line for line in found.table("slides_looked_at.csv") if line.get("found", USABLE) != USABLE]
    if lost:
        yield f"{counted(len(lost), 'slide')} could not be used in training; by class: {_by_class(found)}."


def _by_class(found: Found) -> str:
    every: dict[str, list[bool]] = defaultdict(list)
    for line in found.table("slides_looked_at.csv"):
        every[line.get("class", "") or "no class"].append(line.get("found", USABLE) != USABLE)
    return ", ".join(f"{name} {sum(lost)} of {len(lost)}" for name, lost in sorted(every.items()))


def _of_answers(found: Found) -> Iterator[str]:
    """Failed and pending slides, those unlike the training slides, and a table that has changed."""
    if found.changed:
        yield f"{found.answers.name} has changed since it was evaluated: evaluate it again."
    flow = found.evaluation.get("flow", {})
    if flow.get("failed"):
        shares = (
            f"{name} {n['failed']} of {n['labelled']}" for name, n in (flow.get("by_class") or {}).items()
        )
        by_class = ", ".join(shares)
        words = f"{counted(flow['failed'], f'labelled {found.by}')} failed, and no figure knows of them"
        yield (
            f"{words}; by class: {by_class}. If one fails more, figures are biased."
            if by_class
            else f"{words}."
        )
    if flow.get("pending"):
        yield f"{counted(flow['pending'], f'labelled {found.by}')} had not been predicted when the figures were made."
    unlike = [line[found.by] for line in found.predicted if line.get("unlike") == "yes" and found.by in line]
    if unlike:
        more = ", ..." if len(unlike) > NAMED else ""
        yield (
            f"{counted(len(unlike), found.by)} of {len(found.predicted)} are unlike the {found.by}s that the model was "
            f"trained on (another stain, scanner, tissue, or a dim lamp): {', '.join(unlike[:NAMED])}{more}."
        )


def _of_patients(evaluation: Values) -> Iterator[str]:
    flow = evaluation["flow"]
    slides = [slide for task in evaluation["tasks"] for slide in task["slides"]]
    named = any(slide["patient"] != slide["slide"] for slide in slides)
    if flow.get("by", "slide") == "slide" and flow["evaluated"] > 1 and not named:
        yield (
            "No patients were named, so each slide counts as a patient of its own: all intervals are too narrow where "
            "patients have several slides."
        )
    for task in evaluation["tasks"]:
        if task["kind"] not in ("classes", "ordinal"):
            continue
        patients: dict[str, set[str]] = {name: set() for name in task["names"]}
        for slide in task["slides"]:
            patients[task["names"][int(slide["target"][0])]].add(slide["patient"])
        few = [f"{name} {len(mine)}" for name, mine in patients.items() if len(mine) < LEAST]
        if few:
            yield f"Too few patients for intervals (fewer than {LEAST}): {', '.join(few)}."


def _of_sites(task: Values, by: str) -> Iterator[str]:
    """Sites whose slides are all of one class: there the model may tell the site, not the disease."""
    if task["kind"] not in ("classes", "ordinal"):
        return
    classes: dict[str, set[str]] = defaultdict(set)
    for slide in task["slides"]:
        classes[slide["site"]].add(task["names"][int(slide["target"][0])])
    one = [
        f"{site} ({next(iter(names))})" for site, names in sorted(classes.items()) if site and len(names) == 1
    ]
    if len(classes) > 1 and one:
        yield (
            f"All {by}s of these sites are of one class: {', '.join(one)}. A model can be right there by telling the "
            "site, and nothing shows how well it parts the classes within it."
        )
