"""The model: attention proposes tiles, only those are read, their features are averaged and classified.

Source: A. Katharopoulos, F. Fleuret, "Processing Megapixel Images with Deep Attention-Sampling Models", ICML 2019;
the refined summary is attention MIL (M. Ilse et al., ICML 2018) estimated from the drawn tiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from wsi_ats.attention.blockwise import cell_channels, cell_logits
from wsi_ats.attention.levels import NestedProposal, Proposal
from wsi_ats.attention.networks import ConvAttention, PretrainedAttention
from wsi_ats.cache import Memory
from wsi_ats.config import Config
from wsi_ats.estimator import expectation, log_mass, refined_expectation, shares
from wsi_ats.features.standardise import Standardise
from wsi_ats.features.tile_vectors import TileVectors
from wsi_ats.head import Head
from wsi_ats.lowres.prepare import Scene, look
from wsi_ats.prediction import Prediction
from wsi_ats.sampling import Draws, pool, smooth
from wsi_ats.sampling.budget import plan, shortest
from wsi_ats.sampling.jackknife import leave_one_out
from wsi_ats.slides import open_slide
from wsi_ats.slides.base import Slide
from wsi_ats.stopwatch import Stopwatch
from wsi_ats.tasks.answer import Question
from wsi_ats.tasks.task import Task, Tasks
from wsi_ats.tiles import read_tiles

TILES_AT_ONCE = 64
"""Tiles in one pass of the feature network at prediction: bounds memory with `all`, and is fixed so that a
prediction never depends on a batch size."""


CALIBRATION_TILES = 16
"""Tiles a slide from which the common part of the features is taken."""


@dataclass(frozen=True)
class Estimate:
    """What the network says of one slide, with the graph that made it."""

    log_p: Float[Tensor, " K"]
    """Log-attention over the tissue cells; with two levels over those that are known."""
    draws: Draws
    shares: Float[Tensor, " N"]
    """Share of each drawn tile in the summary; detached."""
    vectors: Float[Tensor, "N D"]
    summary: Float[Tensor, " D"]
    log_mass: Float[Tensor, ""]
    """What the summary counts for among those of other draws; detached."""
    logits: Float[Tensor, " O"]
    """Outputs of the head, task after task: of classes, their logits."""
    log_opened: Float[Tensor, " K"] | None = None
    """With two levels, log-weights of the regions of the cells (`sampling.opened`)."""


class AttentionSampler(nn.Module):
    """Attention sampling on slides: what `tasks` ask of a slide is answered from the tiles that attention proposes.

    The networks are passed in ready-made (`wsi_ats.build` has the sizes). `score` is the refining score on a
    feature, None for plain attention sampling. `overview` is the attention network of the coarse view, None with one
    level of attention. All tasks share the summary; the first is the main one.
    """

    hash: str = ""
    """Digest of the model's files, set when it is loaded: part of the provenance of every prediction."""

    def __init__(
        self,
        config: Config,
        tasks: Sequence[Task],
        attention: ConvAttention,
        features: nn.Module,
        score: nn.Module | None,
        head: Head,
        overview: ConvAttention | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.tasks = Tasks(tasks)
        self.attention = attention
        self.overview = overview
        self.features = features
        self.standardise = Standardise(head.dim, follow=not _is_frozen(features))
        self.score = score
        self.head = head

    @property
    def questions(self) -> tuple[Question, ...]:
        """What the model is asked; the main task first."""
        return self.tasks.questions

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes, labels or grades of the main task; empty where its answer is a number."""
        return self.questions[0].names

    def forward(
        self,
        scenes: Sequence[Scene],
        generators: Sequence[torch.Generator],
        memory: Memory | None = None,
        turns: torch.Generator | None = None,
        even: bool = False,
        shift: float = 0.0,
    ) -> list[Estimate]:
        """Estimates of a batch of slides, with gradients to attention, features, score and head.

        `generators`: one a slide, so that a slide's draw does not depend on its batch. `memory` keeps tiles (or,
        where the feature network is frozen, vectors) for later epochs. `turns` flips and turns the tiles at random.
        `even`: draw evenly from the tissue, as if attention had no opinion. `shift`: length of a random vector that is
        added to all tiles of a slide.
        """
        tiles, sampler = self.config.sampling.tiles, self.config.sampling.sampler
        proposals = [self.propose(scene, memory, even) for scene in scenes]
        draws = [p.draw(tiles, sampler, g) for p, g in zip(proposals, generators, strict=True)]
        vectors = self.describe([p.scene for p in proposals], draws, memory, turns)
        if shift:
            vectors = [v + shift * direction(v, g) for v, g in zip(vectors, generators, strict=True)]
        return [
            replace(self.conclude(p.log_p, d, v), log_opened=p.log_opened)
            for p, d, v in zip(proposals, draws, vectors, strict=True)
        ]

    def propose(self, scene: Scene, memory: Memory | None = None, even: bool = False) -> Proposal:
        """What tiles are drawn from; `even` as in `forward`. `memory` keeps the pixels of regions."""
        even = even or self.config.sampling.uniform
        if scene.inside is None:
            return Proposal(scene, self._no_attention(scene) if even else self.attend(scene, memory))
        return NestedProposal(
            scene,
            self._attend_regions(scene, even),
            None if even else self.attention,
            smoothing=self.config.attention.smoothing,
            each=self.config.regions.tiles,
            memory=memory,
        )

    def attend(self, scene: Scene, memory: Memory | None = None) -> Float[Tensor, " K"]:
        """Smoothed log-attention over the tissue cells, from the view: one level."""
        if isinstance(self.attention, PretrainedAttention):
            logits = self.attention.judge(self._channels(self.attention, scene, memory))
        else:
            logits = self._logits(self.attention, scene)
        return smooth(torch.log_softmax(logits, 0), self.config.attention.smoothing)

    def _channels(
        self, net: PretrainedAttention, scene: Scene, memory: Memory | None
    ) -> Float[Tensor, "K d"]:
        """What the fixed layers see in the tissue cells of a scene's view, remembered or worked out."""
        memory = Memory(0) if memory is None else memory

        def look(_: list[int]) -> np.ndarray:
            block = self.config.view.block
            seen = cell_channels(net, scene.looking, scene.view.grid, scene.tissue, block, scene.tones)
            return _numpy(seen)[None]

        return torch.from_numpy(memory.recall([(scene.address, "view")], look)[0]).to(self._device)

    def _logits(self, net: ConvAttention, scene: Scene) -> Float[Tensor, " K"]:
        """Logits of the tissue cells of a scene's view."""
        block = self.config.view.block
        return cell_logits(net, scene.looking, scene.view.grid, scene.tissue, block, scene.tones)

    def _attend_regions(self, scene: Scene, even: bool) -> Float[Tensor, " R"]:
        """Smoothed log-attention over the regions, in proportion to their tissue where the network is indifferent."""
        assert scene.inside is not None
        assert self.overview is not None
        area = torch.from_numpy(scene.inside.area).log().to(next(self.overview.parameters()))
        if even:
            return torch.log_softmax(area, 0)
        logits = self._logits(self.overview.at(scene.view.stride), scene)
        return smooth(torch.log_softmax(logits + area, 0), self.config.attention.smoothing)

    def _no_attention(self, scene: Scene) -> Float[Tensor, " K"]:
        return uniform_attention(len(scene.tissue)).to(self._device)

    def describe(
        self,
        scenes: Sequence[Scene],
        draws: Sequence[Draws],
        memory: Memory | None = None,
        turns: torch.Generator | None = None,
    ) -> list[Float[Tensor, "N D"]]:
        """Read the drawn tiles and turn each into a unit vector, all slides in one pass of the feature network."""
        features = self._features(scenes, draws, memory, turns)
        return list(torch.split(self.standardise(features), [len(d) for d in draws]))

    def _features(
        self,
        scenes: Sequence[Scene],
        draws: Sequence[Draws],
        memory: Memory | None,
        turns: torch.Generator | None = None,
    ) -> Float[Tensor, "M D"]:
        """Features of the drawn tiles, slide after slide."""
        memory = Memory(0) if memory is None else memory
        owners = np.repeat(np.arange(len(scenes)), [len(d) for d in draws])
        cells = np.concatenate([s.tissue[_numpy(d.cells)] for s, d in zip(scenes, draws, strict=True)])
        keys = [(scenes[int(owner)].address, int(cell)) for owner, cell in zip(owners, cells, strict=True)]

        def read(positions: list[int]) -> UInt8[np.ndarray, "M h w 3"]:
            return self._read(scenes, owners[positions], cells[positions])

        if _is_frozen(self.features):
            made = memory.recall(keys, lambda positions: _numpy(self.features(self._pixels(read(positions)))))
            return torch.from_numpy(made).to(self._device)
        tiles = self._pixels(memory.recall(keys, read))
        features: Tensor = self.features(tiles if turns is None else turn(tiles, turns))
        return features

    @torch.no_grad()
    def calibrate(
        self, scenes: Sequence[Scene], seed: int, memory: Memory | None = None, even: bool = True
    ) -> None:
        """Set what features have in common from tiles of `scenes`, drawn evenly from the tissue or as in training.

        And what cells of their views have in common to a pretrained attention network.
        """
        if isinstance(self.attention, PretrainedAttention):
            net = self.attention
            net.calibrate(torch.cat([self._channels(net, scene, memory) for scene in scenes]))
        drawn, sample = self.config.sampling, []
        tiles, sampler = (CALIBRATION_TILES, "multinomial") if even else (drawn.tiles, drawn.sampler)
        for scene in scenes:
            proposal = self.propose(scene, memory, even)
            draws = proposal.draw(tiles, sampler, generator_for(seed, scene.name))
            sample.append(self._features([proposal.scene], [draws], memory))
        self.standardise.calibrate(torch.cat(sample))

    def conclude(self, log_p: Float[Tensor, " K"], draws: Draws, vectors: Float[Tensor, "N D"]) -> Estimate:
        """Average the drawn vectors into the slide's summary and pass it to the head."""
        if self.score is not None:
            scores, prior = self.score(vectors), self.config.sampling.prior
            summary, counts_for = refined_expectation(log_p, draws, vectors, scores, prior)
            mass = log_mass(log_p, draws, scores, prior)
        else:
            summary = expectation(log_p, draws, vectors, centre=self.config.sampling.centre)
            counts_for, mass = shares(log_p, draws), log_p.new_zeros(())
        outputs = self.head(summary)
        return Estimate(log_p, draws, counts_for.detach(), vectors, summary, mass.detach(), outputs)

    def predict(
        self,
        slide: Slide | Path | str,
        tiles: int | None = None,
        sampler: str = "systematic",
        seed: int = 0,
        repeats: int | None = None,
        tolerance: float | None = None,
    ) -> Prediction:
        """Classify one slide.

        `tiles` (64) are drawn in `repeats` (4) independent rounds, pooled for the answer; what the answer would be
        without each of them gives its standard error. With a `tolerance` rounds of a few tiles are drawn until the
        largest standard error of the main task is safely within it (docs/method.md, section 8): at least `repeats`
        (8) rounds, at most `tiles` (512) tiles; where it takes no more than these, all tissue tiles in the end.
        `sampler="all"` reads every tissue tile: the exact answer. The draws depend on `seed` and on the slide's name
        alone, never on batch, order or worker.
        """
        watch = Stopwatch()
        with watch("total"):
            with watch("open"):
                opened: AbstractContextManager[Slide] = (
                    open_slide(slide, srgb=self.srgb) if isinstance(slide, str | Path) else nullcontext(slide)
                )
            with opened as handle:
                before = handle.bytes_read
                with watch("view"):
                    scene = look(handle, self.config, keep_open=True)
                prediction = self.predict_scene(scene, tiles, sampler, seed, repeats, tolerance, watch=watch)
                bytes_read = handle.bytes_read - before
        return prediction.measured(bytes_read, watch.seconds)

    @property
    def srgb(self) -> bool:
        """Whether it is for slides whose colours were turned to sRGB."""
        return self.config.slide.srgb

    @torch.inference_mode()
    def predict_scene(
        self,
        scene: Scene,
        tiles: int | None = None,
        sampler: str = "systematic",
        seed: int = 0,
        repeats: int | None = None,
        tolerance: float | None = None,
        *,
        memory: Memory | None = None,
        watch: Stopwatch | None = None,
    ) -> Prediction:
        """`predict` for a view that is read already; what was read and its time are left to the caller."""
        was_training = self.training
        self.eval()
        watch = watch or Stopwatch()
        with watch("attention"):
            proposal = self.propose(scene, memory)
            few = proposal.exhausted_by(shortest(tiles, repeats, tolerance))
        todo = plan(tiles, sampler, repeats, tolerance, few=few)
        vectors = TileVectors(lambda new: self._describe_in_chunks(proposal.scene, new, memory))
        rounds: list[Estimate] = []
        stderr = self._stderr(rounds)
        while more := todo.more(len(rounds), len(vectors), self.tasks.largest(stderr), proposal.exceeds):
            with watch("attention"):
                numbers = range(len(rounds), len(rounds) + more)
                generators = [generator_for(seed, scene.name, number) for number in numbers]
                draws = [proposal.draw(todo.size, sampler, generator) for generator in generators]
            with watch("tiles"):
                vectors.read(torch.cat([d.cells for d in draws]))
            with watch("head"):
                rounds += [self.conclude(proposal.log_p, d, vectors.of(d.cells)) for d in draws]
                stderr = self._stderr(rounds)
        # A reading that falls short is carried to its end where the budget is enough for that.
        short = todo.falls_short(len(rounds), self.tasks.largest(stderr))
        exact = not proposal.exceeds(todo.tiles if short else len(vectors))
        drawn = every_cell(proposal.log_p) if exact else pool([r.draws for r in rounds])
        with watch("tiles"):
            vectors.read(drawn.cells)
        with watch("head"):
            answer = self.conclude(proposal.log_p, drawn, vectors.of(drawn.cells))
        self.train(was_training)
        if exact:
            stderr = tuple(map(torch.zeros_like, stderr))
        return self._prediction(proposal, answer, stderr, len(rounds))

    def _stderr(self, rounds: Sequence[Estimate]) -> tuple[Float[Tensor, " _"], ...]:
        """Standard errors of what each task answers from the pooled rounds; nan where there are not two."""
        if len(rounds) < 2:
            return self.tasks.stderr(torch.empty(0, self.tasks.outputs))
        masses = torch.stack([r.log_mass for r in rounds])
        return self.tasks.stderr(self.head(leave_one_out(torch.stack([r.summary for r in rounds]), masses)))

    def _describe_in_chunks(
        self, scene: Scene, cells: Int64[Tensor, " N"], memory: Memory | None
    ) -> Float[Tensor, "N D"]:
        parts = [Draws(part, torch.zeros(len(part))) for part in torch.split(cells, TILES_AT_ONCE)]
        return torch.cat([self.describe([scene], [part], memory)[0] for part in parts])

    def _prediction(
        self, proposal: Proposal, answer: Estimate, stderr: Sequence[Float[Tensor, " _"]], rounds: int
    ) -> Prediction:
        scene, (tissue, attention) = proposal.scene, proposal.attention()
        contributions = self.head.contributions(answer.vectors, answer.shares)
        return Prediction(
            slide=scene.name,
            answers=self.tasks.answers(answer.logits, stderr, contributions),
            grid=scene.view.grid,
            slide_size=scene.slide_size,
            mpp=scene.mpp,
            tissue=tissue,
            attention=attention,
            cells=scene.tissue[_numpy(answer.draws.cells)],
            weights=_numpy(answer.draws.log_weights.double().exp()),
            tile_px=self.config.tile.px,
            tile_downsample=scene.tile_downsample,
            tiles_read=len(answer.draws.cells),
            rounds=rounds,
            bytes_read=0,
            seconds={},
        )

    def _read(
        self, scenes: Sequence[Scene], owners: Int64[np.ndarray, " M"], cells: Int64[np.ndarray, " M"]
    ) -> UInt8[np.ndarray, "M h w 3"]:
        px = self.config.tile.px
        out = np.empty((len(cells), px, px, 3), np.uint8)
        for owner in set(owners.tolist()):
            scene, mine = scenes[owner], owners == owner
            with scene.open() as slide:
                out[mine] = read_tiles(slide, scene.view.grid, cells[mine], px, scene.tile_downsample)
        return out

    def _pixels(self, pixels: UInt8[np.ndarray, "B h w 3"]) -> Float[Tensor, "B 3 h w"]:
        tensor = torch.from_numpy(pixels).to(self._device)
        return tensor.permute(0, 3, 1, 2).float().div_(255)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device


def uniform_attention(k: int) -> Float[Tensor, " K"]:
    """Log-attention (K,) that prefers no cell."""
    return torch.full((k,), -float(np.log(k)))


def every_cell(log_p: Float[Tensor, " K"]) -> Draws:
    """All cells, with weight 1."""
    return Draws(torch.arange(len(log_p), device=log_p.device), torch.zeros_like(log_p, dtype=torch.float64))


def generator_for(seed: int, *parts: str | int) -> torch.Generator:
    """A CPU generator that depends on `seed` and `parts` alone, the same on every machine."""
    digest = hashlib.blake2b("\0".join(map(str, (seed, *parts))).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def direction(like: Float[Tensor, "N D"], generator: torch.Generator) -> Float[Tensor, " D"]:
    """A random vector of about unit length, as long as the rows of `like`."""
    drawn = torch.randn(like.shape[1], generator=generator).to(like)
    return drawn.div(like.shape[1] ** 0.5)


def turn(tiles: Float[Tensor, "N 3 h h"], generator: torch.Generator) -> Float[Tensor, "N 3 h h"]:
    """Flip and turn each tile by one of the eight symmetries of the square: tissue has no up."""
    which = torch.randint(8, (len(tiles),), generator=generator)
    out = torch.empty_like(tiles)
    for symmetry in range(8):
        mine = (which == symmetry).nonzero()[:, 0].to(tiles.device)
        turned = torch.rot90(tiles[mine], symmetry % 4, (2, 3))
        out[mine] = turned.flip(3) if symmetry >= 4 else turned
    return out


def _is_frozen(features: nn.Module) -> bool:
    return bool(features.frozen)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
