"""Wheel and sdist as users get them: built, installed in a bare environment, used from another folder.

python -m tests.package_smoke

The environment has neither a compiler nor any optional package, and an `srun` that only fails is on its PATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from tests.support.cohort import SETTINGS, write_cohort

ROOT = Path(__file__).resolve().parents[1]
NOT_IN_WHEEL = {".c", ".so", ".pyc"}  # the sdist compiles what the wheel for every platform goes without
TRAIN = [word for setting in (*SETTINGS, "train.epochs=1") for word in ("--set", setting)]


class Bare:
    """An environment of its own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.home, self.bin = folder / "home", folder / "venv" / "bin"
        self.home.mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        srun = folder / "programs" / "srun"
        srun.parent.mkdir()
        srun.write_text("#!/bin/sh\nexit 1\n")
        srun.chmod(0o755)
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))
        }
        path = f"{srun.parent}{os.pathsep}{self.bin}"
        self._environment = kept | {"PATH": path, "CC": "no-compiler", "OMP_NUM_THREADS": "1"}

    def run(self, *command: str | Path, status: int = 0) -> str:
        """What a program of the environment says; its status is checked."""
        program, *arguments = map(str, command)
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.home,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, (
            f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}"
        )
        return said

    def install(self, *what: str | Path) -> None:
        """Install packages, with the versions that are tested."""
        self.run("python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", *what)


def build(out: Path) -> tuple[Path, Path]:
    """The wheel for every platform, and the sdist, of what the working folder holds."""
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, env={**os.environ, "WSI_ATS_PURE": "1"}, check=True, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def check_content(wheel: Path, sdist: Path) -> None:
    """The package, all of it, and nothing but it."""
    assert wheel.name.endswith("-py3-none-any.whl"), wheel.name
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "wsi_ats").rglob("*")
        if path.is_file() and path.suffix not in NOT_IN_WHEEL
    }
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("wsi_ats-")}
    assert package - inside == set(), f"the wheel lacks {package - inside}"
    assert inside - package == set(), f"the wheel has more than the package: {inside - package}"
    with tarfile.open(sdist) as file:
        sources = {name.partition("/")[2] for name in file.getnames()}
    needed = {"pyproject.toml", "setup.py", "README.md", "LICENSE", "wsi_ats/slides/_window.c"}
    lacking = (package | needed) - sources
    assert lacking == set(), f"the sdist lacks {lacking}"
    assert not any(name.startswith("tests/") for name in sources)


def check_use(bare: Bare, cohort: Path) -> None:
    """The installation, a model, an answer: with nothing but what the package declares."""
    place = bare.run("python", "-c", "import wsi_ats; print(wsi_ats.__file__)")
    assert str(bare.bin.parent) in place, place
    assert bare.run("wsi-ats", "--version").startswith("wsi-ats "), "--version"
    assert "not installed, tiles are decoded whole" in bare.run("wsi-ats", "doctor")
    slide = cohort.parent / "test_1.tif"
    bare.run("wsi-ats", "info", slide)
    bare.run("wsi-ats", "train", cohort, "--out", "run", "--overwrite", *TRAIN)
    bare.run("wsi-ats", "predict", "run/model", slide, "--out", "out", "--tiles", "4", "--workers", "1")
    assert (bare.home / "out" / "predictions.csv").is_file()
    said = bare.run("wsi-ats", "info", "https://127.0.0.1:9/a.svs", status=2)
    assert "wsi-ats[remote]" in said, said


def main() -> None:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wheel, sdist = build(folder / "dist")
        check_content(wheel, sdist)
        cohort = write_cohort(folder / "slides", train=2, val=2, test=2)
        bare = Bare(folder)
        bare.install(wheel)
        check_use(bare, cohort)
        bare.run("python", "-m", "pip", "uninstall", "--quiet", "--yes", "wsi-ats")
        bare.install(sdist)
        check_use(bare, cohort)
    print(f"wheel and sdist installed and used, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
