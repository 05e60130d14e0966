"""Slides to look at: those that the model is best and worst at, and those that it is least sure of, with pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Picture

from wsi_ats.batch.store import SlideStore, read_patient_prediction, read_prediction
from wsi_ats.errors import WsiAtsError
from wsi_ats.prediction import Prediction
from wsi_ats.report.blocks import Image, SlideCard
from wsi_ats.report.found import Found, Values
from wsi_ats.report.words import number

if TYPE_CHECKING:  # takes a while to import
    from wsi_ats.heatmap.style import HeatmapStyle

EACH, TILES, MOST_SLIDES = 3, 6, 3
"""Slides or patients of each kind, tiles of each, and slides of a patient."""
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
        return replace(card, note=f"No picture: the folder of this {found.by}'s prediction is not there.")
    try:
        return _with_pictures(card, store, task["task"])
    except (WsiAtsError, OSError, ValueError, KeyError, MemoryError) as error:
        return replace(card, note=f"No picture: {error}".splitlines()[0])


@dataclass(frozen=True, eq=False)
class _Shown:
    """A predicted slide, alone or one of a patient's, and where it lies."""

    prediction: Prediction
    path: str
    mpp: float | None
    folder: Path


def _with_pictures(card: SlideCard, store: SlideStore, task: str) -> SlideCard:
    slides, style, notes = _shown(store, task)
    tiles_read = sum(slide.prediction.tiles_read for slide in slides)
    tissue = sum(len(slide.prediction.tissue) for slide in slides)
    read = f"{tiles_read:,} of {tissue:,} tissue tiles were read"
    several = [f"slides: {', '.join(s.prediction.slide for s in slides)}"] if len(slides) > 1 else []
    shown = sorted(slides, key=lambda slide: -float(slide.prediction.attention.sum()))[:MOST_SLIDES]
    unseen = (
        [f"Pictures of the {MOST_SLIDES} slides with the most attention."] if len(slides) > len(shown) else []
    )
    deciding = _deciding([slide.prediction for slide in shown])
    heatmaps: list[Image] = []
    tiles: dict[int, np.ndarray] = {}
    for number_, slide in enumerate(shown):
        mine = [i for i, (which, _, _) in enumerate(deciding) if which == number_]
        alt = _described(card, slide.prediction.slide if several else card.name, read)
        try:
            picture, pixels = _seen(slide, style, [deciding[i][1] for i in mine])
            tiles |= dict(zip(mine, pixels, strict=True))
        except (WsiAtsError, OSError) as error:
            drawn = slide.folder / "heatmap.png"
            picture = (
                drawn.read_bytes() if drawn.is_file() else slide.prediction.heatmap(None, style).encode()
            )
            which = f"The slide {slide.prediction.slide}" if several else "The slide itself"
            unseen.append(f"{which} could not be read again: {getattr(error, 'message', error)}")
        heatmaps.append(_jpeg(picture, MOST_PX, alt))
    images = [
        (_jpeg(Picture.fromarray(tiles[i]), TILE_PX, f"Tile of {card.name}: {words}"), words)
        for i, (_, _, words) in enumerate(deciding)
        if i in tiles
    ]
    facts = [*card.facts, *several, read, *notes]
    return replace(card, facts=facts, heatmaps=heatmaps, tiles=images, note=" ".join(unseen))


def _shown(store: SlideStore, task: str) -> tuple[list[_Shown], HeatmapStyle, Sequence[str]]:
    """The slide of a folder, or the slides of the patient, their style with one scale of colours, and what is noted."""
    from wsi_ats.heatmap.style import HeatmapStyle

    record, style = store.result() or {}, HeatmapStyle(size=HEATMAP_PX)
    if "slides" not in record:
        prediction = read_prediction(store.folder).about(task)
        alone = _Shown(prediction, str(record["path"]), record["mpp_given"], store.folder)
        return [alone], style, prediction.notes
    patient = read_patient_prediction(store.folder)
    scales = {id: mpp for id, _, _, mpp in record["files"]}
    slides = [
        _Shown(part, slide.get("path", ""), scales.get(slide["id"]), store.folder / slide["folder"])
        for part, slide in zip(patient.slides, record["slides"], strict=True)
    ]
    return slides, patient.heatmaps(None, style)[0].style, patient.notes


def _seen(slide: _Shown, style: HeatmapStyle, places: Sequence[int]) -> tuple[bytes, np.ndarray]:
    """The heatmap over the slide, and tiles by their places among the drawn cells. Raises `WsiAtsError`, `OSError`
    where the slide cannot be read again."""
    from wsi_ats.slides import open_slide
    from wsi_ats.tiles import read_tiles

    if "://" in slide.path:
        raise WsiAtsError("it is behind a URL")
    if not slide.path:
        raise WsiAtsError("where it lies is not known")
    prediction = slide.prediction
    with open_slide(slide.path, mpp=slide.mpp) as handle:
        picture = prediction.heatmap(handle, style).encode()
        cells = prediction.cells[list(places)]
        side, scale = prediction.tile_px, prediction.tile_downsample
        return picture, read_tiles(handle, prediction.grid, cells, side, scale)


def _described(card: SlideCard, slide: str, read: str) -> str:
    return (
        f"Heatmap of {slide}: on the left where the model looked, on the right what each tile added to the answer; "
        f"{'; '.join(card.facts)}; {read}"
    )


def _deciding(predictions: Sequence[Prediction]) -> list[tuple[int, int, str]]:
    """The tiles of some slides that added most to the answer or took most from it: number of the slide, place among its
    drawn cells, and what the tile added."""
    each = [prediction.contributions[:, prediction.top].astype(np.float64) for prediction in predictions]
    every = [
        (number_, i, float(value)) for number_, added in enumerate(each) for i, value in enumerate(added)
    ]
    most = sorted(every, key=lambda tile: -abs(tile[2]))[:TILES]
    return [(number_, i, f"{value:+.2f}".replace("-", "−")) for number_, i, value in most]


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
