from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from wsi_ats.config import Config, config_hash, load_config, parse_config, save_config, template
from wsi_ats.errors import ConfigError


def test_the_template_is_the_defaults_and_explains_every_setting() -> None:
    text = template()
    assert parse_config(tomllib.loads(text), "template") == Config()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line


def test_saved_settings_are_read_back(tmp_path: Path) -> None:
    config = load_config(None, ["view.downsample=16", "features.network=paper", "train.epochs=3"])
    save_config(config, tmp_path / "c.toml")
    assert load_config(tmp_path / "c.toml") == config
    assert config.view.mpp is None
    assert config.features.network == "paper"


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[train]\nepochs = 3\nbatch = 2\n")
    config = load_config(tmp_path / "c.toml", ["train.epochs=7"])
    assert (config.train.epochs, config.train.batch) == (7, 2)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=3", ["train.epoch", "no such setting"]),
        ("train.epochs=0", ["train.epochs", "0", "greater than or equal to 1"]),
        ("train.epochs=many", ["train.epochs", "many"]),
        ("view.downsample=0.5", ["view.downsample", "0.5"]),
        ("sampling.sampler=top", ["sampling.sampler", "top", "systematic"]),
        ("features.weights=w.npz", ["features", "w.npz", "takes none"]),
        ("epochs=3", ["epochs=3", "section.key=value"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_the_rule(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    for word in words:
        assert word in str(caught.value)


def test_mpp_and_downsample_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exactly one of mpp"):
        load_config(None, ["tile.mpp=0.5", "tile.downsample=2"])


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("view = [")
    with pytest.raises(ConfigError, match=r"bad\.toml is not TOML"):
        load_config(tmp_path / "bad.toml")


def test_the_hash_tells_parts_apart() -> None:
    assert config_hash("ab", "c") != config_hash("a", "bc")
    assert config_hash("ab", "c") == config_hash("ab", "c")


def test_the_example_configurations_are_valid() -> None:
    folder = Path(__file__).parents[1] / "pipelines" / "configs"
    for path in sorted(folder.glob("*.toml")):
        assert load_config(path) != Config() or path.stem == "20x"


def test_a_setting_that_was_renamed_is_told_by_its_new_name() -> None:
    with pytest.raises(ConfigError, match=r"train\.proposal = 0\.2: it is called train\.attention_loss now"):
        load_config(None, ["train.proposal=0.2"])
    with pytest.raises(ConfigError, match=r"setting\(s\): train\.embed_all is true"):
        load_config(None, ["train.embed_all=true"])


@pytest.mark.parametrize(
    ("overrides", "epochs"),
    [
        ((), 0),  # a network that learns
        (("features.network=mobilenet-v1",), 20),
        (("features.network=mobilenet-v1", "train.epochs=1"), 0),
        (("features.network=mobilenet-v1", "train.warm_up=3"), 3),
        (("features.network=mobilenet-v1", "sampling.refined=false"), 0),
        (("features.network=mobilenet-v1", "sampling.uniform=true"), 0),
        (("features.network=mobilenet-v1", "sampling.sampler=all"), 0),
    ],
)
def test_warm_up_is_half_of_the_epochs_where_frozen_features_refine_a_draw(
    overrides: tuple[str, ...], epochs: int
) -> None:
    assert load_config(overrides=overrides).warm_up == epochs
