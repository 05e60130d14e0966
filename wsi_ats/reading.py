"""`Reading`, how a slide is read: how many tiles, drawn how, in how many rounds, and when it is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wsi_ats.arguments import not_negative, whole_number
from wsi_ats.catalogue import is_random, refuse_unknown_sampler
from wsi_ats.errors import ConfigError

TILES, REPEATS = 64, 4
"""A fixed reading, where nothing else is asked for: tiles, and the rounds that they are drawn in."""
ADAPTIVE_TILES, ADAPTIVE_REPEATS = 512, 8
"""An adaptive reading: tiles at most, rounds at least. The standard error of fewer rounds is hardly known."""
ROUND = TILES // ADAPTIVE_REPEATS
"""Tiles a round of an adaptive reading, so that the shortest costs what a fixed one does."""
GROWTH = 8
"""Rounds are looked at again when a GROWTH-th more have been drawn: each look is one more chance to stop by luck."""
MOST_ROUNDS = 1024
"""Most rounds: where attention is on a few cells, further ones find nothing new to read."""


@dataclass(frozen=True)
class Reading:
    """A reading: how a slide is to be read. Raises `ConfigError` where a slide cannot be read like that.

    >>> Reading.of(tiles=32)
    Reading(tiles=32, sampler='systematic', repeats=4, tolerance=None, seed=0)
    >>> Reading.of(tolerance=0.02).tiles
    512
    """

    tiles: int = TILES
    """Tiles to draw a slide; with a tolerance the most to read, for which `Reading.of` has a better default."""
    sampler: str = "systematic"
    """Name of the sampler; "all" reads every tissue tile."""
    repeats: int = REPEATS
    """Independent rounds the tiles are drawn in; with a tolerance the fewest."""
    tolerance: float | None = None
    """Standard error within which reading stops; None: `tiles` are drawn."""
    seed: int = 0
    """Seed of the draws, which depend on it and on the slide's name alone."""

    @classmethod
    def of(
        cls,
        tiles: int | None = None,
        sampler: str = "systematic",
        seed: int = 0,
        repeats: int | None = None,
        tolerance: float | None = None,
    ) -> Reading:
        """A reading in which None stands for what suits a fixed or, with a tolerance, an adaptive one.

        Raises `ConfigError` where a slide cannot be read like that.
        """
        usual = (TILES, REPEATS) if tolerance is None else (ADAPTIVE_TILES, ADAPTIVE_REPEATS)
        tiles, repeats = (usual[0] if tiles is None else tiles), (usual[1] if repeats is None else repeats)
        return cls(tiles, sampler, repeats, tolerance, seed)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("tiles", self.tiles, 1),
            ("repeats", self.repeats, 1),
            ("seed", self.seed, 0),
        ):
            object.__setattr__(self, name, whole_number(name, value, least))
        refuse_unknown_sampler(self.sampler)
        if self.tolerance is not None:
            self._check_tolerance(self.tolerance)

    def _check_tolerance(self, tolerance: float) -> None:
        not_negative("tolerance", tolerance, "start with 0.02")
        if not is_random(self.sampler):
            raise ConfigError(
                f"tolerance is {tolerance} and the sampler {self.sampler}, which draws nothing at random: no spread to "
                "judge",
                "leave the tolerance away, or use the sampler systematic",
            )
        if min(self.tiles, self.repeats) < 2:
            raise ConfigError(
                f"tolerance is {tolerance}, with tiles {self.tiles} and repeats {self.repeats}: one round alone has no "
                "spread",
                "give at least 2 of both",
            )

    @property
    def shortest(self) -> int:
        """Number of tiles that are drawn at least."""
        return self.tiles if self.tolerance is None else self.repeats * self._round

    @property
    def _round(self) -> int:
        return min(ROUND, max(1, self.tiles // self.repeats))

    def plan(self, *, few: bool = False) -> Plan:
        """The plan for a slide: one round where a draw is not random or, `few`, the shortest one takes every cell."""
        repeats = min(self.repeats, self.tiles)
        if few or not is_random(self.sampler):
            return Plan(self.tiles, 1, self.tiles, None)
        size = self.tiles // repeats if self.tolerance is None else self._round
        return Plan(size, repeats, self.tiles, self.tolerance)


@dataclass(frozen=True)
class Plan:
    """`first` rounds of `size` tiles each; with a tolerance more of them, while a budget of `tiles` lasts."""

    size: int
    first: int
    tiles: int
    tolerance: float | None

    def more(self, rounds: int, read: int, stderr: float, exceeds: Callable[[int], bool]) -> int:
        """Number of rounds to draw after so many, by which `read` tiles are known; 0 where that is all.

        A round is drawn only where the budget has room for all its tiles: to draw it first and leave it out where it
        is too much would favour rounds that find little new. `exceeds` says whether there are more tissue cells than
        so many.
        """
        if rounds == 0:
            return self.first
        if not self.falls_short(rounds, stderr):
            return 0
        room = min((self.tiles - read) // self.size, MOST_ROUNDS - rounds)
        more = min(rounds // GROWTH or 1, room)
        if more <= 0:
            return 0
        # To read all of a slide is better than to draw from it more often than it has cells.
        return more if exceeds(min((rounds + more) * self.size - 1, self.tiles)) else 0

    def falls_short(self, rounds: int, stderr: float) -> bool:
        """Whether there is a tolerance that so many rounds do not keep."""
        return self.tolerance is not None and not is_settled(stderr, rounds, self.tolerance)


def is_settled(stderr: float, rounds: int, tolerance: float) -> bool:
    """Whether the standard error (the largest of an answer's values) is within the tolerance; nan is not.

    What it may itself be off by, a factor of 1 + 1 / sqrt(2 (rounds - 1)), is added: a rule that looks again and
    again stops where the spread happens to come out small.
    """
    return rounds > 1 and stderr * (1 + (2 * (rounds - 1)) ** -0.5) <= tolerance
