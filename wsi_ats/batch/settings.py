"""Settings of how slides are predicted in a batch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from wsi_ats.arguments import positive_number, whole_number
from wsi_ats.config import config_hash
from wsi_ats.errors import ConfigError
from wsi_ats.reading import Reading

By = Literal["slide", "patient"]

RESULT_FORMAT = 4
"""Number of the files' format, raised when they change so that older ones must be made again."""


@dataclass(frozen=True)
class PredictSettings(Reading):
    """Settings of prediction: all beside model and slide that a slide's files depend on: how it is read, what is
    written."""

    heatmap: bool = True
    """Whether heatmap.png is written."""
    mpp: float | None = None
    """Micrometres per pixel of slides that do not say; without effect on those that do."""
    override_mpp: float | None = None
    """Micrometres per pixel that win over what slides say, where the manifest has none; None: as the slide says."""
    by: By = "slide"
    """What there is one answer about."""
    tolerate_bad_tiles: int = 0
    """Number of damaged tiles a slide that are read as background; at the next one the slide fails."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("tolerate_bad_tiles", self.tolerate_bad_tiles, 0)
        if self.by not in get_args(By):
            raise ConfigError(
                f"by is {self.by!r}; it must be one of {', '.join(get_args(By))}",
                "leave it out for one answer a slide",
            )
        for name, mpp in (("mpp", self.mpp), ("override_mpp", self.override_mpp)):
            if mpp is not None:
                positive_number(name, mpp, " of micrometres per pixel")

    def hash(self, model_hash: str) -> str:
        """Hash of these settings and the model: results of another one are not taken for done."""
        return config_hash(str(RESULT_FORMAT), model_hash, json.dumps(asdict(self), sort_keys=True))
