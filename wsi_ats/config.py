"""Settings of a model and of its training: one schema, read from TOML and written back to it.

Every field says what it means and why its default is what it is; `template()` writes these words as comments, so
that a configuration file and the schema cannot drift apart. All lengths are in micrometres per pixel (mpp) or in
level-0 pixels per pixel (downsample); a slide's own levels never appear.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, Field, ValidationError, model_validator

from wsi_ats.catalogue import ATTENTION_NETWORKS, SAMPLERS, is_random, one_of
from wsi_ats.errors import ConfigError
from wsi_ats.features.settings import FeatureSettings
from wsi_ats.regular import read_regular
from wsi_ats.settings import Section
from wsi_ats.tasks.settings import TaskSettings

RENAMED = {"train.proposal": "train.attention_loss"}
"""What settings are called that had another name."""
MIN_MPP, MAX_MPP = 0.01, 1000.0
"""Bounds of micrometres per pixel: a tenth of what light resolves, and a slide of a few dozen pixels."""
MAX_DOWNSAMPLE = 65_536
"""Level-0 pixels per pixel at most: a slide of a few pixels."""
MAX_SEED = 2**63 - 1
"""Largest seed that torch takes."""
DEEPEST = 64
"""Parts of a key; none here has more than three."""
MOST_SHOWN = 20
"""Wrong settings that are shown."""
LONGEST = 200
"""Letters of a wrong value that are shown."""
MOST_BYTES = 1 << 20
"""Bytes of a settings file; the template has 10,000."""
TRAINABLE = {name: entry for name, entry in SAMPLERS.items() if entry.trainable}
"""Samplers that a model can be trained with, by name."""


class Scale(Section):
    """Pixel size: either physical (`mpp`) or relative to the slide's level 0 (`downsample`)."""

    mpp: float | None = Field(default=None, ge=MIN_MPP, le=MAX_MPP)
    """Micrometres per pixel; needs slides that state their mpp."""
    downsample: float | None = Field(default=None, ge=1, le=MAX_DOWNSAMPLE)
    """Level-0 pixels per pixel; for slides without mpp."""

    @model_validator(mode="before")
    @classmethod
    def _downsample_replaces_default_mpp(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("downsample") is not None and "mpp" not in values:
            return {**values, "mpp": None}
        return values

    @model_validator(mode="after")
    def _exactly_one(self) -> Scale:
        if (self.mpp is None) == (self.downsample is None):
            raise ValueError(f"give exactly one of mpp (is {self.mpp}) and downsample (is {self.downsample})")
        return self


class SlideSettings(Section):
    """How slides are opened, in training and in prediction alike."""

    srgb: bool = False
    """Turn colours to sRGB by the ICC profile of each slide, where it has one: scanners then look more alike. A model
    must see the colours that it has learned from, so this is part of it."""


class ViewSettings(Scale):
    """The low-resolution view that the attention network sees."""

    mpp: float | None = Field(default=8.0, ge=MIN_MPP, le=MAX_MPP)
    """Micrometres per pixel of the view: 8 shows nuclear density and architecture at 1/256 of 20x."""
    normalise: bool = False
    """Bring every slide's view to the same mean and spread of optical density over its tissue, colour by colour: where
    to look must not depend on stain and scanner."""
    block: int = Field(default=512, ge=1, le=8192)
    """Attention is computed in blocks of this many view pixels a side: memory is that of a block, not of a slide."""
    whole: int = Field(default=3072, ge=0, le=30_000)
    """Views of at most whole x whole pixels are kept in memory; larger ones are read again, a block at a time."""


class TissueSettings(Section):
    """The tissue mask on the view; cells outside it are never drawn."""

    method: Literal["saturation", "optical-density"] = "saturation"
    """What Otsu's threshold is taken of; optical-density keeps pale, unsaturated stains."""
    min_object: int = Field(default=64, ge=0, le=1_000_000)
    """Specks of tissue smaller than this many view pixels are dropped (dust)."""
    min_hole: int = Field(default=64, ge=0, le=1_000_000)
    """Holes in the tissue smaller than this many view pixels are filled (lumina, fat)."""
    min_fraction: float = Field(default=0.25, gt=0, le=1)
    """Share of a cell that tissue must cover for the cell to be drawn from."""
    pen: bool = True
    """Leave out marker ink: what is even and of a hue that haematoxylin and eosin never have. False: ink that is
    stained enough is tissue."""


class TileSettings(Scale):
    """The full-resolution tiles that the feature network sees."""

    px: int = Field(default=256, ge=16, le=4096)
    """Side of a tile in its own pixels."""
    mpp: float | None = Field(default=0.5, ge=MIN_MPP, le=MAX_MPP)
    """Micrometres per pixel of the tiles: 0.5 is 20x, where nuclei are resolved."""


class AttentionSettings(Section):
    """The attention network: view -> one logit a cell."""

    levels: Literal[1, 2] = 1
    """1: on the whole view; 2: first on a coarse view, by regions, and on the view inside the regions that are drawn
    (section regions), for very large slides: what is read then hardly grows with the slide."""
    network: Annotated[str, AfterValidator(one_of(ATTENTION_NETWORKS))] = Field(
        default="wide",
        description="; ".join(f"{name}: {entry.summary}" for name, entry in ATTENTION_NETWORKS.items()) + ".",
    )
    weights: str | None = None
    """Weights of mobilenet-v1, an npz file."""
    layer: str = "conv_pw_5"
    """Last layer of mobilenet-v1 that is used; conv_pw_5 has a cell for every 8 view px, which must divide stride."""
    width: int = Field(default=16, ge=1, le=1024)
    """Channels of the wide and the deep network, and between the 1x1 of mobilenet-v1."""
    stride: int = Field(default=16, ge=1, le=1024)
    """View pixels a cell. 16 at 8 um/px makes cells of 128 um, the size of a 256 px tile at 0.5 um/px."""
    smoothing: float = Field(default=1e-4, ge=0, lt=1)
    """a <- (1 - s) a + s / K: every tissue cell keeps a chance, so that attention cannot die."""

    @model_validator(mode="after")
    def _pretrained(self) -> AttentionSettings:
        if self.keeps_channels and self.levels == 2:
            raise ValueError(f"network {self.network!r} is for levels = 1; the others can look at two")
        if not self.keeps_channels and self.weights is not None:
            raise ValueError(f"weights is {self.weights!r}, but network {self.network!r} takes none")
        return self

    @property
    def keeps_channels(self) -> bool:
        """Whether what fixed layers make of a view is kept, so that the view need not be."""
        return ATTENTION_NETWORKS[self.network].pretrained


class RegionSettings(Section):
    """Two levels of attention: a coarse view proposes regions, the view is read inside those drawn alone."""

    side: int = Field(default=8, ge=1, le=256)
    """Cells a side of a region: 8 make it 1 mm wide."""
    shrink: int = Field(default=4, ge=1, le=256)
    """View pixels a side of a pixel of the coarse view: 4 make it 32 um/px."""
    px: int = Field(default=1024, ge=16, le=8192)
    """Most pixels a side of the coarse view: its pixels are doubled, and doubled again, on larger slides."""
    tiles: float = Field(default=1.0, gt=0, le=1000)
    """Tiles a region that is opened. At 1 a draw is about as good as on one level; more open fewer regions."""


class SamplingSettings(Section):
    """How tiles are drawn from the attention and how their features are averaged."""

    sampler: Annotated[str, AfterValidator(one_of(TRAINABLE))] = "systematic"
    """systematic has the lowest variance; gumbel and multinomial are the paper's; docs/estimators.md compares all."""
    tiles: int = Field(default=32, ge=1, le=1_000_000)
    """Tiles a slide and training step."""
    refined: bool = True
    """The full-resolution features re-weight the drawn tiles (attention MIL from a few); false: plain sampling."""
    prior: float = Field(default=1.0, ge=0, le=1)
    """How much the low resolution counts in the refined attention, a^prior exp(u). At 1 what it overlooks stays
    overlooked and what it prefers wins more of itself; at 0 it only proposes, and the estimate is noisier."""
    centre: bool = True
    """Subtract the summary from the features in the attention gradient: same value, far lower variance."""
    uniform: bool = False
    """Ignore the attention and draw tissue cells uniformly: the baseline, not a method."""


class HeadSettings(Section):
    """The classification head."""

    scale: float = Field(default=8.0, gt=0, le=1e4)
    """The summary of unit vectors is small; scaling it lets the head move at the same rate as the rest."""


class TrainSettings(Section):
    """The training loop."""

    by: Literal["slide", "patient"] = "slide"
    """What one answer is about: each slide, or each patient. By patient, attention is one distribution over the tissue
    of all slides of a patient, `sampling.tiles` are drawn from it, and labels are of patients; the tumour need not be
    on each of the slides."""
    members: int = Field(default=1, ge=1, le=100)
    """Networks that are trained, one after the other, each from a seed of its own, and answer together: the mean of
    their outputs, from the same drawn tiles. Right more often on tissue that training has not seen; training takes so
    many times as long, reading slides does not."""
    epochs: int = Field(default=40, ge=1, le=1_000_000)
    """Passes over the slides, at most; early stopping may end sooner."""
    warm_up: int | None = Field(default=None, ge=0, le=1_000_000)
    """Epochs at the start in which tiles are drawn uniformly and attention rests; by default half of the epochs where
    frozen features refine a random draw, else 0. Attention that learns early shows the score and the head the same few
    tiles of every slide; they learn these by heart, and slides of new tissue, which have others, get wrong answers."""
    patience: int = Field(default=12, ge=1, le=1_000_000)
    """Epochs without a better validation AUC before training stops, counted from the end of the warm-up."""
    batch: int = Field(default=4, ge=1, le=10_000)
    """Slides a step: few, since a cohort of 100 slides gives few steps an epoch. Of several processes, each takes so
    many."""
    accumulate: int = Field(default=1, ge=1, le=10_000)
    """Batches whose gradients are added up for a step: a larger batch in the memory of a smaller one."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Precision of the arithmetic of a training step: the mixed ones take less time and memory on a GPU that has them,
    16-mixed on a GPU alone. It is that of the attention network and of features that are learned; weights, draws,
    estimate, head, validation and predictions stay in full precision, and fixed features go by features.precision."""
    balanced: bool = False
    """Draw the slides of an epoch with replacement, such that the classes of the main task come equally often (weighted
    sampling); else each comes once. Like class weights it moves probabilities; calibration moves them back."""
    lr: float = Field(default=3e-3, gt=0, le=10)
    """Learning rate of features, score and head (AdamW); the rates fall to zero along a cosine over the epochs."""
    lr_attention: float = Field(default=1e-2, gt=0, le=10)
    """Learning rate of the attention network; its gradient is sampled and small, so it moves faster."""
    weight_decay: float = Field(default=1e-2, ge=0, le=100)
    """AdamW weight decay."""
    clip: float = Field(default=1.0, gt=0, le=1e6)
    """Gradient norm is clipped at this, as in the paper."""
    entropy: float = Field(default=0.0, ge=0, le=1000)
    """Strength of the entropy regulariser; more of it keeps attention flat for longer and learning slower."""
    attention_loss: float = Field(default=0.1, ge=0, le=1000)
    """Strength of the term that pulls attention toward the refined attention (beta in the method)."""
    shift: float = Field(default=0.0, ge=0, le=100)
    """Length of a random vector added to all (unit) tile vectors of a slide in a training step, as stain and scanner do
    to them; without it the head learns slides by heart from what their tiles share."""
    augment: bool = True
    """Flip and turn the tiles at random (not where frozen features are remembered)."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of patients kept for validation where the manifest has no `split` column."""
    val_tiles: int = Field(default=64, ge=1, le=1_000_000)
    """Tiles a slide at validation."""
    calibrate: bool = True
    """Fit an intercept, with 40 slides or more also a slope, on the validation slides, so that probabilities hold on
    slides that were not trained on; and choose the threshold and make the prediction sets of two classes there."""
    tolerate_bad_tiles: int = Field(default=0, ge=0, le=1_000_000)
    """Damaged tiles a slide that are learned from as background; at the next one the slide is left out."""
    cache_mb: int = Field(default=2048, ge=0, le=100_000_000)
    """Memory for views, tiles and frozen features that are met again in later epochs."""
    disk_mb: int = Field(default=8192, ge=0, le=100_000_000)
    """Disk, in `frozen-features` beside the run folder, for what frozen networks make of tiles and views: another run,
    fold, seed or head on the same slides then need not read them again; 0: none."""
    embed_all: bool = False
    """Make the frozen features of all tissue tiles before the first epoch, not only of those drawn: then no later run
    on these slides reads a tile. For slides with hundreds of tiles; on whole slides it takes hours."""
    read_ahead: bool = False
    """Draw the tiles of the next step with the attention of this one and read them meanwhile, in a thread. The weights
    of the draw keep the estimate unbiased; attention is computed once more a step. For a GPU that waits for tiles."""
    loggers: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """Where the figures of every epoch go beside log.csv, into the run's folder: tensorboard, mlflow (extras of these
    names). Nothing is sent anywhere."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Seed of initial weights, slide order, draws and splits."""


class AugmentSettings(Section):
    """Random changes of the tiles in training, beside train.augment; only where the features are learned."""

    stain: float = Field(default=0.0, ge=0, le=0.5)
    """Haematoxylin, eosin and the rest of every slide, in optical density: factors of 1 +- this and offsets of +- this
    (D. Tellez et al. 2019); .05 is light, .2 strong."""
    stain_vectors: Literal["usual", "own"] = "usual"
    """Which haematoxylin and eosin `stain` changes: the usual ones (Ruifrok and Johnston 2001), or each slide's own,
    found in the tiles of each step (Macenko et al. 2009)."""
    light: float = Field(default=0.0, ge=0, le=0.9)
    """Light of every slide: a factor of 1 +- this."""
    blur: float = Field(default=0.0, ge=0, le=10)
    """Blur of every slide: a Gaussian of standard deviation 0 to this, in tile pixels."""
    place: float = Field(default=0.0, ge=0, le=1)
    """Move every tile at random inside its cell, by up to half of this share of the cell each way: other pixels in
    every epoch, which are read anew, since none are met again."""


class Config(Section):
    """Everything that makes a model and its training."""

    slide: SlideSettings = SlideSettings()
    view: ViewSettings = ViewSettings()
    tissue: TissueSettings = TissueSettings()
    tile: TileSettings = TileSettings()
    attention: AttentionSettings = AttentionSettings()
    regions: RegionSettings = RegionSettings()
    sampling: SamplingSettings = SamplingSettings()
    features: FeatureSettings = FeatureSettings()
    head: HeadSettings = HeadSettings()
    train: TrainSettings = TrainSettings()
    augment: AugmentSettings = AugmentSettings()
    tasks: dict[str, TaskSettings] = Field(default_factory=dict)

    def of_member(self, number: int) -> Config:
        """Settings of one of the members of a model, which has a seed of its own; the first has that of the model."""
        if self.train.members == 1:
            return self
        # No two models of other seeds have a member in common.
        seed = (self.train.seed * self.train.members + number) % (MAX_SEED + 1)
        return self.model_copy(update={"train": self.train.model_copy(update={"members": 1, "seed": seed})})

    @property
    def warm_up(self) -> int:
        """Number of epochs in which tiles are drawn uniformly: `train.warm_up` or, without one, what suits the rest."""
        if self.train.warm_up is not None:
            return self.train.warm_up
        how = self.sampling
        drawn = how.refined and not how.uniform and is_random(how.sampler)
        return self.train.epochs // 2 if drawn and self.features.is_frozen else 0

    @model_validator(mode="after")
    def _embeds_what_is_frozen(self) -> Config:
        if self.train.embed_all and not self.features.is_frozen:
            raise ValueError(
                f"train.embed_all is true, but network {self.features.network!r} is trained: its features change; "
                "leave it false, or choose a network that is fixed"
            )
        return self

    @model_validator(mode="after")
    def _reads_ahead_on_one_level(self) -> Config:
        if self.train.read_ahead and self.attention.levels == 2:
            raise ValueError(
                "train.read_ahead is true and attention.levels is 2: which cells there are is known when their regions "
                "are drawn; leave it false, or take one level"
            )
        return self

    @model_validator(mode="after")
    def _changes_what_is_learned(self) -> Config:
        wished = [
            f"augment.{name} = {value:g}"
            for name, value in self.augment
            if isinstance(value, float) and value
        ]
        if wished and self.features.is_frozen:
            raise ValueError(
                f"{', '.join(wished)}, but network {self.features.network!r} is fixed: its features are made once and "
                "kept, so tiles cannot change; leave these 0 (train.shift moves what is kept), or choose a network "
                "that is trained"
            )
        return self


def load_config(path: Path | str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Settings from a TOML file and from `section.key=value` overrides, which win.

    Values of overrides are TOML (`train.epochs=5`, `tile.mpp=0.5`); what is not TOML is taken as a string.
    Raises `ConfigError` naming the setting, its value and the rule.

    >>> config = load_config(overrides=["train.epochs=5", "tile.downsample=2"])
    >>> config.train.epochs, config.tile.mpp, config.tile.downsample  # one scale replaces the other
    (5, None, 2.0)
    >>> load_config(overrides=["tile.px=8"])
    Traceback (most recent call last):
    ...
    wsi_ats.errors.ConfigError: the settings: 1 wrong setting(s): tile.px = 8: Input should be greater than ...
    """
    values = _read_toml(Path(path)) if path is not None else {}
    for override in overrides:
        _override(values, override)
    return parse_config(values, source=str(path) if path is not None else "the settings")


def parse_config(values: Mapping[str, Any], source: str) -> Config:
    """Validate plain nested values; `source` is named in errors."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()
        lines = [_complaint(e) for e in wrong[:MOST_SHOWN]] + ["..."] * (len(wrong) > MOST_SHOWN)
        raise ConfigError(
            f"{source}: {len(wrong)} wrong setting(s): " + "; ".join(lines),
            remedy="`wsi-ats config` prints every setting with its meaning",
        ) from None


def to_values(config: Config) -> dict[str, Any]:
    """Plain nested values for TOML or JSON; settings that are None are left out."""
    return config.model_dump(mode="json", exclude_none=True)


def differences(before: Config, now: Config) -> list[str]:
    """Words for every setting that is another one.

    >>> differences(Config(), load_config(None, ["train.batch=8", "tile.px=112"]))
    ['tile.px was 256 and is 112', 'train.batch was 4 and is 8']
    """
    old, new = (_flat(config.model_dump(mode="json")) for config in (before, now))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in sorted(names)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def save_config(config: Config, path: Path) -> None:
    """Write the settings as TOML."""
    path.write_text(tomli_w.dumps(to_values(config)), encoding="utf-8")


def template(config: Config | None = None) -> str:
    """Text of a TOML file with every setting, its value (default) and its meaning as a comment.

    >>> lines = template().splitlines()
    >>> for line in lines[lines.index("[tile]") :][:3]:
    ...     print(line)
    [tile]
    # Micrometres per pixel of the tiles: 0.5 is 20x, where nuclei are resolved.
    mpp = 0.5
    """
    return "\n".join(_template_lines(config or Config())) + "\n"


def config_hash(*parts: str) -> str:
    """Short stable hash (16 hex digits) of strings that together determine a result; their order counts.

    >>> config_hash("model 1", "tiles=64"), config_hash("model 1", "tiles=65")
    ('a3dc26d41e619c7c', '5f1b225568196de5')
    """
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def read_toml(path: Path | str) -> dict[str, Any]:
    """Values of a TOML file. Raises OSError where it cannot be read, ValueError where it is no TOML, or absurd."""
    text = read_regular(path, MOST_BYTES).decode("utf-8")
    return _parsed(text)


def holds_settings(path: Path | str) -> bool:
    """Whether a file is TOML that holds settings and nothing else, whatever their values.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     mine, other = Path(folder, "my.toml"), Path(folder, "pyproject.toml")
    ...     save_config(Config(), mine)
    ...     _ = other.write_text("[project]")
    ...     holds_settings(mine), holds_settings(other)
    (True, False)
    """
    try:
        values = read_toml(path)
    except (OSError, ValueError):
        return False
    return bool(values) and all(name in Config.model_fields for name in values)


def _parsed(text: str) -> dict[str, Any]:
    """Values of a TOML text. Raises ValueError."""
    # For a key of n parts, tomllib takes n^2 steps.
    if any(part.count(".") > DEEPEST for line in text.splitlines() for part in re.split("[=,]", line)):
        raise ValueError(f"a key in it has more than {DEEPEST} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _complaint(error: Mapping[str, Any]) -> str:
    name, value = ".".join(map(str, error["loc"])), error["input"]
    if error["type"] == "extra_forbidden":
        rule = f"it is called {RENAMED[name]} now" if name in RENAMED else "there is no such setting"
    else:
        rule = error["msg"].removeprefix("Value error, ")
    return f"{name} = {_short(value)}: {rule}" if name else rule


def _short(value: Any) -> str:
    """A value as it is written, but not all of what is huge or deep."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # whole numbers of more than 4,300 digits are not written
        return f"a {type(value).__name__} of absurd size"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _template_lines(config: Config) -> Iterator[str]:
    yield "# Settings of wsi-ats. Delete what you do not change: the defaults are in the schema."
    for name, section in config:
        if isinstance(section, Section):
            yield from _section_lines(name, section)
    for name, task in config.tasks.items():
        yield from _section_lines(f"tasks.{name}", task)
    if not config.tasks:
        lines = _section_lines("tasks.NAME", TaskSettings())
        yield from (f"# {line}" if line and not line.startswith("#") else line for line in lines)


def _section_lines(name: str, section: Section) -> Iterator[str]:
    yield ""
    yield f"# {(type(section).__doc__ or '').strip().splitlines()[0]}"
    yield f"[{name}]"
    for key, field in type(section).model_fields.items():
        value = section.model_dump(mode="json")[key]
        yield f"# {' '.join((field.description or '').split())}"
        yield f"# {key} =" if value is None else tomli_w.dumps({key: value}).strip()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except OSError as error:
        raise ConfigError(
            f"configuration file {path} cannot be read: {error.strerror}",
            remedy="check the path and its permissions",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"configuration file {path} is not TOML: {error}", remedy="`wsi-ats config` writes a correct one"
        ) from error


def _override(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    *sections, key = name.strip().split(".")
    if not (separator and sections and all(sections) and key):
        raise ConfigError(
            f"setting {override!r} is not of the form section.key=value", remedy="for example train.epochs=20"
        )
    for section in sections:
        inner = values.get(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"setting {name}: {section} is {_short(inner)}, not a section with settings of its own",
                remedy="write [section] with its settings below, as `wsi-ats config` does",
            )
        values[section] = dict(inner)
        values = values[section]
    values[key] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return _parsed(f"v = {text}")["v"]
    except (KeyError, ValueError):
        return text
