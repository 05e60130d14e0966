"""Section on what the answers cost: seconds by stage, tiles and bytes that were read against all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from wsi_ats.report.blocks import Block, Grid, Image, Plot, Plots
from wsi_ats.report.found import Found
from wsi_ats.report.plots import bars
from wsi_ats.report.words import counted, number, size


def cost(found: Found) -> Iterator[Block]:
    """Means over the predicted slides whose records are there."""
    records = [record for record in found.records.values() if record.get("tissue_cells")]
    if not records:
        return
    of = counted(len(records), "slide")
    stages = _stages([record["seconds"] for record in records])
    if stages:
        caption = f"Seconds a slide by stage, mean over {of}."
        yield Plots([Plot(Image(bars(stages, "seconds a slide"), caption), caption)])
    tiles, every = (np.array([float(r[k]) for r in records]) for k in ("tiles_read", "tissue_cells"))
    under = np.array([3.0 * r["tile_px"] ** 2 * np.prod(r["tile_downsample"]) for r in records]) * every
    read = np.array([float(r["bytes_read"]) for r in records])
    total = np.array([float(r["seconds"].get("total", np.nan)) for r in records])
    rows = [
        ["tiles read", number(tiles.mean(), 1), number(every.mean(), 1), _share(tiles, every)],
        ["decoded bytes, the view included", size(read.mean()), size(under.mean()), _share(read, under)],
        ["seconds", number(float(np.nanmean(total)), 2), "–", "–"],
    ]
    yield Grid(
        f"A slide, mean over {of}; bytes of all tiles are those of the full-resolution pixels under them",
        ["", "read", "all tissue tiles", "share"],
        rows,
    )


def _stages(each: list[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in dict.fromkeys(n for seconds in each for n in seconds) if name != "total"]
    return {name: float(np.mean([seconds.get(name, 0.0) for seconds in each])) for name in names}


def _share(part: np.ndarray, whole: np.ndarray) -> str:
    return f"{100 * part.sum() / whole.sum():.1f} %" if whole.sum() else "–"
