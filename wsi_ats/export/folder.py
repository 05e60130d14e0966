"""Folders that are there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi_ats.atomic import remove_temporaries, temporary_beside
from wsi_ats.errors import ConfigError
from wsi_ats.output import check_folder, make_folder, writing


def check_new(out: Path, mark: str, *, overwrite: bool) -> None:
    """Raise `ConfigError` where `out` cannot be made, or holds what must not be replaced.

    mark: name of the file that tells a folder of this kind, which `overwrite` allows to be replaced.
    """
    check_folder(out)
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"--out {out} exists", remedy="name a new folder, or add --overwrite to replace it")
    if not (out / mark).is_file() or out.is_symlink():
        raise ConfigError(
            f"--out {out} holds no {mark}: it is not what this command wrote, and is not replaced",
            remedy="name a new folder",
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out`, in place of what is there, when the block ends without an error.

    Raises `ConfigError` where it cannot be made, `OutputError` where it cannot be written.
    """
    make_folder(out.parent)
    with writing(out):
        remove_temporaries(out.parent, out.name)
        temporary = temporary_beside(out)
        temporary.mkdir()
    try:
        yield temporary
        with writing(out):
            _replace(out, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(out: Path, new: Path) -> None:
    old = temporary_beside(out)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)
