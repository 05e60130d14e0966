"""Slides to look at: those that the model is best and worst at, and those that it is least sure of, with pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image as Picture

from wsi_ats.batch.store import SlideStore, read_prediction
from wsi_ats.errors import WsiAtsError
from wsi_ats.prediction import Prediction
from wsi_ats.report.blocks import Image, SlideCard
from wsi_ats.report.found import Found, Values
from wsi_ats.report.words import number

EACH, TILES = 3, 6
"""Slides of each kind, and tiles of each slide."""
HEATMAP_PX, MOST_PX, TILE_PX = 380, 1400, 112
"""Longest side of the slide in a heatmap, of the whole picture, and side of a tile, in px."""
QUALITY = 80
"""Quality of JPEG: pictures are to be looked at, not measured."""
Chosen = dict[str, list[Values]]
"""Slides of an evaluation by what they were chosen for."""


def choose(task: Values) -> Chosen:
    """The slides of a task (as in evaluation.json) to look at, each once: wrong ones first, since there are fewer.

    >>> tumour = [0.1, 0.9, 0.8, 0.5]
    >>> slides = [{"slide": str(i), "target": [i % 2], "values": [1 - p, p]} for i, p in enumerate(tumour)]
    >>> found = choose({"kind": "classes", "names": ["a", "b"], "slides": slides})
    >>> {why: [slide["slide"] for slide in mine] for why, mine in found.items()}
    {'most wrong': ['2'], 'least sure': ['3'], 'best': ['0']}
    """
    known = [slide for slide in task["slides"] if not math.isnan(_goodness(slide, task))]
    orders = {
        "most wrong": sorted(known, key=lambda slide: _goodness(slide, task)),
        "least sure": sorted(known, key=lambda slide: -_doubt(slide, task)) if task["names"] else [],
        "best": sorted(known, key=lambda slide: -_goodness(slide, task)),
    }
    taken: set[str] = set()
    chosen: Chosen = {}
    for why, order in orders.items():
        mine = [slide for slide in order if slide["slide"] not in taken][: min(EACH, max(1, len(known) // 3))]
        taken |= {slide["slide"] for slide in mine}
        chosen[why] = mine
    return chosen


def _goodness(slide: Values, task: Values) -> float:
    """How right the answer is: probability of the truth, of labels the mean, of numbers minus the error."""
    values, target = slide["values"], slide["target"]
    if task["kind"] in ("classes", "ordinal"):
        return float(values[int(target[0])])
    if task["kind"] == "labels":
        known = [p if t else 1 - p for p, t in zip(values, target, strict=False) if t is not None]
        return float(np.mean(known)) if known else math.nan
    return -abs(values[0] - target[0]) if task["kind"] == "regression" else math.nan


def _doubt(slide: Values, task: Values) -> float:
    """How unsure the answer is: minus the distance of its probability from the threshold, or its entropy."""
    p = np.clip(slide["values"][: len(task["names"])], 1e-12, 1 - 1e-12)
    if task.get("threshold") is not None and task["positive"]:
        return -float(abs(p[task["names"].index(task["positive"])] - task["threshold"]))
    return float(-(p * np.log(p)).sum())


def cards(found: Found, task: Values) -> dict[str, list[SlideCard]]:
    """The chosen slides with their pictures, by what they were chosen for."""
    return {why: [_card(found, slide, task) for slide in mine] for why, mine in choose(task).items()}


def _card(found: Found, slide: Values, task: Values) -> SlideCard:
    facts = [_truth(slide, task), _answer(slide, task)]
    facts += [f"{name}: {slide[name]}" for name in ("site", "fold") if slide.get(name)]
    card = SlideCard(slide["slide"], facts)
    store = found.stores.get(slide.get("in_answers", slide["slide"])) or found.stores.get(slide["slide"])
    if store is None:
        return replace(card, note="No picture: the folder of this slide's prediction is not there.")
    try:
        return _with_pictures(card, store, task["task"])
    except (WsiAtsError, OSError, ValueError, KeyError, MemoryError) as error:
        return replace(card, note=f"No picture: {error}".splitlines()[0])


def _with_pictures(card: SlideCard, store: SlideStore, task: str) -> SlideCard:
    from wsi_ats.heatmap.style import HeatmapStyle
    from wsi_ats.slides import open_slide
    from wsi_ats.tiles import read_tiles

    prediction, record = read_prediction(store.folder).about(task), store.result() or {}
    style = HeatmapStyle(size=HEATMAP_PX)
    read = f"{prediction.tiles_read:,} of {len(prediction.tissue):,} tissue tiles were read"
    try:
        if "://" in str(record["path"]):
            raise WsiAtsError("it is behind a URL")
        with open_slide(record["path"], mpp=record["mpp_given"]) as slide:
            picture = prediction.heatmap(slide, style).encode()
            places, captions = _deciding(prediction)
            cells = prediction.cells[places]
            pixels = read_tiles(slide, prediction.grid, cells, prediction.tile_px, prediction.tile_downsample)
    except (WsiAtsError, OSError) as error:
        drawn = store.folder / "heatmap.png"
        picture = drawn.read_bytes() if drawn.is_file() else prediction.heatmap(None, style).encode()
        note = f"The slide itself could not be read again: {getattr(error, 'message', error)}"
        return replace(card, heatmap=_jpeg(picture, MOST_PX, _described(card, read)), note=note)
    tiles = [
        (_jpeg(Picture.fromarray(tile), TILE_PX, f"Tile of {card.name}: {words}"), words)
        for tile, words in zip(pixels, captions, strict=True)
    ]
    facts = [*card.facts, read, *prediction.notes]
    return replace(card, facts=facts, heatmap=_jpeg(picture, MOST_PX, _described(card, read)), tiles=tiles)


def _described(card: SlideCard, read: str) -> str:
    return (
        f"Heatmap of {card.name}: on the left where the model looked, on the right what each tile added to the answer; "
        f"{'; '.join(card.facts)}; {read}"
    )


def _deciding(prediction: Prediction) -> tuple[Sequence[int], list[str]]:
    """Positions of the tiles that added most to the answer or took most from it, and what each added."""
    added = prediction.contributions[:, prediction.top].astype(np.float64)
    order = np.argsort(-abs(added), kind="stable")[:TILES].tolist()
    return order, [f"{added[i]:+.2f}".replace("-", "−") for i in order]


def _jpeg(picture: bytes | Picture.Image, most: int, alt: str) -> Image:
    """A picture of at most so many px a side, as the URL of a JPEG."""
    image = Picture.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    image = image.convert("RGB")
    image.thumbnail((most, most))
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=QUALITY, optimize=True)
    return Image("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), alt)


def _truth(slide: Values, task: Values) -> str:
    return f"truth: {_told(slide['target'], task)}"


def _told(target: Sequence[Any], task: Values) -> str:
    if task["kind"] in ("classes", "ordinal"):
        return str(task["names"][int(target[0])])
    if task["kind"] == "labels":
        return (
            ", ".join(name for name, t in zip(task["names"], target, strict=True) if t)
            or "none of the labels"
        )
    return number(target[0])


def _answer(slide: Values, task: Values) -> str:
    values, names = slide["values"], task["names"]
    if task["kind"] == "labels":
        return "answer: " + ", ".join(f"{name} {number(p)}" for name, p in zip(names, values, strict=False))
    if not names:
        return f"answer: {number(values[0])}"
    said = slide["decision"]
    return f"answer: {said}, with a stated probability of {number(values[names.index(said)])} for it"
