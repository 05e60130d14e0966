"""One training loop for all tasks and estimators: an epoch, or part of one, at a time, and resumable."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from paper.batches import Batches, Kept, Made
from paper.model import METHODS, PaperModel
from paper.pictures import Batch, Pictures, Scale
from torch.nn.functional import cross_entropy

from wsi_ats.estimator import entropy_penalty

SETTLE = 320
"""Pictures that the features' mean and spread are taken from before the test."""

TEST_BATCH = 128


@dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the paper's."""

    epochs: int = 500
    batch: int = 128
    tiles: int = 10
    lr: float = 1e-3
    lr_attention: float = 1e-3
    clip: float = 1.0
    entropy: float = 1e-4
    proposal: float = 0.1
    """Strength of the pull of the proposal towards the refined attention; refined attention alone has it."""
    smoothing: float = 1e-5
    standardise: bool = True
    """Features spread over the sphere (`wsi_ats.features.standardise`); the published code has them as they come."""
    parts: int = 1
    """An epoch is cut into so many parts, and the test pictures are answered after each."""
    fall: bool = False
    """Whether the rates fall to zero over the epochs, along half a cosine."""
    workers: int = 0
    """Processes that make pictures; 0: this one."""
    keep: bool = False
    """Pictures are made once and kept on the device: for those that are mostly background."""

    @property
    def tests(self) -> int:
        """Parts of all epochs."""
        return self.epochs * self.parts


class Run:
    """One method and seed on one task; `save()` and `load()` carry it over a stop between parts of epochs."""

    def __init__(
        self,
        train: Pictures,
        test: Pictures,
        scale: Scale,
        settings: Settings,
        method: str,
        seed: int,
        device: str,
    ) -> None:
        self.settings, self.seed, self.done, self.device = settings, seed, 0, torch.device(device)
        self.train, self.test = self._batches(train, scale), self._batches(test, scale)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = PaperModel(train, scale, METHODS[method], settings.smoothing, settings.standardise)
            self.model.to(self.device)
        attention = list(self.model.attention.parameters())
        mine = {id(p) for p in attention}
        rest = [p for p in self.model.parameters() if id(p) not in mine]
        self.rates = settings.lr_attention, settings.lr
        groups = [{"params": p, "lr": rate} for p, rate in zip((attention, rest), self.rates, strict=True)]
        self.optimizer = torch.optim.Adam(groups, fused=self.device.type == "cuda")
        self.settle()

    def one_part(self) -> dict[str, float]:
        """Train on the next part of the pictures, then answer the test pictures."""
        start, clock = time.monotonic(), time.process_time()
        indices = self._next_part()
        steps = math.ceil(len(indices) / self.settings.batch)
        generator, losses = self._generator(self.done), []
        for i, batch in enumerate(self.train.of(indices, self.settings.batch)):
            self._set_rates((self.done + i / steps) / self.settings.tests)
            losses.append(self.step(batch, generator))
        loss = float(torch.stack(losses).mean())
        trained, busy = time.monotonic() - start, time.process_time() - clock
        self.done += 1
        self.settle()
        return {
            "epoch": self.done / self.settings.parts,
            "loss": loss,
            "seconds": round(trained, 2),
            "cpu_seconds": round(busy, 2),
            **self.test_error(),
        }

    def settle(self) -> None:
        """Take the features' figures from training pictures, a few hundred of them."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(self.seed))
        batches = self.train.of(order[:SETTLE].tolist(), self.settings.batch)
        self.model.settle(batches, self.settings.tiles, self._generator(-2))

    def step(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """One step of Adam; the batch's cross-entropy."""
        settings, model = self.settings, self.model.train()
        answer = model(batch, settings.tiles, model.method.sampler, generator)
        loss = cross_entropy(answer.logits, batch.labels)
        total = loss + settings.proposal * answer.pull
        total = total + settings.entropy * entropy_penalty(answer.log_p).mean()
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def test_error(self) -> dict[str, float]:
        """Share of test pictures answered wrong, and the mean entropy of their attention, in nats.

        The same draw for all methods, so that they differ in training alone: `systematic`, as many tiles as in
        training; full soft attention answers from all tiles.
        """
        model = self.model.eval()
        sampler = "all" if model.method.sampler == "all" else "systematic"
        generator = self._generator(-1)
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        for batch in self.test.of(range(len(self.test)), TEST_BATCH):
            answer = model(batch, self.settings.tiles, sampler, generator)
            wrong = (answer.logits.argmax(1) != batch.labels).sum()
            totals += torch.stack([wrong.double(), -(answer.log_p.exp() * answer.log_p).sum().double()])
        wrong, spread = (totals / len(self.test)).tolist()
        return {"test_error": wrong, "entropy": round(spread, 3)}

    def state(self) -> dict[str, Any]:
        return {"done": self.done, "model": self.model.state_dict(), "adam": self.optimizer.state_dict()}

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".part")
        torch.save(self.state(), partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.done = state["done"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["adam"])

    def _next_part(self) -> list[int]:
        """Every picture once an epoch, in an order that follows from seed and epoch."""
        epoch, part = divmod(self.done, self.settings.parts)
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        return torch.randperm(len(self.train), generator=generator)[part :: self.settings.parts].tolist()

    def _set_rates(self, progress: float) -> None:
        share = 0.5 + 0.5 * math.cos(math.pi * progress) if self.settings.fall else 1.0
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = share * rate

    def _batches(self, pictures: Pictures, scale: Scale) -> Batches:
        if self.settings.keep:
            return Kept(pictures, scale, self.device)
        return Made(pictures, scale, self.device, self.settings.workers)

    def _generator(self, turn: int) -> torch.Generator:
        """The draws of a part of an epoch, of a test (turn -1) and of settling (-2) follow from seed and turn."""
        return torch.Generator(self.device).manual_seed(self.seed * 4096 + turn + 2)
