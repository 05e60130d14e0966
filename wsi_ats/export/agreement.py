"""Agreement: what programs answer from their files, against what the networks answer that they were made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_ats.attention.blockwise import BlockwisePass
from wsi_ats.embed import to_tensor
from wsi_ats.errors import ModelError
from wsi_ats.export.formats import Run, run_program
from wsi_ats.export.programs import AttentionProgram, FeatureProgram, Program
from wsi_ats.geometry import Box
from wsi_ats.lowres.prepare import prepare
from wsi_ats.sampling import generator_for
from wsi_ats.slide_model import SlideModel
from wsi_ats.slides.base import Slide
from wsi_ats.tiles import read_tiles

MOST = 1e-4
"""Largest difference that is let pass, of numbers up to 1; of larger ones it is their share."""
RANDOM = "random input"
SIZES = (1, 2, 5)
"""Sizes of random inputs: the number of views and tiles, and the views' height and width, are left open."""
TILES = 16
"""Tiles of a slide that programs are tried on."""
VIEW_PX = 1024
"""Side of the part of a slide's view that programs are tried on, in view px, at most."""

Inputs = tuple[Tensor, ...]
Examples = Mapping[str, Sequence[Inputs]]
"""Inputs of a program, by what they are."""


def random_examples(program: Program) -> Examples:
    """Random inputs of several sizes, the same every time."""
    return {RANDOM: [program.example(size, generator_for(0, program.name, size)) for size in SIZES]}


def slide_examples(model: SlideModel, programs: Sequence[Program], slide: Slide) -> list[Examples]:
    """What each program is given of a slide: a part of its view, tiles drawn from its attention, and their vectors.

    Raises `SlideError` where the slide cannot be read, `NoTissueError` where it shows none.
    """
    prepared = prepare(slide, model.config, keep_open=True)
    grid, stride = prepared.view.grid, prepared.view.stride
    side = max(1, VIEW_PX // stride)
    # Programs take two cells a side or more; a view of one is tried with glass beside it, as it would be used.
    cells = [min(side, n) for n in (grid.rows, grid.cols)]
    first = [(n - c) // 2 for n, c in zip((grid.rows, grid.cols), cells, strict=True)]
    network = next(p for p in programs if isinstance(p, AttentionProgram)).network
    blockwise = BlockwisePass(
        network, prepared.view_reader, grid, prepared.tissue, side, prepared.stain_table
    )
    with torch.no_grad(), prepared.view_reader() as read:
        box = Box(first[1] * stride, first[0] * stride, cells[1] * stride, cells[0] * stride)
        view = blockwise.seen(read(box)).float()
        more = [stride * max(0, 2 - n) for n in cells]
        view = F.pad(view, (0, more[1], 0, more[0]), value=network.background)
        attention = model.attend(prepared)
        drawn = attention.draw(TILES, "systematic", generator_for(0, prepared.name))
        pixels = read_tiles(slide, grid, drawn.cells, model.config.tile.px, prepared.tile_downsample)
        tiles = to_tensor(pixels, torch.device("cpu"))
        (vectors,) = next(p for p in programs if isinstance(p, FeatureProgram))(tiles)
        log_p = drawn.log_p if drawn.log_each is None else drawn.log_each.T
        log_attention = log_p[drawn.draws.cells].float()
    answered = (vectors, log_attention, drawn.draws.log_weights.float())
    given: dict[str, Inputs] = {AttentionProgram.name: (view,), FeatureProgram.name: (tiles,)}
    return [{slide.name: [given.get(program.name, answered)]} for program in programs]


def check_agreement(program: Program, path: Path, examples: Examples) -> dict[str, float]:
    """Largest difference between a program's file and its networks, by the input that it was found with.

    Raises `ModelError` where one is above `MOST`.
    """
    run = run_program(path, list(program.inputs))
    found = {name: largest_difference(program, run, inputs) for name, inputs in examples.items()}
    for name, difference in found.items():
        if not difference <= MOST:
            raise ModelError(
                f"{path.name} does not agree with the model: on {name} its answers differ by {difference:.2g}, at most "
                f"{MOST:g} is let pass",
                remedy="export with other versions of torch, onnx, onnxscript and onnxruntime, or in another --format",
            )
    return found


@torch.no_grad()
def largest_difference(program: Program, run: Run, examples: Iterable[Inputs]) -> float:
    """Largest difference of any output on any of the inputs, as a share of the largest number of that output where this
    is above 1; nan where one is not a number."""
    worst = 0.0
    for inputs in examples:
        for mine, theirs in zip(program(*inputs), run(inputs), strict=True):
            own = mine.numpy()
            if own.shape != theirs.shape:
                return float("inf")
            scale = max(1.0, float(np.abs(own).max()))
            worst = float(np.maximum(worst, np.abs(own - theirs).max() / scale))  # nan stays
    return worst
