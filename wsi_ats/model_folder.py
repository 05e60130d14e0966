"""A trained model as a folder: weights, settings and a card.

Loading it runs no code from the files; only of a model whose encoder is a program, and only where the caller says
so (docs/encoders.md).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import tomli_w
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from wsi_ats.arguments import some_path
from wsi_ats.atomic import write_atomic
from wsi_ats.build import build_model
from wsi_ats.config import RENAMED, parse_config, read_toml, to_values
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.kept import check_encoder, find_encoder, keep_encoder
from wsi_ats.reference import REFERENCE, read_reference, write_reference
from wsi_ats.regular import open_regular, regular_stat
from wsi_ats.slide_model import SlideModel
from wsi_ats.tasks.make import from_card, to_card
from wsi_ats.tasks.settings import LABEL
from wsi_ats.tasks.task import Task

WEIGHTS, SETTINGS, CARD = "model.safetensors", "config.toml", "model-card.md"
SECTIONS = ("view", "tile", "attention", "sampling", "features", "train")
"""Sections of settings that every model folder has."""
RUN_MODEL = "model"
"""Folder of the model in that of a run."""
COPY = "copy the whole model folder again"
FORMAT = 3
"""Format that is written. Still read: 2, other names of a few settings and weights; 1, also `classes` for tasks."""
RENAMED_WEIGHTS = {"overview.": "region_attention."}
"""New beginnings of the names of weights, by those up to format 2; settings: `config.RENAMED`."""


def save_model(model: SlideModel, folder: Path, card: str) -> None:
    """Write `model.safetensors`, `config.toml`, `model-card.md` and, where the training slides were described,
    `reference.safetensors` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = to_values(model.config)
    header: dict[str, Any] = {"format": FORMAT, "tasks": [to_card(task) for task in model.tasks]}
    encoder = keep_encoder(model.features, values["features"], folder)
    values["attention"].pop("weights", None)  # a path of this machine; they are in the file
    if encoder is not None:
        header["encoder"] = encoder
    # As bytes: safetensors' own writing makes files that nobody else may read, whatever the umask.
    write_atomic(folder / WEIGHTS, save({k: v.contiguous() for k, v in model.weights().items()}))
    write_atomic(folder / CARD, card.encode())
    if model.reference is None:
        (folder / REFERENCE).unlink(missing_ok=True)
    else:
        write_reference(model.reference, folder / REFERENCE)
    # Last: with it the folder is a model.
    write_atomic(folder / SETTINGS, tomli_w.dumps({"model": header, **values}).encode())


def load_model(
    folder: Path | str, device: str = "cpu", *, encoder: Path | str | None = None, trust: bool = False
) -> SlideModel:
    """The model of a folder written by training (`run/model`, not `run`), in evaluation mode on `device`.

    encoder: where the weights of an encoder are that the folder only refers to, if they have moved; they are known by
    their digest. trust: load an encoder that is a program, which can run any code. Raises `ModelError` naming the
    file and what is wrong with it, `ConfigError` for an argument that makes no sense.
    """
    folder = Path(some_path("folder", folder, "give the folder of a model, run/model for example"))
    if encoder is not None:
        some_path("encoder", encoder, "give the folder or the file of the encoder, or leave it away")
    values = _settings(folder)
    header = values.pop("model", None)
    if header is None and (folder / RUN_MODEL / SETTINGS).exists():
        raise ModelError(f"{folder} is the folder of a run", f"give the model in it: {folder / RUN_MODEL}")
    header = header if isinstance(header, dict) else {}
    cards = _cards(header, folder / SETTINGS)
    old = header["format"] < FORMAT
    if old:
        _rename_settings(values)
    record, features = header.get("encoder"), values.setdefault("features", {})
    if not (isinstance(features, dict) and isinstance(record, dict | None)):
        raise ModelError(f"{folder / SETTINGS}: [features] or [model.encoder] is no table", COPY)
    pretrained = find_encoder(record, features, folder, encoder, trust=trust)
    config = parse_config(values, str(folder / SETTINGS))
    try:
        tasks = [from_card(card, config.tasks) for card in cards]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / SETTINGS}: [[model.tasks]] is damaged: {error!r}", COPY) from error
    digest = model_hash(folder)  # of weights that may not be read, safetensors says that they are missing
    model = build_model(config, tasks, pretrained=pretrained, fresh=False)
    check_encoder(model.features, record)
    try:
        regular_stat(folder / WEIGHTS)  # of a pipe, safetensors would wait for the writer
        weights = load_file(folder / WEIGHTS)
        model.set_weights(_renamed(weights) if old else weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{folder / WEIGHTS} does not hold the weights that {SETTINGS} describes: {error}",
            remedy=COPY,
        ) from error
    model.hash = digest
    model.reference = read_reference(folder / REFERENCE, model.head.dim)
    return _moved(model.eval(), device)


def _moved(model: SlideModel, device: str) -> SlideModel:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"device is {device!r}: {str(error).splitlines()[0]}", "give cpu or, where there is one, cuda"
        ) from error


def read_tasks(folder: Path | str) -> list[Task]:
    """The tasks of a model folder, without its networks. Raises `ModelError` naming the file and what is wrong."""
    path = Path(folder) / SETTINGS
    values = _settings(Path(folder))
    header = values.get("model")
    try:
        cards = _cards(header if isinstance(header, dict) else {}, path)
        config = parse_config({"tasks": values.get("tasks", {})}, str(path))
        return [from_card(card, config.tasks) for card in cards]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: [[model.tasks]] is damaged: {error!r}", COPY) from error


def is_model(folder: Path | str) -> bool:
    """Whether a folder looks like that of a model: settings and weights are there; not where that cannot be known."""
    try:
        return all((Path(folder) / name).is_file() for name in (SETTINGS, WEIGHTS))
    except (OSError, ValueError):  # no right to look, a name that is too long
        return False


def read_values(folder: Path | str) -> dict[str, dict[str, Any]]:
    """Settings of a model folder as plain values by section, under their names of today. Raises `ModelError`."""
    path = Path(folder) / SETTINGS
    values = _settings(Path(folder))
    _rename_settings(values)
    lacking = [name for name in SECTIONS if not isinstance(values.get(name), dict)]
    if lacking:
        raise ModelError(f"{path} has no section [{lacking[0]}]", COPY)
    return {name: values[name] for name in SECTIONS}


def read_by(folder: Path | str) -> str:
    """What the model of a folder was trained to answer about, `slide` or `patient`. Raises `ModelError`."""
    training = _settings(Path(folder)).get("train")
    return str(training.get("by", "slide")) if isinstance(training, dict) else "slide"


def model_hash(folder: Path | str) -> str:
    """Digest (16 hex digits) of the settings and the weights of a model folder, and of its reference if it has one."""
    digest = hashlib.sha256()
    for name in (SETTINGS, WEIGHTS, REFERENCE):
        try:
            with open_regular(Path(folder) / name) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except FileNotFoundError as error:
            if name != REFERENCE:
                raise _missing(Path(folder), name, error) from error
        except OSError as error:
            raise _missing(Path(folder), name, error) from error
    return digest.hexdigest()[:16]


def _cards(header: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """What the model's settings keep of each task. Raises `ModelError` for a format that is not known."""
    form, tasks, classes = (header.get(key) for key in ("format", "tasks", "classes"))
    if form == 1 and isinstance(classes, list):
        return [{"name": LABEL, "kind": "classes", "names": classes}]
    if form in (2, FORMAT) and isinstance(tasks, list) and tasks:
        return tasks
    raise ModelError(
        f"{path}: [model] has format {form!r} and tasks {tasks!r}; this version reads formats 2 and {FORMAT} with a "
        "list of tasks, and format 1 with a list of classes",
        remedy="train the model again with this version, or install the version that wrote it",
    )


def _rename_settings(values: dict[str, Any]) -> None:
    """Give settings of an older format their names of today, in place."""
    for old, new in RENAMED.items():
        section, key = old.split(".")
        if isinstance(values.get(section), dict) and key in values[section]:
            values[section][new.removeprefix(f"{section}.")] = values[section].pop(key)


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an older format under their names of today."""
    for old, new in RENAMED_WEIGHTS.items():
        weights = {new + k.removeprefix(old) if k.startswith(old) else k: w for k, w in weights.items()}
    return weights


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return read_toml(folder / SETTINGS)
    except OSError as error:
        raise _missing(folder, SETTINGS, error) from error
    except ValueError as error:
        raise ModelError(f"{folder / SETTINGS} is not TOML: {error}", COPY) from error


def _missing(folder: Path, name: str, error: OSError) -> ModelError:
    if isinstance(error, PermissionError):
        return ModelError(
            f"{folder / name} may not be read: permission denied",
            remedy=f"ask its owner for `chmod -R a+rX {folder}`, and to let you into the folders above it",
        )
    if (folder / RUN_MODEL / SETTINGS).exists():
        return ModelError(f"{folder} is not a model folder", f"give the model in it: {folder / RUN_MODEL}")
    return ModelError(
        f"{folder} is not a model folder: {name}: {error.strerror}",
        remedy="give the folder `model/` of a training run; on a cluster, on a file system that all workers see",
    )
