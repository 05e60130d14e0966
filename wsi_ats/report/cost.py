"""Section on what the answers cost: seconds by stage, tiles and bytes that were read against all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from wsi_ats.batch.records import Record
from wsi_ats.report.blocks import Block, Grid, Image, Plot, Plots
from wsi_ats.report.found import Found
from wsi_ats.report.plots import bars
from wsi_ats.report.words import number, size
from wsi_ats.shown import counted


def cost(found: Found) -> Iterator[Block]:
    """Means over the predicted slides whose records are there."""
    records = [record for record in found.records.values() if all(map(_cells, _slides(record)))]
    if not records:
        return
    of = counted(len(records), found.by)
    stages = _stages([record["seconds"] for record in records])
    if stages:
        caption = f"Seconds a {found.by} by stage, mean over {of}."
        yield Plots([Plot(Image(bars(stages, f"seconds a {found.by}"), caption), caption)])
    tiles = np.array([float(r["tiles_read"]) for r in records])
    every = np.array([float(sum(map(_cells, _slides(r)))) for r in records])
    under = np.array([sum(map(_bytes_under, _slides(r))) for r in records])
    read = np.array([float(r["bytes_read"]) for r in records])
    total = np.array([float(r["seconds"].get("total", np.nan)) for r in records])
    rows = [
        ["tiles read", number(tiles.mean(), 1), number(every.mean(), 1), _share(tiles, every)],
        ["decoded bytes, the view included", size(read.mean()), size(under.mean()), _share(read, under)],
        ["seconds", number(float(np.nanmean(total)), 2), "–", "–"],
    ]
    yield Grid(
        f"A {found.by}, mean over {of}; bytes of all tiles are those of the full-resolution pixels under them",
        ["", "read", "all tissue tiles", "share"],
        rows,
    )


def _slides(record: Record) -> list[Record]:
    """What a record says of each of its slides: of a slide's, of itself."""
    return list(record.get("slides", [record]))


def _cells(slide: Record) -> int:
    return int(slide.get("tissue_cells", 0))


def _bytes_under(slide: Record) -> float:
    """Bytes of the full-resolution pixels under all tissue tiles of a slide."""
    return float(3 * slide["tile_px"] ** 2 * np.prod(slide["tile_downsample"]) * _cells(slide))


def _stages(each: list[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in dict.fromkeys(n for seconds in each for n in seconds) if name != "total"]
    return {name: float(np.mean([seconds.get(name, 0.0) for seconds in each])) for name in names}


def _share(part: np.ndarray, whole: np.ndarray) -> str:
    return f"{100 * part.sum() / whole.sum():.1f} %" if whole.sum() else "–"
