"""One training loop for all tasks and estimators: an epoch, or part of one, at a time, and resumable."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from paper.model import METHODS, PaperModel
from paper.pictures import Example, Examples, Pictures, Scale
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from wsi_ats.estimator import entropy_penalty

SETTLE = 320
"""Pictures that the features' mean and spread are taken from before the test."""


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
    """Features spread over the sphere (`wsi_ats.standardise`); the published code has them as they come."""
    parts: int = 1
    """An epoch is cut into so many parts, and the test pictures are answered after each."""
    workers: int = 0
    """Processes that make pictures; 0: this one."""


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
        self.settings, self.seed, self.done = settings, seed, 0
        self.train, self.test = Examples(train, scale), Examples(test, scale)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = PaperModel(train, scale, METHODS[method], settings.smoothing, settings.standardise)
            self.model.to(device)
        attention = list(self.model.attention.parameters())
        mine = {id(p) for p in attention}
        rest = [p for p in self.model.parameters() if id(p) not in mine]
        self.optimizer = torch.optim.Adam(
            [{"params": attention, "lr": settings.lr_attention}, {"params": rest, "lr": settings.lr}]
        )
        self.settle()

    def one_part(self) -> dict[str, float]:
        """Train on the next part of the pictures, then answer the test pictures."""
        start, clock = time.monotonic(), time.process_time()
        losses = [self.step(batch) for batch in self._batches(self.train, self._next_part())]
        trained, busy = time.monotonic() - start, time.process_time() - clock
        self.done += 1
        self.settle()
        return {
            "epoch": self.done / self.settings.parts,
            "loss": sum(losses) / len(losses),
            "seconds": round(trained, 2),
            "cpu_seconds": round(busy, 2),
            **self.test_error(),
        }

    def settle(self) -> None:
        """Take the features' figures from training pictures, a few hundred of them."""
        generator = torch.Generator().manual_seed(self.seed)
        some = torch.randperm(len(self.train), generator=generator)[:SETTLE].tolist()
        self.model.settle(self._batches(self.train, some), self.settings.tiles, generator)

    def step(self, batch: list[Example]) -> float:
        """One step of Adam; the batch's cross-entropy."""
        settings, model = self.settings, self.model.train()
        answer = model(batch, settings.tiles, model.method.sampler, self._generators(batch, self.done))
        labels = torch.tensor([x.picture.label for x in batch], device=model.device)
        loss = cross_entropy(answer.logits, labels)
        total = loss + settings.proposal * answer.pull
        total = total + settings.entropy * torch.stack([entropy_penalty(p) for p in answer.log_p]).mean()
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def test_error(self) -> dict[str, float]:
        """Share of test pictures answered wrong, and the mean entropy of their attention, in nats.

        The same draw for all methods, so that they differ in training alone: `systematic`, as many tiles as in
        training; full soft attention answers from all tiles.
        """
        model = self.model.eval()
        sampler = "all" if model.method.sampler == "all" else "systematic"
        wrong, spread = 0, 0.0
        for batch in self._batches(self.test, list(range(len(self.test)))):
            answer = model(batch, self.settings.tiles, sampler, self._generators(batch, -1))
            labels = torch.tensor([x.picture.label for x in batch], device=model.device)
            wrong += int((answer.logits.argmax(1) != labels).sum())
            spread += float(-(answer.log_p.exp() * answer.log_p).sum())
        count = len(self.test)
        return {"test_error": wrong / count, "entropy": round(spread / count, 3)}

    def state(self) -> dict[str, Any]:
        return {"done": self.done, "model": self.model.state_dict(), "adam": self.optimizer.state_dict()}

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".part")
        torch.save(self.state(), partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.model.device, weights_only=True)
        self.done = state["done"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["adam"])

    def _next_part(self) -> list[int]:
        """Every picture once an epoch, in an order that follows from seed and epoch."""
        epoch, part = divmod(self.done, self.settings.parts)
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        return torch.randperm(len(self.train), generator=generator)[part :: self.settings.parts].tolist()

    def _batches(self, examples: Examples, indices: list[int]) -> DataLoader[Example]:
        size, workers = self.settings.batch, self.settings.workers
        return DataLoader(examples, size, sampler=indices, collate_fn=list, num_workers=workers)

    def _generators(self, batch: list[Example], turn: int) -> list[torch.Generator]:
        """One a picture: a draw follows from (seed, turn, picture)."""
        keys = [(self.seed * 4096 + turn + 1) * 2**20 + x.index for x in batch]
        return [torch.Generator().manual_seed(key) for key in keys]
