"""The training step for Lightning: losses, validation, optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float64
from torch import Tensor

from wsi_ats.attention.levels import Drawn, SlideAttention
from wsi_ats.embed import Pixels
from wsi_ats.estimator import attention_loss, entropy_penalty
from wsi_ats.lowres.patient import Prepared
from wsi_ats.model import AttentionSampler, Estimate
from wsi_ats.predict import predict_prepared_patient
from wsi_ats.prediction import PatientPrediction
from wsi_ats.reading import Reading
from wsi_ats.sampling import generator_for
from wsi_ats.slide_model import SlideModel
from wsi_ats.train.ahead import Batch, ReadAhead
from wsi_ats.train.augment import Augmentation, bag_shift, places
from wsi_ats.train.data import Example
from wsi_ats.train.figures import epoch_figures, values_of
from wsi_ats.train.standardise import fit_standardisation
from wsi_ats.train.targets import Targets, stacked


class TrainingModule(pl.LightningModule):
    """Trains an `AttentionSampler` on batches that are lists of `Example`.

    Loss a slide: its share in those of the tasks + attention_loss * KL-like pull of the attention toward the refined
    one (refined attention only) + entropy * sum a log a.
    """

    def __init__(self, model: AttentionSampler) -> None:
        super().__init__()
        self.model = model
        self.settings = model.config.train
        self.standardised_on: Sequence[Prepared] = ()
        """Training slides that the features' mean and variance are taken from before a validation."""
        self._reader: ReadAhead | None = None
        self._answers: list[PatientPrediction] = []
        self._targets: list[Targets] = []

    def training_step(self, batch: list[Example], batch_idx: int) -> Tensor:
        """Mean loss of a batch of slides; draws depend on (seed, epoch, slides of the example) alone.

        It is `model.forward` with what only training does: uniform draws while warming up, tiles turned, bags shifted.
        """
        seed, epoch = self.settings.seed, self.current_epoch
        generators = self._generators(batch, batch_idx)
        drawn, fetched = self._draw(batch, generators, batch_idx)
        if isinstance(batch, Batch) and batch.after:
            self._read_ahead(batch.after, batch_idx + 1)
        how = self.model.config.augment
        augment = Augmentation(
            how, [len(d.draws) for d in drawn], seed, epoch, batch_idx, turn=self.settings.augment
        )
        features = self.model.embed(drawn, augment, self._places(drawn, batch_idx), fetched)
        if self.settings.shift:
            pairs = zip(features, generators, strict=True)
            features = [bag_shift(f, self.settings.shift, generator) for f, generator in pairs]
        with torch.autocast(self.device.type, enabled=False):  # little arithmetic, whose digits count
            loss = self._loss(self.model.estimates(drawn, features), batch)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch))
        return loss

    def _generators(self, batch: list[Example], batch_idx: int) -> list[torch.Generator]:
        seed, epoch = self.settings.seed, self.current_epoch
        # With balanced classes a slide may come again, and is to be drawn from anew.
        again = [(batch_idx, i) if self.settings.balanced else () for i in range(len(batch))]
        return [generator_for(seed, epoch, *e.slides, *a) for e, a in zip(batch, again, strict=True)]

    def _attend(self, batch: list[Example]) -> list[SlideAttention]:
        warming_up = self.current_epoch < self.model.config.warm_up
        return [self.model.attend(example.prepared, uniform=warming_up) for example in batch]

    def _draw(
        self, batch: list[Example], generators: list[torch.Generator], batch_idx: int
    ) -> tuple[list[Drawn], Callable[[], Pixels] | None]:
        """What is drawn of a batch: ahead, with what waits for its pixels, or now."""
        how, attention = self.model.config.sampling, self._attend(batch)
        ahead = self._reader.take((self.current_epoch, batch_idx), attention) if self._reader else None
        if ahead is not None:
            return ahead
        pairs = zip(attention, generators, strict=True)
        return [a.draw(how.tiles, how.sampler, g) for a, g in pairs], None

    @torch.no_grad()
    def _read_ahead(self, batch: list[Example], batch_idx: int) -> None:
        """Draw a later batch with the attention as it is now, and have its tiles read."""
        how, generators = self.model.config.sampling, self._generators(batch, batch_idx)
        pairs = zip(self._attend(batch), generators, strict=True)
        drawn = [a.draw(how.tiles, how.sampler, g) for a, g in pairs]
        moved = self._places(drawn, batch_idx)
        self._reader = self._reader or ReadAhead()
        self._reader.begin(
            (self.current_epoch, batch_idx), [d.draws for d in drawn], lambda: self.model.fetch(drawn, moved)
        )

    def _places(self, drawn: list[Drawn], batch_idx: int) -> Float64[np.ndarray, "M 2"] | None:
        count = sum(len(d.draws) for d in drawn)
        return places(self.model.config.augment, count, self.settings.seed, self.current_epoch, batch_idx)

    def _loss(self, estimates: list[Estimate], batch: list[Example]) -> Tensor:
        outputs = torch.stack([estimate.logits for estimate in estimates])
        losses = self.model.tasks.losses(outputs, stacked([example.targets for example in batch]))
        return (losses + torch.stack([self._penalty(estimate) for estimate in estimates])).mean()

    def _penalty(self, estimate: Estimate) -> Tensor:
        loss, drawn = torch.zeros((), device=estimate.logits.device), estimate.drawn
        if self.model.score is not None and self.settings.attention_loss:
            pull = attention_loss(drawn.log_p, drawn.draws, estimate.summary.shares)
            loss = loss + self.settings.attention_loss * pull
        if self.settings.entropy:
            loss = loss + self.settings.entropy * entropy_penalty(drawn.log_p, drawn.log_opened)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Take the mean and variance of features that are learned anew, at the weights that are to be judged.

        What followed in training lags behind weights that move fast: in the middle of small trainings the loss of the
        same weights was up to 13 times as high with it. At the end, where the rates have fallen, it is the same.
        """
        if self.model.standardise.follow and self.standardised_on:
            fit_standardisation(self.model, self.standardised_on, self.settings.seed, uniform=False)

    def validation_step(self, batch: list[Example], batch_idx: int) -> None:
        """Answer the slides and keep the answers for the end of the epoch."""
        for example in batch:
            self._answers.append(answer(self.model, example))
            self._targets.append(example.targets)

    def on_validation_epoch_end(self) -> None:
        """Metric values and losses over all validation slides.

        An epoch whose attention has not begun to learn is worse than any other, however lucky its uniform draws were.
        """
        figures = epoch_figures(self.model.tasks, values_of(self._answers), stacked(self._targets))
        figures["val_score"] -= 10.0 * (self.current_epoch < self.model.config.warm_up)
        self.log_dict(figures)
        self._answers.clear()
        self._targets.clear()

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; attention networks have a learning rate of their own, and both fall along a half cosine.

        The rates fall because the draws stay noisy: at a constant rate the validation AUC of a model that has
        learned keeps jumping from one epoch to the next.
        """
        networks = filter(None, (self.model.attention, self.model.region_attention))
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
        """The batch as it is: the model moves the pixels that it reads."""
        return batch


def answer(model: SlideModel, example: Example) -> PatientPrediction:
    """The prediction that a user would get, from one pooled draw a slide, always with the same seed."""
    sampler, how = "all" if model.config.sampling.sampler == "all" else "systematic", model.config.train
    reading = Reading(how.val_tiles, sampler, repeats=1, seed=how.seed)
    device = next(model.parameters()).device
    with torch.autocast(device.type, enabled=False):  # as a user's, whatever precision training is in
        return predict_prepared_patient(model, example.prepared, reading)
