"""Sources of an encoder's weights: where they lie, what is in their files, a digest to know them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.settings import FeatureSettings
from wsi_ats.regular import open_regular, read_regular, regular_stat

HUB = "hub:"
"""Prefix of a name of the Hugging Face hub: the user wants it from there, and it may be downloaded."""
DESCRIPTION, SAFE, PICKLED = (
    ("config.json", "preprocessor_config.json"),
    "model*.safetensors",
    "pytorch_model.bin",
)

MOST_BYTES = 16 << 20
"""Bytes of a description at most."""


@dataclass(frozen=True)
class Origin:
    """Origin of weights, so that they can be found and known again."""

    address: str | None
    """Absolute path, or hub:owner/name@commit; None: the local hub cache, under the published name."""
    sha256: str
    """Digest of the weights file, or of the list of names and digests of several; "" where none was read."""
    files: tuple[Path, ...]
    """Files that describe the network, to be copied where the weights are."""


def locate_folder(settings: FeatureSettings, repository: str | None, patterns: Sequence[str]) -> Path:
    """The folder with the encoder's files: the one in the settings, or that of the hub's cache.

    Goes to the network only for a name that the user wrote with hub: before it. Raises `ConfigError`.
    """
    if settings.weights is None:
        if repository is None:
            raise ConfigError(
                f"features.network is {settings.network} and features.weights is not set",
                remedy="set features.weights to a folder, or to hub:owner/name to download it",
            )
        return _snapshot(repository, None, patterns, offline=True)
    if settings.weights.startswith(HUB):
        name, _, revision = settings.weights.removeprefix(HUB).partition("@")
        return _snapshot(name, revision or None, patterns, offline=False)
    folder = Path(settings.weights)
    if not folder.is_dir():
        raise ConfigError(
            f"features.weights: {folder} is not a folder",
            remedy="give the folder that holds config.json and the weights, or hub:owner/name to download them",
        )
    try:
        for path in (path for pattern in patterns for path in folder.glob(pattern)):
            regular_stat(path)
    except OSError as error:
        raise ConfigError(
            f"features.weights: {error.filename}: {error.strerror}", "copy the folder of the model again"
        ) from error
    return folder.resolve()


def origin_of(settings: FeatureSettings, folder: Path, weights: Sequence[Path]) -> Origin:
    """The origin of `weights` in a folder that `locate_folder` gave."""
    address: str | None = str(folder)
    if settings.weights is None:
        address = None
    elif settings.weights.startswith(HUB):
        # The commit, which the cache has as the folder's name: a branch may move.
        address = f"{settings.weights.partition('@')[0]}@{folder.name}"
    files = tuple(folder / name for name in DESCRIPTION if (folder / name).exists())
    return Origin(address, digest_of(weights) if weights else "", files)


def digest_of(weights: Sequence[Path]) -> str:
    """sha256 (hex) of a file, or of the names and digests of several, in the order of their names."""
    digests = {}
    for path in sorted(weights):
        with open_regular(path) as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file. Raises `ModelError` naming the file."""
    try:
        values = json.loads(read_regular(path, MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"cannot read {path}: {error}",
            remedy=f"copy {path.name} from the model's page, beside the weights",
        ) from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no JSON object", remedy="copy it from the model's page again")
    return values


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from safetensors or from PyTorch's own files, of which only tensors are taken.

    Runs no code from the file. Raises `ModelError` naming it.
    """
    try:
        regular_stat(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError, UnpicklingError) as error:
        raise ModelError(
            f"cannot read weights file {path}: {str(error).splitlines()[0]}",
            remedy="give a file of tensors: safetensors, or what torch.save makes of a state_dict",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(
            f"weights file {path} holds no table of tensors by name",
            remedy="give what torch.save makes of network.state_dict()",
        )
    return state


def fill(
    network: torch.nn.Module, state: dict[str, Tensor], path: Path, surplus: tuple[str, ...] = ()
) -> None:
    """Put tensors into a network, by name; names that begin with one of `surplus` may be left over."""
    state = {name: value for name, value in state.items() if not name.startswith(surplus or "\0")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[1:])
        raise ModelError(
            f"weights file {path} is not of this network: {lines[:400]}",
            remedy="choose the features.network that the weights are of",
        ) from error


def _snapshot(name: str, revision: str | None, patterns: Sequence[str], *, offline: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            f"the encoder {name} of the Hugging Face hub needs the package huggingface_hub",
            remedy="pip install 'wsi-ats[huggingface]', or set features.weights to a local folder",
        ) from error
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), local_files_only=offline
        )
    except (OSError, ValueError) as error:
        where = (
            "is not in the local Hugging Face cache" if offline else "cannot be had from the Hugging Face hub"
        )
        raise ConfigError(
            f"encoder {name} {where}: {str(error).strip().splitlines()[0]}",
            remedy=f"set features.weights to a folder with its files, or to {HUB}{name} to download it (gated "
            "models: accept their terms on the model's page and log in with `hf auth login`)",
        ) from error
    return Path(found)
