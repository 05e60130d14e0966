"""`SlideModel`: what is asked of every model of slides, one network's or that of several together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from torch import Tensor, nn

from wsi_ats.cache import TileCache
from wsi_ats.predict import Model, predict_patient, predict_slide
from wsi_ats.prediction import PatientPrediction, Prediction
from wsi_ats.reading import Reading
from wsi_ats.slides.base import Slide
from wsi_ats.statistics.novelty import Reference
from wsi_ats.tasks.answer import TaskSpec


class SlideModel(nn.Module, Model):
    """A model that answers `tasks` of a slide, or of all slides of a patient, from tiles that attention proposes.

    What prediction needs of it stands in `wsi_ats.predict.Model`. All tasks share the summary; the first is the main
    one.
    """

    hash: str = ""
    """Digest of the model's files, set when it is loaded: part of the provenance of every prediction."""

    reference: Reference | None = None
    """Set by training, and when the model is loaded."""

    features: nn.Module
    """The feature network; where several share one, or each has its own, the first."""

    cache: TileCache
    """Keeps pixels that are met again or, of frozen networks, what they make of them."""

    def weights(self) -> dict[str, Tensor]:
        """All parameters and buffers by name, each once, however many parts of the model share it."""
        named = self.state_dict(keep_vars=True)
        first = {id(tensor): name for name, tensor in reversed(named.items())}
        return {name: tensor.detach() for name, tensor in named.items() if first[id(tensor)] == name}

    def set_weights(self, weights: dict[str, Tensor]) -> None:
        """Take all parameters and buffers from `weights`. Raises `RuntimeError` where these are of another model."""
        own, once = self.state_dict(), self.weights()
        self.load_state_dict({name: own[name] for name in own if name not in once} | weights)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self,
        slide: Slide | Path | str,
        tiles: int | None = ...,
        sampler: str = ...,
        seed: int = ...,
        repeats: int | None = ...,
        tolerance: float | None = ...,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        slide: Sequence[Slide | Path | str],
        tiles: int | None = ...,
        sampler: str = ...,
        seed: int = ...,
        repeats: int | None = ...,
        tolerance: float | None = ...,
    ) -> PatientPrediction: ...

    def predict(
        self,
        slide: Slide | Path | str | Sequence[Slide | Path | str],
        tiles: int | None = None,
        sampler: str = "systematic",
        seed: int = 0,
        repeats: int | None = None,
        tolerance: float | None = None,
    ) -> Prediction | PatientPrediction:
        """Classify one slide, an open one, a path or a URL; or one patient by a list of all slides.

        `tiles` (64) are drawn and dealt out to `repeats` (16) rounds; what the answer would be without each of these
        gives its standard error and its interval. With a `tolerance` more and more tiles are drawn until no interval
        of the main task reaches farther than that (docs/method.md, section 8): 64 at first, at most `tiles` (512);
        where it takes no more than these, all tissue tiles in the end.
        `sampler="all"` reads every tissue tile: the exact answer. The draws depend on `seed` and on the slide's name
        alone, never on batch, order or worker. Of a patient, so many tiles are drawn from all slides together, wherever
        attention, which is one distribution over all their tissue, is; the order of the slides does not matter. Raises
        `ConfigError` for a reading that makes no sense, `SlideError` where a slide cannot be read, `NoTissueError`
        where it shows none.
        """
        return self.read(slide, Reading.of(tiles, sampler, seed, repeats, tolerance))

    @overload
    def read(self, slide: Slide | Path | str, reading: Reading) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def read(self, slide: Sequence[Slide | Path | str], reading: Reading) -> PatientPrediction: ...

    def read(
        self, slide: Slide | Path | str | Sequence[Slide | Path | str], reading: Reading
    ) -> Prediction | PatientPrediction:
        """Classify one slide or patient as `reading` says: `predict` with its arguments in one value."""
        if isinstance(slide, list | tuple):
            return predict_patient(self, slide, reading)
        return predict_slide(self, slide, reading)  # type: ignore[arg-type]  # which names what is no slide

    @property
    def specs(self) -> tuple[TaskSpec, ...]:
        """Specs of the model's tasks, the main one first."""
        return self.tasks.specs

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes, labels or grades of the main task; empty where its answer is a number."""
        return self.specs[0].names

    @property
    def srgb(self) -> bool:
        """Whether the model is for slides whose colours were turned to sRGB."""
        return self.config.slide.srgb
