"""The paper's model with the estimators to compare: everything but the estimator is the same for all methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from paper.every import Every, every_tile
from paper.pictures import Example, Pictures, Scale, tiles_of
from published import published_expectation
from torch import nn

from wsi_ats.attention import PaperAttention
from wsi_ats.estimator import expectation, proposal_loss, refined_expectation
from wsi_ats.features import PaperFeatures
from wsi_ats.head import Head
from wsi_ats.sampling import Draws, draw_many, smooth
from wsi_ats.score import RefiningScore
from wsi_ats.standardise import Standardise


@dataclass(frozen=True)
class Method:
    """How tiles are drawn in training, and how the attention learns from them."""

    sampler: str
    published: bool = False
    """The gradient of the code published with the paper, instead of autograd's."""
    refined: bool = False


METHODS = {
    "reference estimator": Method("gumbel", published=True),
    "plain": Method("systematic"),
    "refined": Method("systematic", refined=True),
    "full soft attention": Method("all"),
}


@dataclass(frozen=True)
class Answer:
    """Of B pictures: logits (B, classes), log a (B, K), and the proposal's loss (refined attention; else 0)."""

    logits: torch.Tensor
    log_p: torch.Tensor
    pull: torch.Tensor


class PaperModel(nn.Module):
    """Attention on the view, features of the drawn tiles, their mean, and a linear classifier."""

    def __init__(
        self, pictures: Pictures, scale: Scale, method: Method, smoothing: float, standardise: bool = True
    ) -> None:
        super().__init__()
        self.scale, self.method, self.smoothing = scale, method, smoothing
        self.levels, self.background = pictures.levels, pictures.background
        outside = float(self._levelled(torch.tensor(float(pictures.background))))
        self.attention = PaperAttention(background=outside, channels=pictures.channels)
        self.attention.to(memory_format=torch.channels_last)
        self.features = PaperFeatures(pictures.channels, scale.step)
        self.features.to(memory_format=torch.channels_last)
        self.standardise = Standardise(self.features.dim, follow=True) if standardise else None
        self.score = RefiningScore(self.features.dim) if method.refined else None
        self.head = Head(self.features.dim, pictures.classes)

    def forward(
        self, batch: Sequence[Example], tiles: int, sampler: str, generators: Sequence[torch.Generator]
    ) -> Answer:
        """Answer the pictures from `tiles` tiles each, or with the sampler "all" from every tile."""
        log_p = self.attend(torch.stack([x.view for x in batch]))
        pull = log_p.new_zeros(())
        if sampler == "all":
            every = self.every(batch)
            phi = every.expectation(log_p, self.spread(every.features))
        else:
            draws = self.draw(log_p, tiles, sampler, generators)
            features = self.read(batch, draws.cells)
            features = self.spread(features.flatten(0, 1)).view_as(features)
            phi, pull = self._mean(log_p, draws, features)
        return Answer(self.head(phi), log_p, pull)

    def spread(self, features: torch.Tensor) -> torch.Tensor:
        """The network's features (M, D), standardised unless that is switched off."""
        return features if self.standardise is None else self.standardise(features)

    @torch.no_grad()
    def settle(self, batches: Iterable[Sequence[Example]], tiles: int, generator: torch.Generator) -> None:
        """Set mean and spread of the features to those of the tiles that are drawn with the weights as they are.

        What was followed during training lags behind weights that still move fast: of a model that answered 9 % of
        the test pictures wrong with the figures set so, it made one that answered 33 % wrong.
        """
        if self.standardise is not None:
            self.standardise.calibrate(torch.cat([self._drawn(x, tiles, generator) for x in batches]))

    def _drawn(self, batch: Sequence[Example], tiles: int, generator: torch.Generator) -> torch.Tensor:
        if self.method.sampler == "all":
            return self.every(batch).features
        log_p = self.attend(torch.stack([x.view for x in batch]))
        draws = self.draw(log_p, tiles, self.method.sampler, [generator] * len(batch))
        return self.read(batch, draws.cells).flatten(0, 1)

    def attend(self, views: torch.Tensor) -> torch.Tensor:
        """log a (B, K) of views (B, C, rows, cols), 0 to 255."""
        views = self._levelled(views.to(self.device)).contiguous(memory_format=torch.channels_last)
        logits = self.attention(views).flatten(1)
        return torch.stack([smooth(p, self.smoothing) for p in torch.log_softmax(logits, 1)])

    def draw(
        self, log_p: torch.Tensor, tiles: int, sampler: str, generators: Sequence[torch.Generator]
    ) -> Draws:
        """(B, tiles) cells and weights; fewer tiles than cells."""
        orders = [self.scale.order] * len(log_p)
        drawn = draw_many(list(log_p), tiles, sampler, generators=generators, orders=orders)
        return Draws(torch.stack([d.cells for d in drawn]), torch.stack([d.log_weights for d in drawn]))

    def read(self, batch: Sequence[Example], cells: torch.Tensor) -> torch.Tensor:
        """Features (B, N, D) of the tiles at `cells` (B, N), as they come from the network."""
        px, corners = self.scale.tile, self.scale.corners[cells.cpu().numpy()]
        parts = [
            tiles_of(x.picture.pixels, c, px, self.background) for x, c in zip(batch, corners, strict=True)
        ]
        tiles = np.concatenate(parts)
        # Empty tiles have one feature, which need not be worked out for each of them.
        shown = (tiles != self.background).any((1, 2, 3))
        distinct = np.concatenate([tiles[shown], np.full_like(tiles[:1], self.background)])
        row = torch.from_numpy(np.where(shown, shown.cumsum() - 1, len(distinct) - 1)).to(self.device)
        features: torch.Tensor = self.features(self.pixels(distinct))
        return features[row].view(*cells.shape, -1)

    def every(self, batch: Sequence[Example]) -> Every:
        """Features of all tiles."""
        return every_tile(self.features, self.scale, [x.picture for x in batch], self.pixels)

    def pixels(self, tiles: np.ndarray) -> torch.Tensor:
        """(N, h, w, C) uint8 -> (N, C, h, w) as the feature network takes it."""
        return self._levelled(torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2).float())

    @property
    def device(self) -> torch.device:
        return self.head.linear.weight.device

    def _mean(
        self, log_p: torch.Tensor, draws: Draws, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.score is not None:
            rows = list(zip(log_p, draws.split(), features, strict=True))
            means = [refined_expectation(p, d, f, self.score(f)) for p, d, f in rows]
            pulls = [proposal_loss(p, d, share) for (p, d, _), (_, share) in zip(rows, means, strict=True)]
            return torch.stack([phi for phi, _ in means]), torch.stack(pulls).mean()
        if self.method.published and self.training:
            return published_expectation(log_p, draws, features), log_p.new_zeros(())
        return expectation(log_p, draws, features), log_p.new_zeros(())

    def _levelled(self, pixels: torch.Tensor) -> torch.Tensor:
        low, high = self.levels
        return low + (high - low) / 255 * pixels
