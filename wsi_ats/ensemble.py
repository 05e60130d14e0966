"""`Ensemble`: several trained models that answer as one, from the same drawn tiles.

Models that were trained from other seeds are right on the tissue that they have seen and differ on tissue that they
have not; the mean of their outputs is right more often than any of them (B. Lakshminarayanan et al., "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017; here: benchmarks/results/mosaic.md).
Tiles are drawn from the mean of their attention (`attention/mixed.py`) and read once; each member estimates its own
summary from them with its own attention, which the weights of the draw keep unbiased.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsi_ats.attention.levels import Drawn, SlideAttention
from wsi_ats.attention.mixed import mixed
from wsi_ats.cache import TileCache
from wsi_ats.config import Config
from wsi_ats.errors import ConfigError
from wsi_ats.estimator import Summary
from wsi_ats.head import Head
from wsi_ats.lowres.patient import Prepared
from wsi_ats.model import AttentionSampler
from wsi_ats.slide_model import SlideModel

SHARED_BYTES = 128 << 20
"""Memory for the pixels of the tiles of one pass, and of regions, which all members look at."""


class MeanHead(Head):
    """The mean of the members' heads, on their summaries one after the other. Shapes as of `Head`, where `dim` is the
    sum of the members' and shares have one row a member."""

    def __init__(self, heads: Sequence[Head]) -> None:
        nn.Module.__init__(self)
        self.heads = tuple(heads)  # modules of the members, which hold them
        self.dim, self.outputs = sum(head.dim for head in heads), heads[0].outputs

    def forward(self, phi: Float[Tensor, "*b dim"]) -> Float[Tensor, "*b outputs"]:
        """Mean outputs (O,) of the members' summaries (D,)."""
        return self.by_member(phi).mean(0)

    def by_member(self, vectors: Float[Tensor, "*b dim"]) -> Float[Tensor, "M *b outputs"]:
        """Outputs (O,) of each member from its own part of the vectors."""
        parts = zip(self.heads, self.split(vectors), strict=True)
        return torch.stack([head(part) for head, part in parts])

    def summary(
        self, shares: Float[Tensor, "*b M N"], features: Float[Tensor, "N dim"]
    ) -> Float[Tensor, "*b dim"]:
        """The members' summaries, one after the other, of tiles of these vectors and shares."""
        parts = zip(shares.unbind(-2), self.split(features), strict=True)
        return torch.cat([share.to(part) @ part for share, part in parts], -1)

    def contributions(
        self, features: Float[Tensor, "N dim"], shares: Float[Tensor, "M N"]
    ) -> Float[Tensor, "N outputs"]:
        """Contributions (N, O) of each tile to the mean outputs, as of `Head`."""
        parts = zip(self.heads, self.split(features), shares, strict=True)
        return torch.stack([head.contributions(part, share) for head, part, share in parts]).mean(0)

    def split(self, vectors: Float[Tensor, "*b dim"]) -> tuple[Tensor, ...]:
        """The members' parts of vectors (D,)."""
        return torch.split(vectors, [head.dim for head in self.heads], -1)


class Members(nn.ModuleList):
    """The members of an ensemble."""

    def __iter__(self) -> Iterator[AttentionSampler]:
        for module in super().__iter__():
            assert isinstance(module, AttentionSampler)
            yield module


class Ensemble(SlideModel):
    """Models of the same tasks that look at slides in the same way, as one.

    config: the settings of all together (`train.members`). tasks: what the mean of the outputs is read by, calibrated
    for it. A feature network that is frozen is the first member's for all, and looks at each tile once.
    """

    head: MeanHead

    def __init__(self, config: Config, members: Sequence[AttentionSampler]) -> None:
        super().__init__()
        first, *others = members
        if not others:
            raise ConfigError("an ensemble of one model", "give two models or more, or use that one as it is")
        if first.features.frozen:
            for other in others:
                other.features = first.features
        self.config = config
        self.members = Members(members)
        self.tasks, self.features = first.tasks, first.features
        self.head = MeanHead([member.head for member in members])
        self.cache = TileCache(SHARED_BYTES)

    @property
    def cache(self) -> TileCache:
        """The cache of all members."""
        return next(iter(self.members)).cache

    @cache.setter
    def cache(self, cache: TileCache) -> None:
        for member in self.members:
            member.cache = cache

    def attend(self, slide: Prepared, *, uniform: bool = False) -> SlideAttention:
        """The mean of the members' attention."""
        return mixed([member.attend(slide, uniform=uniform) for member in self.members])

    def embed(self, drawn: Sequence[Drawn]) -> list[Float[Tensor, "_ D"]]:
        """Read the drawn tiles, and no others, and turn each into the members' unit vectors, one after the other."""
        if self.features.frozen:
            (first, *_) = self.members
            features = first.raw_features(drawn)
            each: list[Tensor] = [member.standardise(features) for member in self.members]
        else:
            each = [torch.cat(member.embed(drawn)) for member in self.members]
        return list(torch.split(torch.cat(each, 1), [len(d.draws) for d in drawn]))

    def estimate(self, drawn: Drawn, features: Float[Tensor, "N D"]) -> Summary:
        """The members' summaries, one after the other; shares and masses have one row a member."""
        assert drawn.log_each is not None
        own = [replace(drawn, log_p=log_p) for log_p in drawn.log_each]
        every = zip(self.members, own, self.head.split(features), strict=True)
        each = [member.estimate(mine, vectors) for member, mine, vectors in every]
        return Summary(
            torch.cat([summary.phi for summary in each]),
            torch.stack([summary.shares for summary in each]),
            torch.stack([summary.log_mass for summary in each]),
        )
