"""Programs: the arithmetic of a trained model in three pieces that need nothing of this package.

A view gives attention, tiles give vectors, vectors and the weights of their draw give the answer. What lies between,
the tissue, the draw and the reading of tiles, is left to whoever runs them (`recipe.py` says how it is done here).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from wsi_ats.ensemble import Ensemble
from wsi_ats.errors import ConfigError
from wsi_ats.model import AttentionSampler
from wsi_ats.slide_model import SlideModel

LEAST_CELLS = 2
"""Cells a side that a view has at least: torch.export cannot leave a size open that may be 1."""


class Program(nn.Module, ABC):
    """A piece of a model, in evaluation mode."""

    name: ClassVar[str]
    """Name of the program, and of its files."""
    inputs: ClassVar[dict[str, str]]
    """Inputs by name, in their order, and what they are, in words."""

    @property
    @abstractmethod
    def outputs(self) -> dict[str, str]:
        """Outputs by name, in their order, and what they are, in words."""

    @property
    @abstractmethod
    def open_sizes(self) -> tuple[dict[int, Any], ...]:
        """Sizes of the inputs that are left open, by axis, in the terms of `torch.export`."""

    @abstractmethod
    def example(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random inputs, as large as `size`, 1 or more, says."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs."""


class AttentionProgram(Program):
    """The attention network, on a whole view or on a block of one."""

    name = "attention"
    inputs: ClassVar[dict[str, str]] = {
        "view": "(views, 3, height, width) float32: the view, in whole cells, at least 2 x 2 of them"
    }

    def __init__(self, model: AttentionSampler) -> None:
        super().__init__()
        self.network = model.attention

    @property
    def outputs(self) -> dict[str, str]:
        """Logits."""
        return {"logits": "(views, rows, cols) float32: a logit a cell"}

    @property
    def open_sizes(self) -> tuple[dict[int, Any], ...]:
        """Number of views, height and width, these in cells."""
        rows, cols = (Dim(name, min=LEAST_CELLS) for name in ("rows", "cols"))
        stride = self.network.stride
        if stride == 1:
            return ({0: Dim("views", min=1), 2: rows, 3: cols},)
        return ({0: Dim("views", min=1), 2: stride * rows, 3: stride * cols},)

    def example(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Noise of different height and width."""
        stride = self.network.stride
        return (torch.rand(size, 3, stride * (size + 1), stride * (size + 2), generator=generator),)

    def forward(self, view: Float[Tensor, "b 3 h w"]) -> tuple[Tensor]:  # type: ignore[override]
        """Logits of the cells; outside the view there is glass."""
        return (self.network.valid(F.pad(view, self.network.halo, value=self.network.background)),)


class FeatureProgram(Program):
    """The feature network, with what makes unit vectors of its features."""

    name = "features"
    inputs: ClassVar[dict[str, str]] = {
        "tiles": "(N, 3, px, px) float32: tiles, RGB in [0, 1]",
    }

    def __init__(self, model: AttentionSampler) -> None:
        super().__init__()
        self.network = model.features
        self.standardise = model.standardise
        self.px = model.config.tile.px

    @property
    def outputs(self) -> dict[str, str]:
        """Vectors."""
        return {"vectors": "(N, D) float32: a unit vector a tile"}

    @property
    def open_sizes(self) -> tuple[dict[int, Any], ...]:
        """Number of tiles."""
        return ({0: Dim("tiles", min=1)},)

    def example(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Noise."""
        return (torch.rand(size, 3, self.px, self.px, generator=generator),)

    def forward(self, tiles: Float[Tensor, "N 3 h w"]) -> tuple[Tensor]:  # type: ignore[override]
        """Vectors (N, D)."""
        return (self.standardise(self.raw(tiles)),)

    def raw(self, tiles: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N d"]:
        """Features before they are standardised."""
        # Frozen networks take a few tiles at a time, which a program of an open number of tiles cannot.
        network = getattr(self.network, "in_one_pass", self.network)
        features: Tensor = network(tiles)
        return features


class AnswerProgram(Program):
    """Everything behind the vectors: shares of the tiles, their summary, the head, calibration, values of all tasks."""

    name = "answer"
    inputs: ClassVar[dict[str, str]] = {
        "vectors": "(N, D) float32: the vectors of the tiles that were read",
        "log_attention": "(N,) float32: logarithm of the attention of their cells, which sums to 1 over all tissue",
        "log_weights": "(N,) float32: logarithm of the weights of their draw, 0 where all tissue tiles were read",
    }

    def __init__(self, model: AttentionSampler) -> None:
        super().__init__()
        self.score, self.head, self.tasks = model.score, model.head, model.tasks
        self.prior = model.config.sampling.prior

    @property
    def outputs(self) -> dict[str, str]:
        """Shares, outputs and values."""
        values = {
            f"values_{i}": f"({len(spec.values)},) float32: the answer of task {spec.name!r}, calibrated"
            for i, spec in enumerate(self.tasks.specs)
        }
        return {
            "shares": "(N,) float32: what each tile counts for in the summary",
            "outputs": f"({self.head.outputs},) float32: outputs of the head before any calibration, task after task",
            **values,
        }

    @property
    def open_sizes(self) -> tuple[dict[int, Any], ...]:
        """Number of tiles."""
        tiles = Dim("tiles", min=1)
        return ({0: tiles}, {0: tiles}, {0: tiles})

    def example(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Unit vectors, attention and weights."""
        n, dim = 3 * size, self.head.dim
        vectors = F.normalize(torch.randn(n, dim, generator=generator), dim=1)
        log_attention = torch.log_softmax(3 * torch.randn(n, generator=generator), 0)
        return vectors, log_attention, torch.rand(n, generator=generator)

    def forward(  # type: ignore[override]
        self,
        vectors: Float[Tensor, "N D"],
        log_attention: Float[Tensor, " N"],
        log_weights: Float[Tensor, " N"],
    ) -> tuple[Tensor, ...]:
        """`estimator.refined_summary` or `plain_summary` of given draws, the head, and each task's values."""
        shares, outputs = self.weigh(vectors, log_attention, log_weights)
        return shares, outputs, *self.values(outputs)

    def weigh(
        self,
        vectors: Float[Tensor, "N D"],
        log_attention: Float[Tensor, " N"],
        log_weights: Float[Tensor, " N"],
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " O"]]:
        """Shares of the tiles, and the outputs of the head."""
        if self.score is None:
            shares = (log_weights + log_attention).exp()
        else:
            shares = torch.softmax(log_weights + self.prior * log_attention + self.score(vectors), 0)
        return shares, self.head(shares @ vectors)

    def values(self, outputs: Float[Tensor, " O"]) -> list[Tensor]:
        """Values of each task."""
        return [task.values(o) for task, o in zip(self.tasks, self.tasks.split(outputs), strict=True)]


class MembersAttention(AttentionProgram):
    """The attention networks of an ensemble, which look at the same view."""

    def __init__(self, model: Ensemble) -> None:
        members = list(model.members)
        super().__init__(members[0])
        self.each = nn.ModuleList([AttentionProgram(member) for member in members])

    @property
    def outputs(self) -> dict[str, str]:
        """Logits of each member."""
        return {"logits": f"(views, {len(self.each)}, rows, cols) float32: a logit a cell of each member"}

    def forward(self, view: Float[Tensor, "b 3 h w"]) -> tuple[Tensor]:  # type: ignore[override]
        """Logits of the cells, a plane a member."""
        return (torch.stack([program(view)[0] for program in self.each], 1),)


class MembersFeatures(FeatureProgram):
    """The feature networks of an ensemble; one that is frozen looks once for all members."""

    def __init__(self, model: Ensemble) -> None:
        members = list(model.members)
        super().__init__(members[0])
        self.each = nn.ModuleList([FeatureProgram(member) for member in members])
        self.shared = bool(model.features.frozen)

    @property
    def outputs(self) -> dict[str, str]:
        """Vectors of the members, one after the other."""
        return {"vectors": "(N, D) float32: the members' unit vectors of a tile, one after the other"}

    def forward(self, tiles: Float[Tensor, "N 3 h w"]) -> tuple[Tensor]:  # type: ignore[override]
        """Vectors (N, D)."""
        if not self.shared:
            return (torch.cat([program(tiles)[0] for program in self.each], 1),)
        features = self.raw(tiles)
        return (torch.cat([program.standardise(features) for program in self.each], 1),)  # type: ignore[operator]


class MembersAnswer(AnswerProgram):
    """Everything behind the vectors of an ensemble: each member's shares and outputs, and the mean of these."""

    inputs: ClassVar[dict[str, str]] = {
        **AnswerProgram.inputs,
        "log_attention": "(N, members) float32: logarithm of each member's attention of their cells",
    }

    def __init__(self, model: Ensemble) -> None:
        members = list(model.members)
        super().__init__(members[0])
        self.each = nn.ModuleList([AnswerProgram(member) for member in members])
        self.dims = [member.head.dim for member in members]

    @property
    def outputs(self) -> dict[str, str]:
        """Shares, outputs and values."""
        shares = "(N, members) float32: what each tile counts for in the summary of each member"
        return {**super().outputs, "shares": shares}

    def example(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Unit vectors, attention and weights."""
        each = [program.example(size, generator) for program in self.each]  # type: ignore[operator]
        vectors, log_attention, log_weights = zip(*each, strict=True)
        return torch.cat(vectors, 1), torch.stack(log_attention, 1), log_weights[0]

    def forward(  # type: ignore[override]
        self,
        vectors: Float[Tensor, "N D"],
        log_attention: Float[Tensor, "N M"],
        log_weights: Float[Tensor, " N"],
    ) -> tuple[Tensor, ...]:
        """Of each member as of a model by itself; values are read from the mean of the outputs."""
        parts = zip(self.each, torch.split(vectors, self.dims, 1), log_attention.unbind(1), strict=True)
        shares, outputs = zip(*(p.weigh(v, a, log_weights) for p, v, a in parts), strict=True)  # type: ignore[operator]
        mean = torch.stack(outputs).mean(0)
        return torch.stack(shares, 1), mean, *self.values(mean)


def programs_of(model: SlideModel) -> list[Program]:
    """The programs of a model, on the processor. Raises `ConfigError` for a model that three programs are not."""
    if model.config.attention.levels != 1:
        raise ConfigError(
            f"attention.levels is {model.config.attention.levels}: such a model cannot be exported, since its network "
            "of regions works at a scale that the size of each slide chooses, and between its two levels pixels are "
            "read",
            remedy="train with attention.levels = 1 for export, or use wsi-ats itself",
        )
    model.eval()
    made: list[Program]
    if isinstance(model, Ensemble):
        made = [MembersAttention(model), MembersFeatures(model), MembersAnswer(model)]
    else:
        assert isinstance(model, AttentionSampler)
        made = [AttentionProgram(model), FeatureProgram(model), AnswerProgram(model)]
    return [program.eval() for program in made]
