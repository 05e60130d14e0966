"""The file of a model folder that tells slides unlike the training slides, and what slides are described by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from wsi_ats.atomic import write_atomic
from wsi_ats.attention.levels import Drawn
from wsi_ats.errors import ModelError
from wsi_ats.estimator import shares
from wsi_ats.regular import read_regular
from wsi_ats.statistics.novelty import Description, Reference

REFERENCE = "reference.safetensors"
"""Name of the file in a model folder."""
FORMAT = 1
MOST_BYTES = 64 << 20


def describe_slide(drawn: Drawn, features: Float[Tensor, "N D"]) -> Description:
    """The description of a slide from its drawn tiles, their vectors (N, D) and its view."""
    weight = shares(drawn.log_p, drawn.draws).detach().double()
    weight = weight / weight.sum()
    vectors = features.detach().double()
    mean = weight.to(vectors) @ vectors
    spread = weight.to(vectors) @ (vectors - mean) ** 2
    return Description(
        mean.float().cpu().numpy(),
        spread.float().cpu().numpy(),
        float(1 / (weight**2).sum()),
        drawn.slide.tones,
    )


def write_reference(reference: Reference, path: Path) -> None:
    """Write a reference in one step. Raises `OSError` where it cannot be written."""
    # Contiguous: safetensors writes the memory of an array as it lies there.
    arrays = {name: np.ascontiguousarray(array) for name, array in reference.to_arrays().items()}
    write_atomic(path, save(arrays, {"format": str(FORMAT)}))


def read_reference(path: Path, dim: int) -> Reference | None:
    """The reference of tile vectors of `dim` numbers in a file; None where there is no such file.

    Raises `ModelError` where the file holds something else.
    """
    try:
        reference = Reference.of_arrays(load(read_regular(path, MOST_BYTES)))
        if reference.tiles.mean.shape != (dim,):
            raise ValueError(
                f"it is of vectors of {reference.tiles.mean.shape[0]} numbers, the model's have {dim}"
            )
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(
            f"{path} does not say what the training slides were like: {error}",
            "copy the whole model folder again; without this file no slide is told to be unlike them",
        ) from error
    return reference
