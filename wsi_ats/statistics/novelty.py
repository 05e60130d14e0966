"""Novelty: whether a slide is like those that a model was trained on, told without a label.

A slide is described by the mean vector of the tiles that the model looked at and by the tones of its view. Each is
compared with a Gaussian around the training slides': inside the space of its main components by Mahalanobis' distance,
and beyond it by the length of what is left (the two parts of probabilistic PCA, M. Tipping, C. Bishop, J. R. Stat. Soc.
B 61, 1999; as a detector of the strange: K. Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution
Samples", NeurIPS 2018). The limit is a rank among slides that the Gaussian was not fitted to, which keeps the rate of
false alarms whatever the true distribution is (split conformal prediction: V. Vovk et al., "Algorithmic Learning in a
Random World", 2005), on slides of the same kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

RATE = 0.05
"""Share of slides like the training slides that are to be flagged at most."""
LEAST = math.ceil(1 / RATE) - 1
"""Least number of slides whose largest distance is a limit for that rate."""
MOST_AXES = 32
"""Components of the tiles' vectors that distances are measured along, at most."""
EXPLAINED = 0.95
"""Share of the variance that the components are to hold, where that takes no more than a fifth of the slides."""
FOLDS = 10
"""Parts that slides are left out in where there are too few that were not trained on."""
TILE_UNIT = 1e-3
"""Difference in a unit vector's coordinate that means nothing."""


@dataclass(frozen=True, eq=False)
class Description:
    """A slide in numbers, by which slides are compared."""

    tiles: Float32[np.ndarray, " D"]
    """Mean vector of the drawn tiles, as the attention weighs them."""
    spread: Float32[np.ndarray, " D"]
    """Variance of the tiles' vectors about it."""
    count: float
    """Number of tiles of equal weight whose mean would be as noisy."""
    tones: Float64[np.ndarray, " T"]
    """Tones of the view, in units that mean nothing yet."""


@dataclass(frozen=True)
class Unlike:
    """How unlike the training slides a slide is."""

    score: float
    """Distance from the training slides as a multiple of the limit: above 1 the slide is flagged."""
    parts: tuple[str, ...]
    """What is beyond the limit: "tones", "tiles"; empty where the slide is not flagged."""
    rank: int
    """The limit is the distance of this rank, from the smallest, ..."""
    slides: int
    """... of so many slides like the training slides."""

    @property
    def notes(self) -> tuple[str, ...]:
        """A clause where the slide is flagged."""
        return (f"unlike the training slides: {' and '.join(self.parts)}",) if self.parts else ()


@dataclass(frozen=True, eq=False)
class Cloud:
    """A Gaussian of few components around points (n, D)."""

    mean: Float64[np.ndarray, " D"]
    axes: Float64[np.ndarray, "k D"]
    variances: Float64[np.ndarray, " k"]
    """Variance along each axis."""
    beyond: float
    """Variance of all that is not along the axes; 0 where they span everything."""

    @classmethod
    def around(cls, points: Float[np.ndarray, "n D"], unit: float, most: int) -> Cloud:
        """The cloud of n points: at most `most` axes, the variance of `unit` added along each coordinate."""
        n, dim = points.shape
        mean = points.mean(0, dtype=np.float64)
        _, lengths, axes = np.linalg.svd(points - mean, full_matrices=False)
        power = lengths**2 / max(n - 1, 1)
        enough = int(np.searchsorted(np.cumsum(power), EXPLAINED * power.sum())) + 1
        k = min(most, enough if dim > most else dim, max(n - 1, 1), len(axes))
        return cls(mean, axes[:k], power[:k] + unit**2, float(power[k:].sum() + max(dim - k, 0) * unit**2))

    def distances(
        self, points: Float[np.ndarray, "n D"], noise: Float64[np.ndarray, "n D"] | float = 0.0
    ) -> Float64[np.ndarray, "n 2"]:
        """Squared distances (n, 2) of points, along the axes and beyond them; about 1 where the cloud is.

        noise: variance of the coordinates that points have beside that of the cloud.
        """
        away = points - self.mean
        along = away @ self.axes.T
        noise = np.broadcast_to(noise, points.shape)
        noise_along = noise @ (self.axes**2).T
        inside = (along**2 / (self.variances + noise_along)).mean(1)
        left = np.maximum((away**2).sum(1) - (along**2).sum(1), 0)
        left_noise = np.maximum(noise.sum(1) - noise_along.sum(1), 0)
        beyond = left / (self.beyond + left_noise) if self.beyond else np.zeros(len(points))
        return np.stack([inside, beyond], axis=1)


@dataclass(frozen=True, eq=False)
class Reference:
    """The slides that a model was trained on, as far as that takes to tell others from them."""

    tiles: Cloud
    tones: Cloud
    spread: Float64[np.ndarray, " D"]
    """Mean variance of the tiles' vectors within a slide."""
    count: float
    """Mean number of equal tiles (`Description.count`) that the cloud's points are means of."""
    scales: Float64[np.ndarray, " 4"]
    """What the four squared distances are divided by, tones' first."""
    limit: float
    """The largest of these quotients that is not flagged."""
    rank: int
    slides: int
    """The limit has this rank among so many slides."""

    def judge(self, description: Description) -> Unlike:
        """How unlike the training slides the slide so described is. Raises `ValueError` for other sizes."""
        found = self._quotients([description])[0] / self.limit
        parts = tuple(
            name for name, pair in zip(("tones", "tiles"), found.reshape(2, 2), strict=True) if pair.max() > 1
        )
        return Unlike(float(np.sqrt(found.max())), parts, self.rank, self.slides)

    def _quotients(self, descriptions: Sequence[Description]) -> Float64[np.ndarray, "n 4"]:
        found = _distances(self.tiles, self.tones, self.spread, self.count, descriptions)
        return np.asarray(found / self.scales)

    def to_arrays(self) -> dict[str, Float64[np.ndarray, " ..."]]:
        """Arrays by name, for a model folder."""
        clouds = {"tiles": self.tiles, "tones": self.tones}
        return {
            **{
                f"{name}.{key}": np.asarray(v, np.float64)
                for name, c in clouds.items()
                for key, v in vars(c).items()
            },
            "spread": self.spread,
            "scales": self.scales,
            "limit": np.array([self.limit, self.count, self.rank, self.slides], np.float64),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Float64[np.ndarray, " ..."]]) -> Reference:
        """The reference of these arrays. Raises `KeyError` or `ValueError` where they cannot be one."""
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
        tiles, tones = (_cloud_of(arrays, name) for name in ("tiles", "tones"))
        limit, count, rank, slides = arrays["limit"].tolist()
        spread, scales = arrays["spread"], arrays["scales"]
        if spread.shape != tiles.mean.shape or scales.shape != (4,) or (scales <= 0).any():
            raise ValueError(f"spread has shape {spread.shape} and scales {scales}")
        if not (limit > 0 and count > 0 and 1 <= rank <= slides):
            raise ValueError(f"limit {limit}, of rank {rank} of {slides}, of {count} tiles")
        return cls(tiles, tones, spread, count, scales, limit, int(rank), int(slides))


def fit_reference(trained: Sequence[Description], others: Sequence[Description]) -> Reference | None:
    """The reference of the slides `trained` on, with the limit that `others` of the same kind set.

    Where the others are fewer than `LEAST`, the limit is set by all slides, each compared with the other nine of ten
    parts of them. None where even these are fewer.

    >>> rng = np.random.default_rng(0)
    >>> def slides(n, shift=0.0):
    ...     points = rng.normal(shift, 1, (n, 3))
    ...     return [Description(np.float32(p), np.ones(3, np.float32), 32.0, np.float64(p)) for p in points]
    >>> reference = fit_reference(slides(60), slides(39))
    >>> reference.rank, reference.slides
    (38, 39)
    >>> sum(bool(reference.judge(s).parts) for s in slides(1000)) < 100
    True
    >>> reference.judge(slides(1, shift=20)[0]).parts
    ('tones', 'tiles')
    """
    every = [*trained, *others]
    if min(len(trained), len(every) // 2) < 2 or len(every) < LEAST:
        return None
    if len(others) >= LEAST:
        base = list(trained)
        apart = _distances(*_clouds(base), others)
    else:
        base = every
        apart = np.concatenate(
            [
                _distances(
                    *_clouds([d for i, d in enumerate(every) if i % FOLDS != fold]), every[fold::FOLDS]
                )
                for fold in range(FOLDS)
                if every[fold::FOLDS]
            ]
        )
    scales = np.maximum(np.quantile(apart, 0.9, axis=0), 1e-12)
    worst = np.sort((apart / scales).max(1))
    rank = math.ceil((len(worst) + 1) * (1 - RATE) - 1e-9)
    tiles, tones, spread, count = _clouds(base)
    return Reference(tiles, tones, spread, count, scales, float(worst[rank - 1]), rank, len(worst))


def expected_rate(rank: int, slides: int) -> float:
    """Rate of false alarms to be expected of a limit that has `rank` among so many slides."""
    return (slides + 1 - rank) / (slides + 1)


def batch_p_value(flagged: int, judged: int, rank: int, slides: int) -> float:
    """Chance that so many or more of a batch are flagged where all are slides like the training slides.

    The rate of false alarms of a limit by rank is itself uncertain, Beta(slides + 1 - rank, rank), so their number is
    beta-binomial, exactly.

    >>> round(batch_p_value(1, 20, 38, 39), 2), batch_p_value(10, 20, 38, 39) < 1e-4
    (0.57, True)
    """
    from scipy.stats import betabinom  # here: it takes a while to import

    return float(betabinom.sf(flagged - 1, judged, slides + 1 - rank, rank)) if flagged else 1.0


def _clouds(slides: Sequence[Description]) -> tuple[Cloud, Cloud, Float64[np.ndarray, " D"], float]:
    """Clouds of the slides' tiles and tones, the tiles' spread within a slide, and the number of equal tiles."""
    tiles, tones = np.stack([s.tiles for s in slides]), np.stack([s.tones for s in slides])
    spread = np.asarray(np.mean([s.spread for s in slides], axis=0, dtype=np.float64))
    most = min(MOST_AXES, max(1, len(slides) // 5))
    # The harmonic mean: what adds up is the variance of the means.
    count = len(slides) / sum(1 / s.count for s in slides)
    # As many axes as there are tones: what is left of them has nothing to be compared with.
    return Cloud.around(tiles, TILE_UNIT, most), Cloud.around(tones, 1.0, tones.shape[1]), spread, count


def _distances(
    tiles: Cloud,
    tones: Cloud,
    spread: Float64[np.ndarray, " D"],
    count: float,
    slides: Sequence[Description],
) -> Float64[np.ndarray, "n 4"]:
    """Squared distances (n, 4): of tones along axes and beyond, of tiles along axes and beyond.

    A mean of fewer tiles than those of the cloud is noisier, and that much farther away.
    """
    for slide in slides:
        if slide.tiles.shape != tiles.mean.shape or slide.tones.shape != tones.mean.shape:
            raise ValueError(
                f"a description of {slide.tiles.shape} and {slide.tones.shape} numbers; the reference has "
                f"{tiles.mean.shape} and {tones.mean.shape}"
            )
    more = np.maximum([1 / slide.count - 1 / count for slide in slides], 0)[:, None]
    of_tiles = tiles.distances(np.stack([s.tiles for s in slides]).astype(np.float64), more * spread)
    return np.concatenate([tones.distances(np.stack([s.tones for s in slides])), of_tiles], axis=1)


def _cloud_of(arrays: Mapping[str, Float64[np.ndarray, " ..."]], name: str) -> Cloud:
    mean, axes, variances, beyond = (
        arrays[f"{name}.{key}"] for key in ("mean", "axes", "variances", "beyond")
    )
    if mean.ndim != 1 or axes.shape != (*variances.shape, *mean.shape) or beyond.size != 1:
        raise ValueError(f"{name}: shapes {mean.shape}, {axes.shape}, {variances.shape} do not fit")
    if (variances <= 0).any() or beyond.item() < 0:
        raise ValueError(f"{name}: variances must be above 0")
    return Cloud(mean, axes, variances, float(beyond.item()))
