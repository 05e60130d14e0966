"""How slides are predicted in a batch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from wsi_ats.config import config_hash
from wsi_ats.errors import ConfigError

RESULT_FORMAT = 2
"""Raised when the files of a slide change so that older ones must be made again."""


@dataclass(frozen=True)
class PredictSettings:
    """Everything beside the model and the slide that a slide's files depend on."""

    tiles: int = 64
    """Tiles to read a slide."""
    sampler: str = "systematic"
    """Name of the sampler; "all" reads every tissue tile."""
    repeats: int = 4
    """Independent rounds the tiles are drawn in."""
    seed: int = 0
    heatmap: bool = True
    """Write heatmap.png."""
    mpp: float | None = None
    """Micrometres per pixel of slides for which the manifest gives none; None: as the slide says."""
    tolerate_bad_tiles: int = 0
    """Damaged tiles a slide that are read as background; at the next one the slide fails."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("tiles", self.tiles, 1),
            ("repeats", self.repeats, 1),
            ("seed", self.seed, 0),
            ("tolerate_bad_tiles", self.tolerate_bad_tiles, 0),
        ):
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        if self.mpp is not None and not 0 < self.mpp < 1000:
            raise ConfigError(f"mpp is {self.mpp}; it must be a positive number of micrometres per pixel")

    def hash(self, model_hash: str) -> str:
        """Hash of these settings and the model: results of another one are not taken for done."""
        return config_hash(str(RESULT_FORMAT), model_hash, json.dumps(asdict(self), sort_keys=True))
