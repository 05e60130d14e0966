"""What benchmarks/fuzz.py does to an OME-Zarr beside changing its bytes: strange values, and files that are none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = (0, -1, 1, 2, 255, 1.5, 4096, 2**24, 2**31, 2**63, 10**30, 10**4000, 1e-300, 1e300, np.inf, np.nan)
STRANGE = (
    *NUMBERS,
    None,
    True,
    "",
    "x",
    "1",
    "../..",
    "a\0b",
    "\udcff",
    "c" * 5000,
    [],
    [[]],
    {},
    {"name": "x"},
)
"""Values that metadata gets."""
ODD: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a folder": lambda path: path.symlink_to("."),
    "an empty file": Path.touch,
}
"""What takes the place of a file."""


def odd_file(path: Path, rng: np.random.Generator) -> str:
    """Put something else in the place of a file; what, for people."""
    name = list(ODD)[int(rng.integers(len(ODD)))]
    path.unlink()
    ODD[name](path)
    return name


def strange_value(path: Path, rng: np.random.Generator) -> str:
    """Replace, drop or repeat a value of a file of metadata; which, for people."""
    content = json.loads(path.read_bytes())
    found = list(places(content))
    inside, where = found[int(rng.integers(len(found)))]
    key = where[-1]
    how = int(rng.integers(8))
    if how == 0:
        said = "dropped"
        del inside[key]
    elif how == 1 and isinstance(inside, list):
        said = "repeated"
        inside[key:key] = [inside[key]] * 1000
    elif how == 2:
        said = "nested"
        for _ in range(int(rng.integers(1, 500))):
            inside[key] = [inside[key]]
    else:
        value = STRANGE[int(rng.integers(len(STRANGE)))]
        said = f"is {str(value)[:20]!r}"
        inside[key] = value
    path.unlink()  # a link to the original
    path.write_text(json.dumps(content))
    return f"{'.'.join(map(str, where))} {said}"


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every place in a JSON value, what it is in, and its name."""
    for key in (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield value, (*where, key)
        yield from places(value[key], (*where, key))
