"""Operating point: the probability from which a slide is called positive, and the rule that chose it.

The threshold lies between two slides that it was chosen on; anywhere between them it parts these alike. It is laid at
one half where that is between them, or else in the middle, in logits, of the gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64

from wsi_ats.errors import ConfigError
from wsi_ats.statistics.interval import Interval, share_interval

Rule = Literal["half", "youden", "sensitivity", "specificity", "cost"]
FARTHEST = 12.0
"""Largest logit that counts: beyond it probabilities are 0 or 1 to five digits."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the probability of the positive class, chosen on `slides` slides or patients."""

    positive: str
    threshold: float
    rule: str
    """The rule in words, such as "sensitivity of at least 0.95"."""
    sensitivity: Interval
    specificity: Interval
    slides: int
    on: str
    """Their number and name: "24 validation slides"."""

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> OperatingPoint:
        """The operating point whose plain values a model folder keeps. Raises `KeyError`, `TypeError` or
        `ValueError`."""
        threshold = float(values["threshold"])
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}; it must be between 0 and 1")
        sensitivity, specificity = (
            Interval(f["value"], f.get("low"), f.get("high"), f.get("note", ""))
            for f in (values["sensitivity"], values["specificity"])
        )
        return cls(
            str(values["positive"]),
            threshold,
            str(values["rule"]),
            sensitivity,
            specificity,
            int(values["slides"]),
            str(values["on"]),
        )

    def to_values(self) -> dict[str, Any]:
        """Plain values for a model folder; limits that there are not are left out."""
        values = asdict(self)
        for name in ("sensitivity", "specificity"):
            values[name] = {key: v for key, v in values[name].items() if v is not None}
        return values

    def __str__(self) -> str:
        return (
            f"{self.positive} from a probability of {self.threshold:.3f} ({self.rule}; sensitivity "
            f"{self.sensitivity}, specificity {self.specificity}, on {self.on})"
        )


def choose_operating_point(
    probability: Float64[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    name: str,
    on: str,
    rule: Rule = "youden",
    wished: float | None = None,
) -> OperatingPoint:
    """The operating point that `rule` chooses on n slides, given their probability of the positive class.

    name: the positive class. on: the slides' number and name. rule: half, a threshold of one half; youden, the largest
    sum of sensitivity and specificity; sensitivity or specificity, of at least `wished`, the other as large as it can
    be; cost, the least cost where a missed positive costs `wished` times what a false alarm does, at the frequency of
    positives among these slides. Raises `ConfigError` where these slides or the wish cannot tell.

    >>> p, truth = np.array([0.1, 0.2, 0.4, 0.7, 0.9]), np.array([False, False, True, True, True])
    >>> point = choose_operating_point(p, truth, "tumour", "5 slides", "youden")
    >>> round(point.threshold, 3), point.sensitivity.value, point.specificity.value
    (0.29, 1.0, 1.0)
    """
    _check(positive, name, rule, wished)
    threshold = 0.5 if rule == "half" else _between(probability, positive, rule, wished or 1.0)
    called = probability >= threshold
    return OperatingPoint(
        name,
        threshold,
        _in_words(rule, wished),
        share_interval(int(called[positive].sum()), int(positive.sum())),
        share_interval(int((~called)[~positive].sum()), int((~positive).sum())),
        len(positive),
        on,
    )


def _check(positive: Bool[np.ndarray, " n"], name: str, rule: Rule, wished: float | None) -> None:
    if positive.all() or not positive.any():
        side = "without" if positive.all() else "with"
        raise ConfigError(
            f"an operating point needs slides with and without {name!r}, and none of {len(positive)} is {side}",
            remedy="add such slides",
        )
    if rule in ("sensitivity", "specificity") and not (wished is not None and 0 < wished <= 1):
        raise ConfigError(
            f"a {rule} of {wished} is wished for; it must be above 0 and at most 1", remedy="0.95 is usual"
        )
    if rule == "cost" and not (wished is not None and 0 < wished < math.inf):
        raise ConfigError(
            f"a missed {name!r} is to cost {wished} times a false alarm; it must be a number above 0",
            remedy="give how many false alarms one missed slide is worth, 10 for example",
        )


def _between(
    probability: Float64[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], rule: Rule, wished: float
) -> float:
    """The threshold: of one in each gap between different probabilities, and one beyond each end, the best."""
    from scipy.special import logit  # takes a while to import

    below, above, candidates = _candidates(probability)
    sensitivity = (probability[positive] >= candidates[:, None]).mean(1)
    specificity = (probability[~positive] < candidates[:, None]).mean(1)
    share = positive.mean()
    worth = {
        "youden": lambda: sensitivity + specificity,
        "cost": lambda: wished * share * sensitivity + (1 - share) * specificity,
        # What keeps the wish is worth more than what does not; beyond it, more of it is worth nothing.
        "sensitivity": lambda: 2.0 * (sensitivity >= wished - 1e-12) + specificity,
        "specificity": lambda: 2.0 * (specificity >= wished - 1e-12) + sensitivity,
    }[rule]()
    best = np.flatnonzero(worth >= worth.max() - 1e-12)
    # Of equals the one nearest to one half; of a gap that holds it, one half itself.
    if ((below[best] < 0.5) & (above[best] >= 0.5)).any():
        return 0.5
    return float(candidates[best[np.argmin(np.abs(logit(candidates[best])))]])


def _candidates(probability: Float64[np.ndarray, " n"]) -> tuple[Float64[np.ndarray, " m"], ...]:
    """Of every gap between different probabilities its ends and the middle, in logits; likewise beyond both ends."""
    from scipy.special import expit, logit

    values = np.unique(probability)
    edges = np.concatenate([[-FARTHEST - 2], logit(values).clip(-FARTHEST, FARTHEST), [FARTHEST + 2]])
    middles = expit((edges[1:] + edges[:-1]) / 2)
    below, above = np.insert(values, 0, 0.0), np.append(values, 1.0)
    # Of what is too close, or too near to 0 or 1, the least number above the lower end parts it as well.
    between = (middles > below) & (middles <= above)
    candidates = np.where(between, middles, np.nextafter(below, 1))
    possible = (candidates > 0) & (candidates < 1)
    return below[possible], above[possible], candidates[possible]


def _in_words(rule: Rule, wished: float | None) -> str:
    return {
        "half": "one half",
        "youden": "Youden's index",
        "sensitivity": f"sensitivity of at least {wished}",
        "specificity": f"specificity of at least {wished}",
        "cost": f"a missed one costs {wished} times a false alarm",
    }[rule]
