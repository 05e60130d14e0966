"""One table a kind of thing that can be chosen: every entry leads to code, and every place that names them follows."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import get_args

import pytest

from wsi_ats import catalogue
from wsi_ats.attention.make import make_attention
from wsi_ats.attention.networks import ConvAttention
from wsi_ats.catalogue import ATTENTION_NETWORKS, FEATURE_NETWORKS, SAMPLERS, TASK_KINDS, code_of
from wsi_ats.cli import main as cli
from wsi_ats.config import AttentionSettings, load_config
from wsi_ats.errors import ConfigError
from wsi_ats.features.published import PUBLISHED
from wsi_ats.features.settings import FeatureSettings
from wsi_ats.reading import Reading
from wsi_ats.tasks.answer import TaskSpec
from wsi_ats.tasks.make import make_tasks
from wsi_ats.tasks.settings import TaskSettings
from wsi_ats.tasks.task import Task

TABLES = (ATTENTION_NETWORKS, FEATURE_NETWORKS, TASK_KINDS)
PLACES = [entry.make for table in TABLES for entry in table.values()]


@pytest.mark.parametrize("place", sorted({*PLACES, *(entry.rule for entry in SAMPLERS.values())}))
def test_every_entry_names_code(place: str) -> None:
    assert callable(code_of(place))


@pytest.mark.parametrize(
    ("setting", "table"),
    [
        ("sampling.sampler", [name for name, entry in SAMPLERS.items() if entry.trainable]),
        ("attention.network", ATTENTION_NETWORKS),
        ("features.network", FEATURE_NETWORKS),
        ("tasks.x.kind", TASK_KINDS),
    ],
)
def test_what_is_not_in_the_table_is_refused_with_what_is(setting: str, table: list[str]) -> None:
    with pytest.raises(ConfigError, match=re.escape(setting)) as caught:
        load_config(None, [f"{setting}=nothing"])
    assert f"'nothing' cannot be chosen here; choose one of {', '.join(table)}" in caught.value.message


def test_help_names_the_samplers_but_those_of_research() -> None:
    told = str(get_args(cli.Sampler)[1].help)
    for name, entry in SAMPLERS.items():
        assert (entry.summary in told) != entry.research, name
    for name in SAMPLERS:
        assert Reading(sampler=name).sampler == name
    with pytest.raises(ConfigError, match="unknown sampler 'best'"):
        Reading(sampler="best")


def test_every_published_encoder_has_an_entry_for_its_library() -> None:
    for name, card in PUBLISHED.items():
        assert FEATURE_NETWORKS[name].make == FEATURE_NETWORKS[card.library].make, name


def test_settings_that_are_for_some_networks_exist() -> None:
    for entry in FEATURE_NETWORKS.values():
        assert entry.takes <= {*FeatureSettings.model_fields}


def test_an_attention_network_more_is_one_entry_more(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalogue.AttentionEntry("wsi_ats.attention.make:paper", "the same under another name")
    monkeypatch.setitem(catalogue.ATTENTION_NETWORKS, "mine", entry)  # type: ignore[arg-type]
    settings = load_config(None, ["attention.network=mine"]).attention
    assert isinstance(make_attention(settings, 8), ConvAttention)
    assert not AttentionSettings(network="mine").keeps_channels


def test_a_kind_of_task_more_is_one_entry_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.TASK_KINDS, "share", TASK_KINDS["regression"])  # type: ignore[arg-type]
    (task,) = make_tasks({"fat": TaskSettings(kind="share")}, {"fat": ["0.5", "0.1"]})
    assert isinstance(task, Task)
    assert task.spec == TaskSpec("fat", "share")
    assert task.spec.columns() == ["prediction", "value", "stderr_value", "low_value", "high_value"]


def test_names_are_known_without_torch() -> None:
    code = "import sys, wsi_ats.cli.main, wsi_ats.config; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )
