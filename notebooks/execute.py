"""Run a notebook from top to bottom and keep its outputs in the file.

    python notebooks/execute.py                       # the demo in ../demo
    WSI_ATS_DEMO=some/folder python notebooks/execute.py

Only what a reader needs is kept: no execution times, no user names, no paths.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
NOTEBOOK = HERE / "01_explore_attention.ipynb"
CELL_SECONDS = 300


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path` with fresh outputs; its cells run in its own folder. Raises where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def main(paths: list[str]) -> None:
    for path in map(Path, paths or [str(NOTEBOOK)]):
        nbformat.write(execute(path.resolve()), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
