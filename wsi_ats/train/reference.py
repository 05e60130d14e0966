"""The reference of a trained model: what its training slides are like, so that others can be told from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wsi_ats.errors import SlideError
from wsi_ats.sampling import generator_for
from wsi_ats.slide_model import SlideModel
from wsi_ats.statistics.novelty import LEAST, Description, Reference, expected_rate, fit_reference
from wsi_ats.train.data import Examples
from wsi_ats.train.epoch_checkpoint import Say
from wsi_ats.train.module import answer
from wsi_ats.train.processes import ALONE, Processes

MOST = 256
"""Number of training slides that are looked at: mean and main components change little with more."""


def reference_of(
    model: SlideModel,
    train_set: Examples,
    validation: Sequence[Description | None],
    seed: int,
    say: Say,
    processes: Processes = ALONE,
) -> Reference | None:
    """The reference of the training slides, with the limit that the descriptions of validation slides set.

    Of many training slides some are chosen at random. None, and that is said, where there are too few slides.
    """
    others = [description for description in validation if description is not None]
    reference, trained = None, []
    if len(train_set) + len(others) >= LEAST:  # else there is no need to read any tile
        chosen = torch.randperm(len(train_set), generator=generator_for(seed, "reference"))[:MOST].tolist()
        described = processes.each(len(chosen), lambda number: _describe(model, train_set, chosen[number]))
        trained = [description for description in described if description is not None]
        reference = fit_reference(trained, others)
    if reference is None:
        say(
            f"slides unlike the training slides cannot be told: it takes {LEAST} slides, and there are "
            f"{len(train_set) + len(others)}"
        )
        return None
    rate = expected_rate(reference.rank, reference.slides)
    say(
        f"slides unlike the {len(trained)} training slides can be told: expected false alarms {rate:.1%}, by "
        f"{reference.slides} slides {'of validation' if len(others) >= LEAST else 'left out in turn'}"
    )
    return reference


def _describe(model: SlideModel, train_set: Examples, index: int) -> Description | None:
    """The description of a training slide; None where a tile of it cannot be read, which no epoch had drawn."""
    try:
        return answer(model, train_set[index]).description
    except SlideError:
        return None
