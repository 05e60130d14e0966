"""The paper's model with the estimators to compare: everything but the estimator is the same for all methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from paper.every import Every, every_tile
from paper.pictures import Batch, Pictures, Scale, tiles_of
from published import published_expectation
from torch import nn

from wsi_ats.attention.networks import PaperAttention
from wsi_ats.estimator import attention_loss, expectation, refined_expectation
from wsi_ats.features.scratch import PaperFeatures
from wsi_ats.features.standardise import Standardise
from wsi_ats.head import Head, RefiningScore
from wsi_ats.sampling import Draws, find_sampler, smooth

ROUND = 32
"""The feature network is given multiples of so many tiles: on a GPU, each new size is planned for anew."""


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
class TaskResult:
    """Of B pictures: logits (B, classes), log a (B, K), and the proposal's loss (refined attention; else 0)."""

    logits: torch.Tensor
    log_p: torch.Tensor
    pull: torch.Tensor


class PaperModel(nn.Module):
    """Attention on the view, features of the drawn tiles, their mean, and a linear classifier."""

    corners: torch.Tensor
    order: torch.Tensor

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
        self.register_buffer("corners", torch.from_numpy(scale.corners), persistent=False)
        self.register_buffer("order", scale.order, persistent=False)

    def forward(self, batch: Batch, tiles: int, sampler: str, generator: torch.Generator) -> TaskResult:
        """Answer the pictures from `tiles` tiles each, or with the sampler "all" from every tile."""
        log_p = self.attend(batch.views)
        pull = log_p.new_zeros(())
        if sampler == "all":
            every = self.every(batch)
            phi = every.expectation(log_p, self.spread(every.features))
        else:
            draws = self.draw(log_p, tiles, sampler, generator)
            features = self.read(batch, draws.cells)
            features = self.spread(features.flatten(0, 1)).view_as(features)
            phi, pull = self._mean(log_p, draws, features)
        return TaskResult(self.head(phi), log_p, pull)

    def spread(self, features: torch.Tensor) -> torch.Tensor:
        """The network's features (M, D), standardised unless that is switched off."""
        return features if self.standardise is None else self.standardise(features)

    @torch.no_grad()
    def settle(self, batches: Iterable[Batch], tiles: int, generator: torch.Generator) -> None:
        """Set mean and spread of the features to those of the tiles that are drawn with the weights as they are.

        What was followed during training lags behind weights that still move fast: of a model that answered 9 % of
        the test pictures wrong with the figures set so, it made one that answered 33 % wrong.
        """
        if self.standardise is not None:
            self.standardise.fit(torch.cat([self._drawn(x, tiles, generator) for x in batches]))

    def _drawn(self, batch: Batch, tiles: int, generator: torch.Generator) -> torch.Tensor:
        if self.method.sampler == "all":
            return self.every(batch).features
        draws = self.draw(self.attend(batch.views), tiles, self.method.sampler, generator)
        return self.read(batch, draws.cells).flatten(0, 1)

    def attend(self, views: torch.Tensor) -> torch.Tensor:
        """log a (B, K) of views (B, C, rows, cols), 0 to 255."""
        views = self._levelled(views).contiguous(memory_format=torch.channels_last)
        return smooth(torch.log_softmax(self.attention(views).flatten(1), 1), self.smoothing)

    def draw(self, log_p: torch.Tensor, tiles: int, sampler: str, generator: torch.Generator) -> Draws:
        """(B, tiles) cells and weights, fewer than there are cells; `generator` lives on the model's device.

        What `draw_many` does, for pictures of one size: smoothed attention has mass in every cell.
        """
        chosen = find_sampler(sampler)
        exact = torch.log_softmax(log_p.detach().double(), 1)
        size = len(exact), chosen.numbers(exact.shape[1], tiles)
        u = torch.rand(size, dtype=exact.dtype, device=exact.device, generator=generator)
        return chosen.rule(exact, tiles, u, self.order.expand_as(exact))

    def read(self, batch: Batch, cells: torch.Tensor) -> torch.Tensor:
        """Features (B, N, D) of the tiles at `cells` (B, N), as they come from the network."""
        tiles = tiles_of(batch.pixels, self.corners[cells], self.scale.tile, self.scale.margin).flatten(0, 1)
        # Empty tiles have one feature, which need not be worked out for each of them.
        shown = (tiles != self.background).flatten(1).any(1)
        seen = tiles[shown]
        empty = tiles.new_full((ROUND - len(seen) % ROUND, *tiles.shape[1:]), self.background)
        row = torch.where(shown, shown.cumsum(0) - 1, len(seen))
        features: torch.Tensor = self.features(self.pixels(torch.cat([seen, empty])))
        return features.index_select(0, row).view(*cells.shape, -1)

    def every(self, batch: Batch) -> Every:
        """Features of all tiles."""
        return every_tile(self.features, self.scale, batch, self.pixels)

    def pixels(self, tiles: torch.Tensor) -> torch.Tensor:
        """(N, h, w, C) uint8 -> (N, C, h, w) as the feature network takes it."""
        return self._levelled(tiles.permute(0, 3, 1, 2).float())

    @property
    def device(self) -> torch.device:
        return self.head.linear.weight.device

    def _mean(
        self, log_p: torch.Tensor, draws: Draws, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.score is not None:
            phi, share = refined_expectation(log_p, draws, features, self.score(features))
            return phi, attention_loss(log_p, draws, share).mean()
        if self.method.published and self.training:
            return published_expectation(log_p, draws, features), log_p.new_zeros(())
        return expectation(log_p, draws, features), log_p.new_zeros(())

    def _levelled(self, pixels: torch.Tensor) -> torch.Tensor:
        low, high = self.levels
        return low + (high - low) / 255 * pixels
