"""Catalogue of what is chosen by name: samplers, attention and feature networks, kinds of tasks, a table each.

An entry here, and the code that it names, is all that makes a new one known: to the settings, the command line, the
messages and the tests (docs/extending.md). Code is named "module:name" and imported when it is used, so that the names
are known without torch. Readers of slides have a table of their own (`slides/opening.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from wsi_ats.errors import ConfigError


@dataclass(frozen=True)
class SamplerEntry:
    """A sampler: one way to draw. What the fields mean: `wsi_ats.sampling.Sampler`."""

    rule: str
    randomness: Literal["none", "slide", "draw", "cell"]
    unbiased: bool
    sums_to_one: bool
    summary: str
    trainable: bool = True
    chances: bool = True
    research: bool = False
    """True for samplers that `--help` does not name: known and tested, without a measured gain over the default."""


SAMPLERS: Mapping[str, SamplerEntry] = {
    "systematic": SamplerEntry(
        "wsi_ats.sampling.rules:systematic",
        *("slide", True, True),
        "even along the slide, heavy cells always read (default)",
    ),
    "gumbel": SamplerEntry(
        "wsi_ats.sampling.rules:gumbel",
        *("cell", True, True),
        "one by one without replacement, as in the paper",
        chances=False,
    ),
    "unordered": SamplerEntry(
        "wsi_ats.sampling.rules:unordered",
        *("cell", True, True),
        "as gumbel, with the order averaged out",
        research=True,
    ),
    "gumbel-threshold": SamplerEntry(
        "wsi_ats.sampling.rules:threshold",
        *("cell", True, False),
        "as gumbel, weighted by the chance to pass a threshold",
        research=True,
    ),
    "gumbel-threshold-normalised": SamplerEntry(
        "wsi_ats.sampling.rules:threshold_normalised",
        *("cell", False, True),
        "the same with weights that add up: bias O(1/n)",
        research=True,
    ),
    "priority": SamplerEntry(
        "wsi_ats.sampling.rules:priority",
        *("cell", True, False),
        "the largest a / u, weighted by a threshold",
        research=True,
    ),
    "multinomial": SamplerEntry(
        "wsi_ats.sampling.rules:multinomial",
        *("draw", True, True),
        "independent draws with replacement, as in the paper",
        chances=False,
    ),
    "top": SamplerEntry(
        "wsi_ats.sampling.rules:top",
        *("none", False, True),
        "the n cells with most attention; biased, for evaluation only",
        trainable=False,
    ),
    "all": SamplerEntry(
        "wsi_ats.sampling.rules:every",
        *("none", True, True),
        "every cell: exact, and as slow as reading the whole slide",
    ),
}


@dataclass(frozen=True)
class AttentionEntry:
    """An attention network: `make(settings, stride, pretrained=)` gives a `ConvAttention`."""

    make: str
    summary: str
    pretrained: bool = False
    """True for a network of fixed layers with weights of their own, for one level of attention: what they make of a
    view is kept instead of the view."""


ATTENTION_NETWORKS: Mapping[str, AttentionEntry] = {
    "wide": AttentionEntry("wsi_ats.attention.make:wide", "conv3 16, 16, pooling, 1x1"),
    "deep": AttentionEntry(
        "wsi_ats.attention.make:deep",
        "conv3 8 (every second px), 16, 16, pooling, 1x1 16, 1, a third of the arithmetic",
    ),
    "paper": AttentionEntry("wsi_ats.attention.make:paper", "conv3 8, 8, 1 with tanh, as published"),
    "mobilenet-v1": AttentionEntry(
        "wsi_ats.attention.make:mobilenet",
        "its first layers, pretrained and fixed, and 1x1 width, 1: it finds kinds of tissue that no slide of yours has "
        "shown it",
        pretrained=True,
    ),
}


@dataclass(frozen=True)
class FeatureEntry:
    """A feature network: `make(settings, pretrained=)` gives a module with `dim`, `input_px`, `mpp` and `frozen`."""

    make: str
    takes: frozenset[str] = frozenset()
    """Settings of [features] that it takes; the networks that take none of a setting refuse it."""
    from_scratch: bool = False
    """True for a network that is trained with the model by default; the others are pretrained and frozen."""

    @property
    def large(self) -> bool:
        """Whether a model folder refers to the network's frozen weights instead of holding them, unless told to."""
        return "embed" in self.takes


_TRAINED_ON = frozenset({"weights", "open_blocks", "checkpointing"})
_PUBLISHED = _TRAINED_ON | {"embed"}
_RESNET = FeatureEntry("wsi_ats.features.resnet:resnet_encoder", _TRAINED_ON | {"mpp", "mean", "std"})
_HUGGINGFACE = FeatureEntry("wsi_ats.features.huggingface:huggingface_encoder", _PUBLISHED)
_TIMM = FeatureEntry("wsi_ats.features.timm_models:timm_encoder", _PUBLISHED)
_ANY = _PUBLISHED | {"pooling", "mpp"}

FEATURE_NETWORKS: Mapping[str, FeatureEntry] = {
    "small-resnet": FeatureEntry("wsi_ats.features.make:small_resnet", from_scratch=True),
    "paper": FeatureEntry("wsi_ats.features.make:paper", from_scratch=True),
    "mobilenet-v1": FeatureEntry("wsi_ats.features.make:mobilenet", frozenset({"weights", "open_blocks"})),
    "resnet-18": _RESNET,
    "resnet-34": _RESNET,
    "resnet-50": _RESNET,
    # Published encoders; what their model cards say of them is in features/published.py.
    "phikon": _HUGGINGFACE,
    "phikon-v2": _HUGGINGFACE,
    "midnight": _HUGGINGFACE,
    "dinov2-small": _HUGGINGFACE,
    "dinov2-base": _HUGGINGFACE,
    "dinov2-large": _HUGGINGFACE,
    "uni": _TIMM,
    "uni2": _TIMM,
    "virchow2": _TIMM,
    "h-optimus-0": _TIMM,
    "h-optimus-1": _TIMM,
    "gigapath": _TIMM,
    # Any model of these libraries, and a network that was exported with torch.export.
    "huggingface": FeatureEntry("wsi_ats.features.huggingface:huggingface_encoder", _ANY),
    "timm": FeatureEntry("wsi_ats.features.timm_models:timm_encoder", _ANY),
    "exported": FeatureEntry(
        "wsi_ats.features.exported:exported_encoder",
        frozenset({"weights", "input_px", "mpp", "mean", "std", "trust", "embed"}),
    ),
}


@dataclass(frozen=True)
class TaskEntry:
    """A kind of task: `make(spec, settings, **learned)` gives a `Task`."""

    make: str
    names: Literal["found", "columns", "grades", "none"]
    """Source of the names that have a probability each: texts found in the target's column, its columns, grades."""
    says: Literal["the most probable", "all that are likely", "the median", "a number"]
    """How the values of an answer are put into a word (`TaskSpec.text`)."""
    numbers: tuple[str, ...] = ()
    """Values of an answer that are no probabilities."""
    takes: frozenset[str] = frozenset()
    """Settings of the task that it takes; the other kinds refuse them."""
    unit: str = ""
    """Unit of the number, for people."""
    compares: bool = False
    """True where the loss compares the slides of a batch, which must hold two or more."""


TASK_KINDS: Mapping[str, TaskEntry] = {
    "classes": TaskEntry(
        "wsi_ats.tasks.classes:Classes",
        "found",
        "the most probable",
        takes=frozenset({"class_weights", "positive"}),
    ),
    "labels": TaskEntry(
        "wsi_ats.tasks.labels:Labels",
        *("columns", "all that are likely"),
        takes=frozenset({"columns", "class_weights"}),
    ),
    "ordinal": TaskEntry(
        "wsi_ats.tasks.ordinal:Ordinal",
        *("grades", "the median", ("expected",)),
        takes=frozenset({"grades", "class_weights"}),
    ),
    "regression": TaskEntry("wsi_ats.tasks.regression:Regression", "none", "a number", ("value",)),
    "survival": TaskEntry(
        "wsi_ats.tasks.survival:Survival",
        *("none", "a number", ("risk",)),
        takes=frozenset({"event"}),
        unit="log risk",
        compares=True,
    ),
}


def code_of(place: str) -> Any:
    """The object that "module:name" names, imported.

    >>> code_of("math:hypot")(3, 4)
    5.0
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def one_of(table: Mapping[str, object]) -> Callable[[str], str]:
    """A check that passes the names of a table on and raises ValueError, listing them, for any other.

    >>> one_of({"red": 1, "blue": 2})("green")
    Traceback (most recent call last):
    ...
    ValueError: 'green' cannot be chosen here; choose one of red, blue
    """

    def check(name: str) -> str:
        if name not in table:
            raise ValueError(f"{name!r} cannot be chosen here; choose one of {', '.join(table)}")
        return name

    return check


def refuse_unknown_sampler(name: str) -> None:
    """Raise `ConfigError` with the known names where there is no sampler of that name."""
    if not isinstance(name, str) or name not in SAMPLERS:
        raise ConfigError(f"unknown sampler {name!r}", f"choose one of {', '.join(SAMPLERS)}")


def is_random(sampler: str) -> bool:
    """Whether two draws of the sampler differ.

    >>> is_random("systematic"), is_random("all")
    (True, False)
    """
    return sampler not in SAMPLERS or SAMPLERS[sampler].randomness != "none"
