"""The arrows of the architecture: which module may know which. Every module is pinned, by its room.

One arm reads slides without torch; the other computes and opens no slide; they meet above both.
Imports are read from the source, those inside functions included, so a lazy import cannot hide an arrow.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import wsi_ats

ROOT = Path(wsi_ats.__file__).parent
TORCH = ("torch", "pytorch_lightning", "torchmetrics", "lightning", "torchvision")

FLOORS = (
    "shown regular process stopwatch",
    "errors atomic cache prefetch progress settings",
    "catalogue output arguments statistics",
    "geometry reading features.published features.segment tasks.answer tasks.texts tasks.weights",
    "slides synthetic sampling",
    "tiles tasks.settings features.settings features.store",
    "tasks features config manifest estimator head",
    "lowres",
    "attention convert heatmap",
    "embed prediction reference",
    "predict",
    "slide_model",
    "model",
    "ensemble",
    "build",
    "model_folder",
    "train batch export",
    "evaluate",
    "report",
    "demo",
    "cli",
    "__main__",
)
"""The rooms of the house from the ground up: a module imports from its own room and from lower floors alone. Where a
module is named beside its folder, it stands on a floor of its own."""

PIXELS = (
    "shown regular process errors arguments output atomic cache prefetch progress settings stopwatch catalogue "
    "geometry reading slides statistics synthetic tiles lowres convert manifest config heatmap prediction "
    "features.published features.settings features.segment features.store tasks.answer tasks.texts tasks.weights "
    "tasks.settings"
)
"""The arm that reads slides: never torch."""
TENSORS = (
    "sampling estimator head tasks features attention.networks attention.receptive attention.blockwise "
    "attention.make"
)
"""The arm that computes: never opens a slide."""
BOTH = (
    "attention.attend attention.inside attention.levels attention.mixed embed reference predict slide_model model "
    "ensemble build model_folder train batch export evaluate report demo cli __main__"
)
"""Where they meet."""


def module_files(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    names = {}
    for path in sorted(root.rglob("*.py")):
        parts = [root.name, *path.relative_to(root).with_suffix("").parts]
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements below a node at any depth, but not those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif for_types_only(child):
            yield from (found for other in child.orelse for found in import_nodes(other))
        else:
            yield from import_nodes(child)


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules that a module imports: the package's own by their full name, others by their top name."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        # `from package import x`: x may be a module of it or a name in it.
        found |= {inner if (inner := f"{base}.{alias.name}") in modules else base for alias in node.names}
    return {full if full in modules else full.partition(".")[0] for full in found} - {name}


def with_packages(name: str, imports: set[str]) -> set[str]:
    """Importing a module runs the packages that it is in, too; that of all modules is left out."""
    above = {full.rsplit(".", i)[0] for full in imports for i in range(1, full.count("."))}
    return (imports | {package for package in above if package.startswith("wsi_ats.")}) - {name}


FILES = module_files(ROOT)
DIRECT = {name: imports_of(name, path, FILES) for name, path in FILES.items()}
GRAPH = {name: with_packages(name, imports) for name, imports in DIRECT.items()}


def below(name: str) -> set[str]:
    """All that a module imports, directly or through others."""
    seen: set[str] = set()
    ahead = [name]
    while ahead:
        new = GRAPH.get(ahead.pop(), set()) - seen
        seen |= new
        ahead += new
    return seen


def room_of(name: str, rooms: Iterable[str]) -> str | None:
    """The narrowest of the rooms that a module is in."""
    inside = [room for room in rooms if f"{name}.".startswith(f"wsi_ats.{room}.")]
    return max(inside, key=len, default=None)


FLOOR_OF = {room: height for height, rooms in enumerate(FLOORS) for room in rooms.split()}
ARM_OF = {room: arm for arm, rooms in enumerate((PIXELS, TENSORS, BOTH)) for room in rooms.split()}
OWN = [name for name, path in FILES.items() if path.name != "__init__.py"]
"""Packages only hold them."""


def test_the_source_is_read_right(tmp_path: Path) -> None:
    package = tmp_path / "p"
    (package / "sub").mkdir(parents=True)
    sources = {
        "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n",
        "a.py": "import numpy.linalg\nfrom p.sub import b\nfrom p import name\n",
        "sub/__init__.py": "",
        "sub/b.py": "def f():\n    from ..a import x\n    from . import c\n    import torch.nn as nn\n",
        "sub/c.py": "try:\n    import h5py\nexcept ImportError:\n    from .. import a\n",
    }
    for relative, text in sources.items():
        (package / relative).write_text(text)
    modules = module_files(package)
    assert {name: imports_of(name, path, modules) for name, path in modules.items()} == {
        "p": {"typing"},
        "p.a": {"numpy", "p.sub.b", "p"},
        "p.sub": set(),
        "p.sub.b": {"p.a", "p.sub.c", "torch"},
        "p.sub.c": {"h5py", "p.a"},
    }


@pytest.mark.parametrize("name", OWN)
def test_every_module_is_pinned(name: str) -> None:
    assert room_of(name, FLOOR_OF) is not None, "give it a floor"
    assert room_of(name, ARM_OF) is not None, "give it an arm"


def test_no_room_is_pinned_that_is_not_there() -> None:
    assert {room_of(name, FLOOR_OF) for name in OWN} == {*FLOOR_OF}
    assert {room_of(name, ARM_OF) for name in OWN} == {*ARM_OF}


@pytest.mark.parametrize("name", OWN)
def test_imports_come_from_the_same_room_or_from_below(name: str) -> None:
    mine = room_of(name, FLOOR_OF)
    theirs = {other: room_of(other, FLOOR_OF) for other in GRAPH[name] if other in OWN}
    assert mine is not None
    assert [o for o, room in theirs.items() if room != mine and FLOOR_OF[str(room)] >= FLOOR_OF[mine]] == []


def of_arm(arm: int) -> list[str]:
    return [name for name in OWN if ARM_OF.get(str(room_of(name, ARM_OF))) == arm]


@pytest.mark.parametrize("name", of_arm(0))
def test_what_reads_pixels_never_imports_torch(name: str) -> None:
    assert not below(name) & {*TORCH}


@pytest.mark.parametrize("name", of_arm(1))
def test_what_computes_never_imports_slides(name: str) -> None:
    assert not [other for other in below(name) if other.startswith("wsi_ats.slides")]


def test_there_are_no_cycles() -> None:
    try:
        TopologicalSorter(DIRECT).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_reading_slides_does_not_load_torch() -> None:
    modules = ", ".join(of_arm(0))
    code = f"import sys, wsi_ats, {modules}; print([name for name in {TORCH} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
