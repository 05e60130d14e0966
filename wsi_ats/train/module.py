"""The training step for Lightning: losses, validation, optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
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
from wsi_ats.train.augment import Augmentation, Name, bag_shift, places
from wsi_ats.train.data import Example
from wsi_ats.train.figures import epoch_figures
from wsi_ats.train.processes import ALONE, Processes
from wsi_ats.train.standardise import fit_standardisation
from wsi_ats.train.summed import sum_gradients
from wsi_ats.train.targets import Targets, stacked


class TrainingModule(pl.LightningModule):
    """Trains an `AttentionSampler` on batches that are lists of `Example`.

    Loss a slide: its share in those of the tasks + attention_loss * KL-like pull of the attention toward the refined
    one (refined attention only) + entropy * sum a log a.

    A batch is the part of this one of the `processes` in the batch that all take together. Outputs are put together
    for the loss, mean and variance of features are those of all tiles, and gradients are added up: what comes out is,
    but for rounding, what one process makes of the whole batch.
    """

    def __init__(self, model: AttentionSampler, processes: Processes = ALONE) -> None:
        super().__init__()
        self.model = model
        self.settings = model.config.train
        self.processes = processes
        if processes.count > 1:
            model.standardise.summed = processes.summed
        self.standardised_on: Sequence[Prepared] = ()
        """Training slides that the features' mean and variance are taken from before a validation."""
        self._reader: ReadAhead | None = None
        self._batch_idx = 0
        self._answers: list[tuple[Targets, Targets]] = []
        """Values and targets of each validation slide."""

    def training_step(self, batch: list[Example], batch_idx: int) -> Tensor:
        """Mean loss of a batch of slides; draws depend on (seed, epoch, slides of the example) alone.

        It is `model.forward` with what only training does: uniform draws while warming up, tiles turned, bags shifted.
        """
        self._batch_idx = batch_idx
        generators = self._generators(batch, batch_idx)
        drawn, features = self._read(batch, generators, batch_idx) if batch else self._nothing()
        everyone = self.processes.in_order(self.processes.gather([example.targets for example in batch]))
        with self.processes.among_sums():
            loss, total = self._learned(drawn, features, generators, everyone)
        self.log("loss", total, on_step=False, on_epoch=True, batch_size=len(everyone))
        return loss

    def _learned(
        self,
        drawn: list[Drawn],
        features: Float[Tensor, "M D"],
        generators: list[torch.Generator],
        everyone: Sequence[Targets],
    ) -> tuple[Tensor, Tensor]:
        """What this process has of the loss, and the loss."""
        features = self.model.standardise(features)
        vectors = [*torch.split(features, [len(d.draws) for d in drawn])]
        if self.settings.shift:
            pairs = zip(vectors, generators, strict=True)
            vectors = [bag_shift(v, self.settings.shift, generator) for v, generator in pairs]
        with torch.autocast(self.device.type, enabled=False):  # little arithmetic, whose digits count
            loss = self._loss(self.model.estimates(drawn, vectors), everyone, features[:0].sum())
            return loss, self.processes.summed(loss.detach().float())

    def _read(
        self, batch: list[Example], generators: list[torch.Generator], batch_idx: int
    ) -> tuple[list[Drawn], Float[Tensor, "M D"]]:
        """What is drawn of a batch, and the features of its tiles; those of the next batch are read ahead."""
        drawn, fetched = self._draw(batch, generators, batch_idx)
        if isinstance(batch, Batch) and batch.after:
            self._read_ahead(batch.after, batch_idx + 1)
        how, seed = self.model.config.augment, self.settings.seed
        names, counts = self._names(batch, batch_idx), [len(d.draws) for d in drawn]
        augment = Augmentation(how, counts, seed, names, turn=self.settings.augment)
        return drawn, self.model.raw_features(drawn, augment, places(how, counts, seed, names), fetched)

    def _nothing(self) -> tuple[list[Drawn], Float[Tensor, "M D"]]:
        """What is drawn of no slide: other processes have more than this one, which takes part in their exchanges."""
        return [], torch.zeros(0, self.model.head.dim, device=self.device, requires_grad=True)

    def _names(self, batch: list[Example], batch_idx: int) -> list[Name]:
        """What the draws for each slide depend on beside the seed."""
        places = self.processes.share(range(len(batch) * self.processes.count))
        # With balanced classes a slide may come again, and is to be drawn from anew.
        again = [(batch_idx, place) if self.settings.balanced else () for place in places]
        return [(self.current_epoch, *e.slides, *a) for e, a in zip(batch, again, strict=True)]

    def _generators(self, batch: list[Example], batch_idx: int) -> list[torch.Generator]:
        return [generator_for(self.settings.seed, *name) for name in self._names(batch, batch_idx)]

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
        names, counts = self._names(batch, batch_idx), [len(d.draws) for d in drawn]
        moved = places(self.model.config.augment, counts, self.settings.seed, names)
        self._reader = self._reader or ReadAhead()
        self._reader.begin(
            (self.current_epoch, batch_idx), [d.draws for d in drawn], lambda: self.model.fetch(drawn, moved)
        )

    def _loss(
        self, estimates: list[Estimate], everyone: Sequence[Targets], nothing: Tensor | float = 0.0
    ) -> Tensor:
        """What this process has of the mean loss of the slides of all, whose targets `everyone` holds: its share of
        what the tasks make of all outputs together (some compare slides), and what is of its own slides alone.

        nothing: 0, with its graph: where there is no slide here, the gradients of others go through it.
        """
        outputs = torch.zeros(
            len(everyone), sum(task.outputs for task in self.model.tasks), device=self.device
        )
        if estimates:
            mine = self.processes.share(range(len(everyone)))
            outputs[[*mine]] = torch.stack([estimate.logits for estimate in estimates])
        else:
            outputs = outputs + nothing
        losses = self.model.tasks.losses(self.processes.summed(outputs), stacked(everyone))
        penalties = [self._penalty(estimate) for estimate in estimates]
        return (losses.sum() / self.processes.count + sum(penalties)) / len(everyone)

    def _penalty(self, estimate: Estimate) -> Tensor:
        loss, drawn = torch.zeros((), device=estimate.logits.device), estimate.drawn
        if self.model.score is not None and self.settings.attention_loss:
            pull = attention_loss(drawn.log_p, drawn.draws, estimate.summary.shares)
            loss = loss + self.settings.attention_loss * pull
        if self.settings.entropy:
            loss = loss + self.settings.entropy * entropy_penalty(drawn.log_p, drawn.log_opened)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Find the gradients. A view that memory has no room for is read again."""
        with self.processes.among_sums():
            super().backward(loss, *args, **kwargs)

    def on_after_backward(self) -> None:
        """Add up the gradients of all processes where a step is to follow, before it is seen how large they are."""
        if self.processes.count == 1:
            return
        batches = self._batch_idx + 1
        if batches % self.settings.accumulate == 0 or batches == self.trainer.num_training_batches:
            sum_gradients(self.model.parameters(), self.processes.add_up)

    def on_validation_epoch_start(self) -> None:
        """Take the mean and variance of features that are learned anew, at the weights that are to be judged.

        What followed in training lags behind weights that move fast: in the middle of small trainings the loss of the
        same weights was up to 13 times as high with it. At the end, where the rates have fallen, it is the same.
        """
        if self.model.standardise.follow and self.standardised_on:
            seed, processes = self.settings.seed, self.processes
            fit_standardisation(self.model, self.standardised_on, seed, uniform=False, processes=processes)

    def validation_step(self, batch: list[Example], batch_idx: int) -> None:
        """Answer the slides and keep the answers for the end of the epoch."""
        for example in batch:
            values = tuple(result.values for result in answer(self.model, example).results)
            self._answers.append((values, example.targets))

    def on_validation_epoch_end(self) -> None:
        """Metric values and losses over all validation slides.

        An epoch whose attention has not begun to learn is worse than any other, however lucky its uniform draws were.
        """
        answers = self.processes.in_order(self.processes.gather(self._answers))
        values, targets = zip(*answers, strict=True)
        figures = epoch_figures(self.model.tasks, stacked(values), stacked(targets))
        figures["val_score"] -= 10.0 * (self.current_epoch < self.model.config.warm_up)
        self.log_dict(figures)
        self._answers.clear()

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
