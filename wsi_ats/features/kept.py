"""Encoders of model folders: what a folder keeps of one, and how it is found again.

Networks of our own are kept whole. Of a large one that is frozen, the folder keeps the place of its weights and
their digest; with `features.embed` its weights, and beside them, in `encoder/`, the files that describe it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from wsi_ats.errors import ModelError
from wsi_ats.features.encoder import Encoder
from wsi_ats.features.source import digest_of

FOLDER = "encoder"
TRUST = "WSI_ATS_TRUST"
"""Environment variable: sha256 of the program files that may be loaded with a model, separated by blanks."""


def keep_encoder(features: nn.Module, settings: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """Write what the model folder needs of the encoder; returns what to record beside the settings, None for nothing.

    settings: plain values of [features], changed in place: where the weights once lay means nothing elsewhere, and
    trust in a program is not handed on.
    """
    settings.pop("weights", None)
    settings.pop("trust", None)
    if not isinstance(features, Encoder) or features.origin is None:
        return None
    origin = features.origin
    if features.embedded:
        (folder / FOLDER).mkdir(exist_ok=True)
        for file in origin.files:
            target = folder / FOLDER / file.name
            if file.resolve() != target.resolve():
                shutil.copyfile(file, target)
    elif origin.address is not None:
        settings["weights"] = origin.address
    return {"sha256": origin.sha256, "embedded": features.embedded}


def find_encoder(
    record: dict[str, Any] | None,
    settings: dict[str, Any],
    folder: Path,
    elsewhere: Path | str | None,
    *,
    trust: bool,
) -> bool:
    """Complete `settings`, plain values of [features], in place; returns whether the encoder reads its own weights.

    elsewhere: file or folder of an encoder that is referred to, where it has moved. Raises `ModelError` for a
    program that is not trusted.
    """
    if record is None:
        return False
    embedded = bool(record.get("embedded"))
    program = settings.get("network") == "exported"
    if embedded:
        inside = folder / FOLDER
        files = sorted(inside.glob("*")) if program else [inside]
        settings["weights"] = str(files[0] if files else inside)
    elif elsewhere is not None:
        settings["weights"] = str(elsewhere)
    if program:
        _check_trust(Path(settings.get("weights", "")), record, trust=trust)
        settings["trust"] = True
    return not embedded


def check_encoder(features: nn.Module, record: dict[str, Any] | None) -> None:
    """Compare the weights that were read with the ones the model was trained with. Raises `ModelError`."""
    if record is None or not isinstance(features, Encoder) or features.origin is None:
        return
    if not features.origin.sha256:
        features.origin = replace(features.origin, sha256=str(record.get("sha256", "")))
    elif features.origin.sha256 != record.get("sha256"):
        raise _other_weights(str(features.origin.address or features.name), features.origin.sha256, record)


def _check_trust(path: Path, record: dict[str, Any], *, trust: bool) -> None:
    if not path.is_file():
        raise ModelError(
            f"the encoder {path} of the model is not there",
            remedy="give its place: load_model(folder, encoder=...), or features.weights in the folder's config.toml",
        )
    sha256 = digest_of([path])
    if sha256 != record.get("sha256"):
        raise _other_weights(str(path), sha256, record)
    if not trust and sha256 not in os.environ.get(TRUST, "").split():
        raise ModelError(
            f"the model's encoder {path} is a program, and loading it can run any code",
            remedy=f"if you trust who made it: load_model(folder, trust=True), or {TRUST}={sha256} in the environment",
        )


def _other_weights(place: str, sha256: str, record: dict[str, Any]) -> ModelError:
    return ModelError(
        f"the encoder at {place} has sha256 {sha256}, and the model was trained with {record.get('sha256')}",
        remedy="find the weights of that digest: load_model(folder, encoder=...), or features.weights in the folder's "
        "config.toml",
    )
