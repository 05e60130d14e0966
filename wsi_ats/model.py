"""The model: attention proposes tiles, only those are read, their features are averaged and classified.

Source: A. Katharopoulos, F. Fleuret, "Processing Megapixel Images with Deep Attention-Sampling Models", ICML 2019;
the refined summary is attention MIL (M. Ilse et al., ICML 2018) estimated from the drawn tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from wsi_ats.attention.attend import Attend
from wsi_ats.attention.levels import Drawn, SlideAttention
from wsi_ats.attention.networks import ConvAttention
from wsi_ats.cache import TileCache
from wsi_ats.config import Config
from wsi_ats.embed import Augment, Pixels, fetch, tile_features
from wsi_ats.estimator import Summary, plain_summary, refined_summary
from wsi_ats.features.standardise import Standardise
from wsi_ats.head import Head
from wsi_ats.lowres.patient import Prepared
from wsi_ats.slide_model import SlideModel
from wsi_ats.tasks.task import Task, Tasks


@dataclass(frozen=True, eq=False)
class Estimate:
    """The model's estimate for one slide, with the graph that made it."""

    drawn: Drawn
    """The N drawn tiles, and the attention that they were drawn from."""
    features: Float[Tensor, "N D"]
    """Unit vectors (N, D) of the drawn tiles."""
    summary: Summary
    """The slide's summary, estimated from the drawn tiles."""
    logits: Float[Tensor, " O"]
    """Outputs (O,) of the head, task after task: of classes, their logits."""


class AttentionSampler(SlideModel):
    """Attention sampling on slides: what `tasks` ask of a slide is answered from the tiles that attention proposes.

    The networks are passed in ready-made (`wsi_ats.build` has the sizes). `score` is the refining score on a
    feature, None for plain attention sampling. `region_attention` is the attention network of the coarse view, None
    with one level of attention. All tasks share the summary; the first is the main one.
    """

    def __init__(
        self,
        config: Config,
        tasks: Sequence[Task],
        attention: ConvAttention,
        features: nn.Module,
        score: nn.Module | None,
        head: Head,
        region_attention: ConvAttention | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.tasks = Tasks(tasks)
        self.attention = attention
        self.region_attention = region_attention
        self.features = features
        self.standardise = Standardise(head.dim, follow=not features.frozen)
        self.score = score
        self.head = head
        self.cache = TileCache(0)
        """Keeps pixels that are met again or, of frozen networks, what they make of them; training sets a larger."""

    def forward(self, slides: Sequence[Prepared], generators: Sequence[torch.Generator]) -> list[Estimate]:
        """Estimates of a batch of slides, with gradients to attention, features, score and head.

        `slides`: each a slide, or all slides of a patient as one. `generators`: one a slide, so that a slide's draw
        does not depend on its batch.
        """
        n, sampler = self.config.sampling.tiles, self.config.sampling.sampler
        attention = [self.attend(slide) for slide in slides]  # a
        drawn = [a.draw(n, sampler, g) for a, g in zip(attention, generators, strict=True)]  # S, w
        return self.estimates(drawn, self.embed(drawn))  # f, Phi_hat, g(Phi_hat)

    def attend(self, slide: Prepared, *, uniform: bool = False) -> SlideAttention:
        """The attention over a slide, or over all slides of a patient, that tiles are drawn from; `uniform`: as if it
        had no opinion on the tissue."""
        attend = Attend(self.attention, self.region_attention, self.config, self.cache)
        return attend(slide, uniform=uniform or self.config.sampling.uniform)

    def embed(
        self,
        drawn: Sequence[Drawn],
        augment: Augment | None = None,
        moved: Float64[np.ndarray, "M 2"] | None = None,
        fetched: Callable[[], Pixels] | None = None,
    ) -> list[Float[Tensor, "_ D"]]:
        """Read the drawn tiles, and no others, and turn each into a unit vector; all slides in one pass. In training,
        `augment` changes the tiles, `moved` is where they lie in their cells, and `fetched` gives what `fetch` has
        read already (`embed.tile_features`)."""
        features = self.raw_features(drawn, augment, moved, fetched)
        return list(torch.split(self.standardise(features), [len(d.draws) for d in drawn]))

    def raw_features(
        self,
        drawn: Sequence[Drawn],
        augment: Augment | None = None,
        moved: Float64[np.ndarray, "M 2"] | None = None,
        fetched: Callable[[], Pixels] | None = None,
    ) -> Float[Tensor, "M D"]:
        """Features of all drawn tiles, slide after slide, before they are standardised."""
        px, how = self.config.tile.px, self.config.features.fingerprint
        half = self.config.features.precision == "bfloat16"
        return tile_features(
            self.features,
            drawn,
            px,
            self.cache,
            settings=how,
            half=half,
            augment=augment,
            moved=moved,
            fetched=fetched,
        )

    def fetch(self, drawn: Sequence[Drawn], moved: Float64[np.ndarray, "M 2"] | None = None) -> Pixels:
        """Read the drawn tiles, as far as nothing of them is remembered, for a later `embed`; any thread may."""
        px, how = self.config.tile.px, self.config.features.fingerprint
        return fetch(self.features, drawn, px, self.cache, settings=how, moved=moved)

    def estimate(self, drawn: Drawn, features: Float[Tensor, "N D"]) -> Summary:
        """The slide's summary Phi from the vectors of its drawn tiles, refined by their scores where there are any."""
        how = self.config.sampling
        if self.score is None:
            return plain_summary(drawn.log_p, drawn.draws, features, how.centre)
        return refined_summary(drawn.log_p, drawn.draws, features, self.score(features), how.prior)

    def estimates(self, drawn: Sequence[Drawn], features: Sequence[Float[Tensor, "_ D"]]) -> list[Estimate]:
        """Summaries and outputs of a batch of slides, from the vectors of their drawn tiles."""
        summaries = [self.estimate(d, f) for d, f in zip(drawn, features, strict=True)]
        every = zip(drawn, features, summaries, strict=True)
        return [Estimate(d, f, s, self.head(s.phi)) for d, f, s in every]
