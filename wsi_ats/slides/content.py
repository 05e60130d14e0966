"""Digest of what a slide holds, wherever it lies and however its path is written, from little of a large file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wsi_ats.shown import url_id
from wsi_ats.slides.fingerprint import ROOTS, fingerprint_of
from wsi_ats.slides.storage.local import companions_of
from wsi_ats.slides.storage.opening import ByteRange, is_url, open_source

END, BLOCK, BLOCKS = 1 << 20, 64 << 10, 24
"""Bytes read at the beginning and at the end, bytes and number of the blocks between them: 3.7 MB of any file."""
METADATA = (*ROOTS, ".zmetadata")


def content_of(slide: Path | str) -> str:
    """A text of 32 letters for what a slide holds: equal for copies that kept their time of change (`cp -p`, rsync).

    file: size, time of change, first and last MiB, and blocks between them. The time, because a file that was
        changed in place may be equal in all that is read; a copy with a new time counts as another slide.
    MRXS, DICOM, VMS: also names, sizes and times of the other files that they are made of (of all files of the
        folder, where it is not clear which).
    Zarr folder: size and time of change of the root's metadata, and what they say; not the chunks.
    URL: the URL without credentials (`url_id`), and the size and ETag that the server tells.
    Raises OSError where there is no such slide, or where it is neither file nor Zarr store (a pipe, a device).
    """
    address = str(slide)
    if address.lower().startswith("file://"):
        address = unquote(urlsplit(address).path)
    facts: tuple[object, ...] = fingerprint_of(address)
    parts: list[bytes] = []
    if is_url(address):
        facts = (url_id(address), *facts)
    else:
        path = Path(address)
        with open_source(address) as source:
            wanted = [ByteRange(name, 0, END) for name in METADATA] if path.is_dir() else _samples(path)
            parts = [part or b"" for part in source.read_many(wanted)]
        facts = (*facts, *_companions(path), *map(len, parts))
    # ASCII, because names of files need not be text.
    return hashlib.blake2b(b"".join([ascii(facts).encode(), *parts]), digest_size=16).hexdigest()


def digest_of(slide: Path | str) -> str:
    """A text for what a slide's file holds, equal for all its copies, whatever their name, folder and time of change.

    It is made of the file's size and `_samples`, and of the names and sizes of files that belong to it. Empty for what
    is no file, or cannot be read: behind a URL and in a Zarr folder little tells what the slide holds.
    """
    path = Path(slide)
    if is_url(str(slide)) or path.is_dir():
        return ""
    try:
        beside = [(name, size) for name, size, _ in _companions(path)]
        with open_source(str(slide)) as source:
            parts = [part or b"" for part in source.read_many(_samples(path))]
        facts = ascii((path.stat().st_size, *beside, *map(len, parts)))
    except OSError:
        return ""  # whoever reads its pixels tells why
    return f"file {hashlib.blake2b(b''.join([facts.encode(), *parts]), digest_size=16).hexdigest()}"


def _samples(path: Path) -> list[ByteRange]:
    """Parts of a file that are read; all of it where it is small."""
    size = path.stat().st_size
    if size <= 2 * END + BLOCKS * BLOCK:
        return [ByteRange("", 0, size)]
    step = (size - 2 * END - BLOCK) / (BLOCKS - 1)
    between = [ByteRange("", END + int(n * step), BLOCK) for n in range(BLOCKS)]
    return [ByteRange("", 0, END), *between, ByteRange("", size - END, END)]


def _companions(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of the files that belong to a slide besides the one that names it."""
    found = [(file.name, file.stat()) for file in companions_of(path) if file.is_file()]
    return sorted((name, facts.st_size, facts.st_mtime_ns) for name, facts in found)
