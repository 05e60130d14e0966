"""What several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("WSI_ATS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def shared_data(relative: str) -> Path:
    """A file or folder of the shared test data; skips the test, saying so, where it is absent."""
    path = DATA / relative
    if not path.exists():
        pytest.skip(f"test data {relative!r} is absent; set WSI_ATS_DATA to a folder that holds it")
    return path
