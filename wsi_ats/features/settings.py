"""Settings of the feature network."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from wsi_ats.catalogue import FEATURE_NETWORKS, FeatureEntry, one_of
from wsi_ats.settings import Section

Normal = Annotated[float, Field(ge=-1000, le=1000)]
"""A mean or standard deviation of RGB."""
Network = Annotated[str, AfterValidator(one_of(FEATURE_NETWORKS))]


class FeatureSettings(Section):
    """The feature network: tile -> vector of unit length. docs/encoders.md has a table of them."""

    network: Network = "small-resnet"
    """small-resnet and paper train from scratch; the others are pretrained; huggingface, timm: any model of theirs."""
    width: int = Field(default=12, ge=4, le=1024, multiple_of=4)
    """Channels of the stem of small-resnet; its vectors have eight times as many entries."""
    weights: str | None = None
    """File or folder of pretrained weights, or hub:owner/name[@revision], which may download them."""
    frozen: bool | None = None
    """Keep the feature network fixed; by default pretrained networks are frozen and the others are trained."""
    open_blocks: int = Field(default=0, ge=0, le=1000)
    """Train only the last so many blocks of a pretrained network, and what comes after them."""
    checkpointing: bool = False
    """Compute the activations of trained blocks twice instead of keeping them: less memory, more time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's arithmetic, in training and prediction alike; bfloat16 takes about half the time and
    memory on newer GPUs and processors, and moves answers a little. Attention and draws stay as they are."""
    pooling: Literal["cls", "mean", "cls+mean"] | None = None
    """Tokens -> vector, as the model's card says (huggingface, timm): the class token, the mean patch, or both."""
    input_px: int | None = Field(default=None, ge=1, le=4096)
    """Side of the tiles that an exported program takes."""
    mpp: float | None = Field(default=None, ge=0.01, le=1000)
    """Micrometres per pixel that the encoder was trained at, where its name does not tell; unset: any."""
    mean: tuple[Normal, Normal, Normal] | None = None
    """Mean of RGB in [0, 1] that the encoder expects taken off; resnet: ImageNet's by default."""
    std: tuple[Normal, Normal, Normal] | None = None
    """Standard deviation that it expects divided by, with `mean`."""
    any_scale: bool = False
    """Take tiles of another size (resized) or mpp than the encoder was trained on."""
    trust: bool = False
    """Allow an exported program to be loaded: such a file can run any code. Only for files you trust."""
    embed: bool | None = None
    """Copy the encoder's weights into the model folder; by default large frozen encoders are referred to by hash."""

    @field_validator("weights", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return fspath(value) if isinstance(value, PathLike) else value

    @model_validator(mode="after")
    def _only_what_the_network_takes(self) -> FeatureSettings:
        for name, field in type(self).model_fields.items():
            networks = sorted(other for other, entry in FEATURE_NETWORKS.items() if name in entry.takes)
            value = getattr(self, name)
            if networks and value != field.default and self.network not in networks:
                raise ValueError(
                    f"{name} is {value}, but network {self.network!r} takes none; these do: {', '.join(networks)}"
                )
        return self

    @model_validator(mode="after")
    def _together(self) -> FeatureSettings:
        if self.open_blocks and self.frozen is not None:
            raise ValueError(
                f"frozen is {self.frozen} and open_blocks is {self.open_blocks}: give one of them"
            )
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"give mean (is {self.mean}) and std (is {self.std}) together")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; it must be above 0")
        if self.network == "exported" and self.frozen is False:
            raise ValueError("frozen is False, but network 'exported' cannot be trained")
        if self.embed is False and not self.is_frozen:
            raise ValueError("embed is False, but an encoder that is trained has weights of its own to keep")
        return self

    @property
    def _entry(self) -> FeatureEntry:
        return FEATURE_NETWORKS[self.network]

    @property
    def is_frozen(self) -> bool:
        """Whether no weight of the network is trained."""
        if self.frozen is not None:
            return self.frozen
        return not self._entry.from_scratch and not self.open_blocks

    @property
    def fingerprint(self) -> str:
        """The settings that, beside its weights, decide what the network makes of a tile."""
        usual = {"precision"} if self.precision == "float32" else set()  # features that are kept stay valid
        return self.model_dump_json(
            exclude={"weights", "frozen", "open_blocks", "checkpointing", "trust", "embed"} | usual
        )

    @property
    def is_embedded(self) -> bool:
        """Whether the model folder holds the network's weights."""
        if self.embed is not None:
            return self.embed
        return not self._entry.large or not self.is_frozen
