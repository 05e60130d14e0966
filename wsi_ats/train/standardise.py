"""Standardisation of features and view channels, fitted to training slides before a network learns or is judged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from wsi_ats.attention.attend import Attend
from wsi_ats.attention.networks import PretrainedAttention
from wsi_ats.lowres.patient import Prepared
from wsi_ats.model import AttentionSampler
from wsi_ats.sampling import generator_for
from wsi_ats.train.processes import ALONE, Processes

TILES = 16
"""Number of tiles a slide, where they are drawn uniformly."""


@torch.no_grad()
def fit_standardisation(
    model: AttentionSampler,
    slides: Sequence[Prepared],
    seed: int,
    *,
    uniform: bool = True,
    processes: Processes = ALONE,
) -> None:
    """Set the mean and variance of `model.standardise` from tiles of `slides`, drawn from all tissue or as in training.

    Each may be a patient; processes share them out. Of a pretrained attention network, also those of the channels of
    the slides' cells, which each process finds by itself: they are many.
    """
    if isinstance(model.attention, PretrainedAttention):
        attend = Attend(model.attention, None, model.config, model.cache)
        model.attention.standardise(
            torch.cat([attend.channels(one) for slide in slides for one in slide.slides])
        )
    how = model.config.sampling
    tiles, sampler = (TILES, "multinomial") if uniform else (how.tiles, how.sampler)

    def features(number: int) -> Float[torch.Tensor, "n dim"]:
        slide = slides[number]
        drawn = model.attend(slide, uniform=uniform).draw(tiles, sampler, generator_for(seed, *slide.names))
        return model.raw_features([drawn]).cpu()

    model.standardise.fit(torch.cat(processes.each(len(slides), features)).to(model.standardise.mean))
