"""The training loop's body, for Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from wsi_ats.cache import Memory
from wsi_ats.estimator import entropy_penalty, proposal_loss
from wsi_ats.lowres.prepare import Scene
from wsi_ats.model import AttentionSampler, Estimate, generator_for
from wsi_ats.prediction import Prediction
from wsi_ats.train.data import Example
from wsi_ats.train.merit import epoch_figures, values_of
from wsi_ats.train.targets import Targets, stacked


class TrainingModule(pl.LightningModule):
    """Trains an `AttentionSampler` on batches that are lists of `Example`.

    Loss a slide: its share in those of the tasks + proposal * KL-like pull of the attention toward the refined one
    (refined attention only) + entropy * sum a log a.
    """

    def __init__(self, model: AttentionSampler, memory: Memory | None = None) -> None:
        super().__init__()
        self.model = model
        self.settings = model.config.train
        self.memory = Memory(self.settings.cache_mb << 20) if memory is None else memory
        self.settled_on: Sequence[Scene] = ()
        """Scenes of training slides that the features' mean and variance are taken from before a validation."""
        self._answers: list[Prediction] = []
        self._targets: list[Targets] = []

    def training_step(self, batch: list[Example], batch_idx: int) -> Tensor:
        """Mean loss of a batch of slides; draws depend on (seed, epoch, slide) alone."""
        seed, epoch = self.settings.seed, self.current_epoch
        estimates = self.model(
            [example.scene for example in batch],
            [generator_for(seed, epoch, example.slide) for example in batch],
            self.memory,
            turns=generator_for(seed, epoch, batch_idx) if self.settings.augment else None,
            even=epoch < self.settings.warm_up,
            shift=self.settings.shift,
        )
        outputs = torch.stack([estimate.logits for estimate in estimates])
        losses = self.model.tasks.losses(outputs, stacked([example.targets for example in batch]))
        loss = (losses + torch.stack([self._penalty(estimate) for estimate in estimates])).mean()
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch))
        return loss

    def _penalty(self, estimate: Estimate) -> Tensor:
        loss = torch.zeros((), device=estimate.logits.device)
        if self.model.score is not None and self.settings.proposal:
            pull = proposal_loss(estimate.log_p, estimate.draws, estimate.shares)
            loss = loss + self.settings.proposal * pull
        if self.settings.entropy:
            loss = loss + self.settings.entropy * entropy_penalty(estimate.log_p, estimate.log_opened)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Take the mean and variance of features that are learned anew, at the weights that are to be judged.

        What followed in training lags behind weights that move fast: in the middle of small trainings the loss of the
        same weights was up to 13 times as high with it. At the end, where the rates have fallen, it is the same.
        """
        if self.model.standardise.follow and self.settled_on:
            self.model.calibrate(self.settled_on, self.settings.seed, self.memory, even=False)

    def validation_step(self, batch: list[Example], batch_idx: int) -> None:
        """Answer the slides and keep the answers for the end of the epoch."""
        for example in batch:
            self._answers.append(self.answer(example))
            self._targets.append(example.targets)

    def answer(self, example: Example) -> Prediction:
        """Predict as a user would, one pooled draw a slide, always with the same seed."""
        return self.model.predict_scene(
            example.scene,
            tiles=self.settings.val_tiles,
            sampler="all" if self.model.config.sampling.sampler == "all" else "systematic",
            seed=self.settings.seed,
            repeats=1,
            memory=self.memory,
        )

    def on_validation_epoch_end(self) -> None:
        """Figures of merit and losses over all validation slides.

        An epoch whose attention has not begun to learn is worse than any other, however lucky its even draws were.
        """
        figures = epoch_figures(self.model.tasks, values_of(self._answers), stacked(self._targets))
        figures["val_score"] -= 10.0 * (self.current_epoch < self.settings.warm_up)
        self.log_dict(figures)
        self._answers.clear()
        self._targets.clear()

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; attention networks have a learning rate of their own, and both fall along a half cosine.

        The rates fall because the draws stay noisy: at a constant rate the validation AUC of a model that has
        learned keeps jumping from one epoch to the next.
        """
        networks = filter(None, (self.model.attention, self.model.overview))
        attention = [p for network in networks for p in network.parameters() if p.requires_grad]
        mine = {id(p) for p in attention}
        rest = [p for p in self.model.parameters() if id(p) not in mine and p.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {"params": attention, "lr": self.settings.lr_attention},
                {"params": rest, "lr": self.settings.lr},
            ],
            weight_decay=self.settings.weight_decay,
        )
        epochs = self.settings.epochs
        fall = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda e: 0.5 * (1 + math.cos(math.pi * e / epochs))
        )
        return {"optimizer": optimizer, "lr_scheduler": fall}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Slides stay where they are: the model moves the pixels it reads."""
        return batch
