"""Settings that make no sense: each is an error that names the setting, its value and the rule, at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from tests.support.commands import run
from wsi_ats.config import MOST_BYTES, Config, load_config
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.model_folder import load_model, model_hash
from wsi_ats.tasks.settings import TaskSettings


def numbers(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Names of all settings that are numbers."""
    for name, field in section.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from numbers(field.annotation, f"{prefix}{name}.")
        elif {int, float} & {*kinds}:
            yield prefix + name


NUMBERS = [*numbers(Config), *(f"tasks.x.{name}" for name in numbers(TaskSettings))]


def test_the_list_is_whole() -> None:
    assert {"tile.px", "view.mpp", "attention.stride", "features.mpp", "train.lr", "tasks.x.strength"} <= {
        *NUMBERS
    }
    assert len(NUMBERS) > 35


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e300", "-1", "9" * 100, "0x" + "f" * 10_000])
def test_every_number_has_bounds(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"{name}={value}"])
    assert name in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tile.px=1e6", "tile.px = 1000000.0: Input should be less than or equal to 4096"),
        ("view.mpp=inf", "view.mpp = inf: Input should be a finite number"),
        (
            "attention.stride=1e9",
            "attention.stride = 1000000000.0: Input should be less than or equal to 1024",
        ),
        ("tile.px.x=3", "tile.px"),
        ("train.seed=" + "9" * 10_000, "train.seed"),
        ("train.epochs=" + "[" * 100_000, "train.epochs"),
        ("features.mean=[nan, 0, 0]", "features.mean.0 = nan"),
        (".".join("a" * 1000) + "=1", "a = "),
        ("a.b.c.d=1", "a = {'b': {'c': {'d': 1}}}: there is no such setting"),
        ("train.=1", "not of the form"),
        ("tasks.x.class_weights={a=1e300}", "class_weights"),
    ],
)
def test_what_is_wrong_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert said in caught.value.message
    assert len(caught.value.message) < 2000


def test_a_setting_below_one_that_is_no_section() -> None:
    with pytest.raises(ConfigError, match=r"setting tile\.px\.x: px is 32, not a section"):
        load_config(None, ["tile.px=32", "tile.px.x=3"])


FILES = {
    "nested arrays": "a = " + "[" * 100_000,
    "nested tables": "a = " + "{a = " * 100_000,
    "dotted key": ".".join("a" * 100_000) + " = 1",
    "long number": "[train]\nepochs = " + "9" * 10_000,
    "large": "# " + "x" * (MOST_BYTES + 1),
    "not text": "\udcff",
    "section that is a number": "train = 3",
    "keys": "\n".join(f"[a{i}]" for i in range(3000)),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_make_no_sense(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(FILES[kind].encode("utf-8", "surrogateescape"))
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=r"c\.toml") as caught:
        load_config(path)
    assert time.monotonic() - begun < 10
    assert len(caught.value.message) < 10_000


def test_the_command_line_says_it_in_few_lines() -> None:
    result = run("config", "--set", "tile.px=1e6", "--set", "view.mpp=inf", status=2)
    assert "tile.px = 1000000.0" in result.stderr
    assert "view.mpp = inf" in result.stderr


def damaged(trained: Path, tmp_path: Path, change: Any) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(trained / "model", folder)
    settings = folder / "config.toml"
    settings.write_text(change(settings.read_text()))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("px = 32", "px = 1000000"),
        lambda text: text.replace("px = 32", "px = inf"),
        lambda text: text + "\n[a]\nb = " + "[" * 100_000,
        lambda text: text + "\n# " + "x" * MOST_BYTES,
        lambda text: text.replace("[features]", "[other]") + "\n[[features]]\nx = 1",
        lambda text: (
            "train = 3\nfeatures = 4\n" + text.replace("[train]", "[x]").replace("[features]", "[y]")
        ),
        lambda text: text.replace("format = 3", "format = 2").replace("[train]", "[[train]]"),
        lambda text: text.replace("stride = 4", "stride = " + "9" * 5000),
    ],
)
def test_settings_of_a_model_that_make_no_sense(change: Any, trained: Path, tmp_path: Path) -> None:
    folder = damaged(trained, tmp_path, change)
    with pytest.raises((ConfigError, ModelError), match=r"config\.toml"):
        load_model(folder)
    assert len(model_hash(folder)) == 16
