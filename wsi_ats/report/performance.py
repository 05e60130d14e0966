"""Sections on what the answers are worth: figures, curves, calibration, sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from wsi_ats.report import plots
from wsi_ats.report.before import answered_of, uncalibrated
from wsi_ats.report.blocks import Block, Grid, Heading, Image, Plot, Plots, Words
from wsi_ats.report.found import Found, Values
from wsi_ats.report.words import figure_name, interval, meaning, number, units, valued
from wsi_ats.shown import counted
from wsi_ats.statistics.calibration_figures import reliability_figures
from wsi_ats.statistics.clusters import values_of
from wsi_ats.statistics.evaluation import Alternative, Answered, alternatives, figures_of

MOST_CURVES = 6
"""Number of classes or labels whose curves are drawn; evaluation.json has all."""
MOST_SITES = 8
"""Number of sites whose ROC curves are drawn."""
MOST_MEMBERS = 30
"""Number of sites or folds that are drawn."""
HEADLINES = ("auroc", "auroc_macro", "balanced_accuracy", "r2", "c_index")
"""Figures that are drawn by site and fold."""
CALIBRATION = ("brier", "ece", "calibration_in_the_large", "calibration_slope", "brier_all", "ece_top")


def _tasks(found: Found) -> list[Values]:
    return list(found.evaluation.get("tasks", ()))


def figures(found: Found) -> Iterator[Block]:
    """Every figure of all slides with its interval, and the matrix of confusion."""
    seeds = found.evaluation.get("seeds", [])
    for task in _tasks(found):
        yield from _headed(found, task)
        whole = task["parts"][0]
        rows = []
        for f in whole["figures"]:
            spread = [number(f.get("over_seeds", {}).get("sd"))] if seeds else []
            name = figure_name(f["name"], f["of"])
            rows.append([name, number(f["value"]), interval(f), *spread, meaning(f["name"], found.by)])
        header = ["figure", "value", "95 % interval", *(["sd over seeds"] if seeds else []), "what it says"]
        what = f" “It” is {task['positive']}." if task["positive"] else ""
        yield Grid(
            f"Figures of {units(whole, found.by)}; intervals by bootstrap over patients.{what}", header, rows
        )
        if task["confusion"]:
            yield _confusion(task, found.by)


def _confusion(task: Values, by: str) -> Grid:
    matrix = np.array(task["confusion"], np.float64)
    sums = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, sums, out=np.zeros_like(matrix), where=sums > 0)
    rows = [
        [name, *(f"{int(n)} ({share:.0%})".replace("%", " %") for n, share in zip(line, part, strict=True))]
        for name, line, part in zip(task["names"], matrix, shares, strict=True)
    ]
    caption = f"Confusion matrix: {by}s, and their share of the true class. {task['rule']}"
    header = ["truth", *(f"called {name}" for name in task["names"])]
    return Grid(
        caption,
        header,
        rows,
        shares.tolist(),
    )


def curves(found: Found) -> Iterator[Block]:
    """ROC, precision and recall, stated probabilities, decision curve; of numbers, answers against the truth."""
    for task in _tasks(found):
        yield from _headed(found, task)
        if task["kind"] == "regression":
            truth, said = ([s[k][0] for s in task["slides"]] for k in ("target", "values"))
            caption = f"Answers against the truth, {counted(len(truth), found.by)}."
            yield Plots([Plot(Image(plots.agreement(truth, said, task["task"]), caption), caption)])
        answered = answered_of(task)
        for curve, part in list(zip(task["curves"], alternatives(answered), strict=True))[:MOST_CURVES]:
            of = part.of or task["positive"] or part.yes
            yield Plots(list(_curves_of(curve, of, task, part, found.by)))
        if len(task["curves"]) > MOST_CURVES:
            yield Words(f"The curves of {len(task['curves']) - MOST_CURVES} more are in evaluation.json.")


def _curves_of(curve: Values, of: str, task: Values, part: Alternative, by: str) -> Iterator[Plot]:
    happened, probability = part.happened, part.probability
    areas = {f["name"]: f for f in task["parts"][0]["figures"] if f["of"] == curve["of"]}
    n = f"{counted(len(happened), by)}, {int(happened.sum())} of them {of}"
    if curve["roc"]:
        area = valued(areas["auroc"])
        caption = f"ROC curve for {of}: {n}. Area {area}. {_band_words(curve['roc']['band']['note'])}"
        yield Plot(
            Image(plots.roc(curve["roc"], f"area {number(areas['auroc']['value'])}"), caption), caption
        )
        area, share = valued(areas["auprc"]), float(happened.mean())
        band = curve["precision_recall"]["band"]
        caption = f"Precision and recall for {of}: {n}. Area {area}; {share:.3f} is chance. {_band_words(band['note'])}"
        image = plots.precision_recall(
            curve["precision_recall"], share, f"area {number(areas['auprc']['value'])}"
        )
        yield Plot(Image(image, caption), caption)
    held = {f"not {of}": probability[~happened].tolist(), of: probability[happened].tolist()}
    caption = f"Stated probabilities of {of} by the truth: {n}."
    threshold = task["threshold"] if task["positive"] == of else None
    yield Plot(Image(plots.histogram(held, threshold, of), caption), caption)
    limits = [point["model"] for point in curve["decision"]]
    has_band = any(point["low"] is not None for point in limits)
    note = "" if has_band else next((point["note"] for point in limits if point["note"]), "")
    caption = (
        f"Decision curve for {of}: {n}. Net benefit of acting as the model says, against acting on all {by}s or on "
        f"none; the model is of use where its line is the highest. {_band_words(note)}"
    )
    yield Plot(Image(plots.decision(curve["decision"]), caption), caption)


def _band_words(note: str) -> str:
    """Words on the band of a curve; `note`: why there is none."""
    if note:
        return f"No band: {note}."
    return "Shaded: 95 % of the resamples of the patients, place by place."


def calibration(found: Found) -> Iterator[Block]:
    """Reliability, and calibration figures as stated and before calibration."""
    for number_, task in enumerate(_tasks(found)):
        answered = answered_of(task)
        parts = alternatives(answered)
        if task.get("survival"):
            yield from _headed(found, task)
            yield from _survival(task, found.by)
        if not parts:
            continue
        yield from _headed(found, task)
        raw = uncalibrated(found, number_)
        if raw is None:
            yield Words("Before calibration: not known, or the model is not calibrated.")
        else:
            yield Words(
                f"The calibration was fitted on {raw[1]}. Where these are the {found.by}s below, “as stated” looks "
                "better than it will be on others."
            )
        earlier = alternatives(raw[0]) if raw else []
        drawn = []
        for i, (curve, part) in enumerate(list(zip(task["curves"], parts, strict=True))[:MOST_CURVES]):
            of = part.of or task["positive"] or part.yes
            before = _reliability(earlier[i].probability, earlier[i].happened) if earlier else []
            caption = (
                f"Reliability for {of}: {counted(len(part.happened), found.by)} in {len(curve['reliability'])} bins of "
                "about as many; bars are 95 % intervals where there are patients enough."
            )
            drawn.append(Plot(Image(plots.reliability(curve["reliability"], before), caption), caption))
        yield Plots(drawn)
        yield _calibration_table(task, raw[0] if raw else None, found.by)


def _survival(task: Values, by: str) -> Iterator[Block]:
    """Groups of risk: what share of them is free of the event at several times."""
    yield Words(
        f"A risk has no level of its own: that of the times below was taken from these very {by}s (Breslow). What is "
        "judged is whether groups lie as far apart as their risks say."
    )
    drawn = []
    for time in dict.fromkeys(point["time"] for point in task["survival"]):
        points = [point for point in task["survival"] if point["time"] == time]
        caption = (
            f"Free of the event after {time:g}: {counted(sum(p['slides'] for p in points), by)} in "
            f"{counted(len(points), 'group')} of risk; bars are 95 % intervals where there are patients enough."
        )
        drawn.append(Plot(Image(plots.survival(points), caption), caption))
    yield Plots(drawn)
    yield _calibration_table(task, None, by)


def _reliability(probability: np.ndarray, happened: np.ndarray) -> list[tuple[float, float]]:
    one = np.ones((1, len(probability)))
    return [(mean, float(f.at(one)[0])) for mean, _, f in reliability_figures(probability, happened)]


def _calibration_table(task: Values, raw: Answered | None, by: str) -> Grid:
    told = [f for f in task["parts"][0]["figures"] if f["name"] in CALIBRATION]
    earlier: dict[tuple[str, str], float] = {}
    if raw is not None:
        made = figures_of(raw)
        earlier = {(f.name, f.of): float(v) for f, v in zip(made, values_of(made, len(raw)), strict=True)}
    rows = [
        [
            figure_name(f["name"], f["of"]),
            *([number(earlier.get((f["name"], f["of"])))] if raw else []),
            *(number(f["value"]), interval(f), meaning(f["name"], by)),
        ]
        for f in told
    ]
    header = ["figure", *(["before"] if raw else []), "as stated", "95 % interval", "what it says"]
    return Grid(f"Calibration figures of these {by}s", header, rows)


def members(found: Found) -> Iterator[Block]:
    """The first figures of each site and fold, beside those of all slides."""
    for task in _tasks(found):
        whole, *others = task["parts"]
        for by in dict.fromkeys(part["by"] for part in others):
            mine = [part for part in others if part["by"] == by]
            yield from _headed(found, task)
            yield from _by(by, whole, mine, found.by)
        yield from _roc_by_site(task, found.by)


def _roc_by_site(task: Values, by: str) -> Iterator[Block]:
    """ROC curves of the sites that have both kinds, beside each other."""
    for curve in task["curves"][:MOST_CURVES]:
        of, sites = curve["of"] or task["positive"], curve.get("sites", ())
        drawn = []
        for site in sites[:MOST_SITES]:
            n, band = counted(site["slides"], by), _band_words(site["band"]["note"])
            caption = f"ROC curve for {of} at {site['site']}: {n}. {band}"
            drawn.append(Plot(Image(plots.roc(site, plots.short(site["site"])), caption), caption))
        if drawn:
            yield Plots(drawn)
        if len(sites) > MOST_SITES:
            yield Words(f"The curves of {len(sites) - MOST_SITES} more sites are in evaluation.json.")


def _by(by: str, whole: Values, mine: Sequence[Values], unit: str) -> Iterator[Block]:
    first = [f for f in whole["figures"] if f["name"] in HEADLINES][:2]
    drawn = []
    for figure in first:
        rows = [(f"all {unit}s", *_place(figure))]
        rows += [(part["member"], *_place(_same(part, figure))) for part in mine[:MOST_MEMBERS]]
        name = figure_name(figure["name"], figure["of"])
        caption = f"{name} by {by}, with 95 % intervals where there are patients enough; the diamond is all {unit}s."
        image = Image(plots.by_member(rows, name, figure["name"] != "r2"), caption)
        drawn.append(Plot(image, caption))
    yield Plots(drawn)
    rows_ = [
        [
            part["member"],
            *([str(part["slides"])] if unit == "slide" else []),
            str(part["patients"]),
            *(valued(f) for f in part["figures"][:3]),
        ]
        for part in mine
    ]
    names = [figure_name(f["name"], f["of"]) for f in whole["figures"][:3]]
    header = [by, *(["slides"] if unit == "slide" else []), "patients", *names]
    yield Grid(f"By {by}; all figures are in evaluation.csv", header, rows_)


def _same(part: Values, figure: Values) -> Values:
    return next(f for f in part["figures"] if (f["name"], f["of"]) == (figure["name"], figure["of"]))


def _place(figure: Values) -> tuple[float | None, float | None, float | None]:
    return figure["value"], figure["low"], figure["high"]


def _headed(found: Found, task: Values) -> Iterator[Block]:
    if len(_tasks(found)) > 1:
        yield Heading(task["task"])
