"""`HeatmapStyle`: how a heatmap looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from matplotlib import colormaps

from wsi_ats.arguments import in_short
from wsi_ats.errors import ConfigError
from wsi_ats.geometry import Pair

Scale = Literal["log", "linear", "percentile"]
Panels = Literal["both", "attention", "contributions"]

TISSUE_MAP = "tissue"
"""Name of the default colour map: green to yellow, hues that no stain of H&E has."""


@dataclass(frozen=True)
class HeatmapStyle:
    """Style of a heatmap: how it looks."""

    size: int = 900
    """Longest side of the slide in each panel, px."""
    panels: Panels = "both"
    """Maps that are drawn: attention (where it looked), contributions (what decided), or both beside each other."""
    scale: Scale = "log"
    """Scale of the attention's colours. log and linear: multiples of the mean; percentile: rank among the tissue cells,
    as CLAM draws it (the upper half of the tissue is then always warm, whatever the attention)."""
    limits: Pair | None = None
    """Lowest and highest value of the attention's colours, in multiples or percent, so that pictures of several slides
    can be compared; None: 1x, or 0, to the slide's own highest, at least 10x."""
    contribution_limit: float | None = None
    """Contribution, for and against, at which the colours are full; None: the largest of the slide."""
    cmap: str = TISSUE_MAP
    """Colour map of the attention: `tissue` (green to yellow) or any of matplotlib."""
    alpha: float = 0.7
    """Opacity of the attention's colours over the tissue, 0 to 1."""
    blur: float = 0.0
    """Standard deviation, in cells, of a Gaussian blur of the attention within the tissue; 0 shows the cells as they
    are."""
    drawn: bool = True
    """Whether the tiles that were read are outlined."""
    dark: bool = False
    """Whether the words are light on dark."""

    def __post_init__(self) -> None:
        least = self.scale == "log"
        rules: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
            ("size", lambda px: 64 <= px <= 20_000, "from 64 to 20000"),
            ("panels", lambda name: name in get_args(Panels), f"one of {', '.join(get_args(Panels))}"),
            ("scale", lambda name: name in get_args(Scale), f"one of {', '.join(get_args(Scale))}"),
            ("limits", lambda pair: pair is None or _ascending(*pair), "two numbers from 0, the lower first"),
            ("limits", lambda pair: pair is None or pair[0] > 0 or not least, "above 0 on a log scale"),
            ("contribution_limit", lambda full: full is None or 0 < full < 1e9, "above 0"),
            ("alpha", lambda share: 0 <= share <= 1, "from 0 to 1"),
            ("blur", lambda cells: 0 <= cells < 1e6, "0 or more"),
            (
                "cmap",
                lambda name: name == TISSUE_MAP or name in colormaps,
                f"{TISSUE_MAP} or a colour map of matplotlib",
            ),
        )
        for name, holds, rule in rules:
            value = getattr(self, name)
            if not _holds(holds, value):
                usual = type(self).__dataclass_fields__[name].default
                raise ConfigError(
                    f"heatmap setting {name} is {in_short(value)}; it must be {rule}",
                    f"leave it away for the usual, {usual}",
                )


def _ascending(low: float, high: float) -> bool:
    return 0 <= low < high < 1e9


def _holds(rule: Callable[[Any], bool], value: object) -> bool:
    """Whether a rule holds; not of what it cannot be asked about, such as a text of a rule for numbers."""
    try:
        return rule(value)
    except TypeError:
        return False
