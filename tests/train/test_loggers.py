"""TensorBoard and MLflow: the figures of log.csv, once each, in the run's folder and nowhere else."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from tests.support.cohort import settings
from tests.support.training import silent, table
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import Row
from wsi_ats.train import loggers
from wsi_ats.train.run import train


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a logger opens a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def interrupted(rows: list[Row], out: Path, logger: str) -> list[dict[str, str]]:
    """A run that was interrupted after its second epoch and went on; its log."""

    def stop(line: str) -> None:
        if line.startswith("epoch 2/3"):
            raise KeyboardInterrupt

    config = settings(f'train.loggers=["{logger}"]')
    with pytest.raises(KeyboardInterrupt):
        train(rows, config, out, say=stop)
    train(rows, config, out, say=silent)
    assert not list(Path.cwd().iterdir()), "nothing beside the run's folder"
    return table(out / "log.csv")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_the_figures_of_the_log(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log = interrupted(rows, tmp_path / "run", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {*events.Tags()["scalars"]} == {*log[0]} - {"epoch"}
    for name in events.Tags()["scalars"]:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(int(line["epoch"]), pytest.approx(float(line[name]), rel=1e-5)) for line in log]
    assert "train.epochs/text_summary" in events.Tags()["tensors"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_the_figures_of_the_log(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    log = interrupted(rows, tmp_path / "run", "mlflow")
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path / 'run' / 'mlflow' / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=store, registry_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("wsi-ats").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["train.epochs"] == "3"
    assert {*run.data.metrics} == {*log[0]} - {"epoch"}
    for name in run.data.metrics:
        found = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        assert found == [(int(line["epoch"]), pytest.approx(float(line[name]))) for line in log]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_logger_that_is_not_installed(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(loggers, "find_spec", lambda module: None if module == name else find_spec(module))
    with pytest.raises(
        ConfigError, match=f"train.loggers has '{name}', which needs the package {name}"
    ) as caught:
        train(rows, settings(f'train.loggers=["{name}"]'), tmp_path / "run", say=silent)
    assert f"pip install 'wsi-ats[{name}]'" in caught.value.remedy
    assert not (tmp_path / "run").exists()


def test_loggers_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"train\.loggers\.0 = 'wandb'"):
        settings('train.loggers=["wandb"]')
