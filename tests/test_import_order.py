"""The arrows of the architecture: which module may know which.

The numpy arm reads slides without torch; the torch arm computes and opens no slide; they meet above both.
Imports are read from the source, those inside functions included, so a lazy import cannot hide an arrow.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import wsi_ats

ROOT = Path(wsi_ats.__file__).parent
NUMPY_ARM = (
    "wsi_ats.errors",
    "wsi_ats.geometry",
    "wsi_ats.slides",
    "wsi_ats.lowres.view",
    "wsi_ats.lowres.tissue",
    "wsi_ats.tiles",
)
TORCH_ARM = tuple(
    f"wsi_ats.{name}"
    for name in (
        "sampling",
        "estimator",
        "attention.networks",
        "attention.receptive",
        "attention.blockwise",
        "features",
        "head",
    )
)
TORCH = ("torch", "pytorch_lightning", "torchmetrics", "lightning", "torchvision")


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


def graph() -> dict[str, set[str]]:
    modules = module_files(ROOT)
    return {name: imports_of(name, path, modules) for name, path in modules.items()}


GRAPH = graph()


def below(name: str) -> set[str]:
    """All that a module imports, directly or through others."""
    seen: set[str] = set()
    ahead = [name]
    while ahead:
        new = GRAPH.get(ahead.pop(), set()) - seen
        seen |= new
        ahead += new
    return seen


def belongs(name: str, arm: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in arm)


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


def test_every_arm_has_modules() -> None:
    assert {name for name in GRAPH if belongs(name, NUMPY_ARM)} >= {
        "wsi_ats.geometry",
        "wsi_ats.slides.openslide.slide",
    }
    assert {name for name in GRAPH if belongs(name, TORCH_ARM)} >= {"wsi_ats.sampling", "wsi_ats.estimator"}


@pytest.mark.parametrize("name", [name for name in GRAPH if belongs(name, NUMPY_ARM)])
def test_the_numpy_arm_never_imports_torch(name: str) -> None:
    assert not below(name) & {*TORCH}


@pytest.mark.parametrize("name", [name for name in GRAPH if belongs(name, TORCH_ARM)])
def test_the_torch_arm_never_imports_slides(name: str) -> None:
    assert not [other for other in below(name) if belongs(other, ("wsi_ats.slides",))]


def test_nothing_imports_the_command_line() -> None:
    importers = {
        name for name, imports in GRAPH.items() if any(belongs(i, ("wsi_ats.cli.main",)) for i in imports)
    }
    assert {name for name in importers if not belongs(name, ("wsi_ats.cli.main",))} <= {"wsi_ats.__main__"}


def test_there_are_no_cycles() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_reading_slides_does_not_load_torch() -> None:
    modules = ", ".join(name for name in GRAPH if belongs(name, NUMPY_ARM))
    code = f"import sys, wsi_ats, {modules}; print([name for name in {TORCH} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
