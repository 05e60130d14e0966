"""Ranges to ask a server for, when many parts of its files are wanted."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from wsi_ats.slides.storage.source import ByteRange

GAP = 4 << 10
"""Bytes that may be fetched for nothing to save a request: neighbours in a file nearly touch, and a larger gap
costs more to transfer than a request among 200 others takes."""
LONGEST = 1 << 20
"""Bytes after which a range is not made longer by the next part: one long transfer would hold up the first."""


class Request(NamedTuple):
    """A request: one range of one file, and the parts (their numbers) that lie in it."""

    part: ByteRange
    members: list[int]

    def cut(self, part: ByteRange, data: memoryview) -> bytes:
        """Bytes of one of the members out of those of the range."""
        start = part.offset - self.part.offset
        return bytes(data[start:] if part.count is None else data[start : start + part.count])


def is_exact(part: ByteRange) -> bool:
    """Whether it is clear where the part begins and ends, without knowing the size of its file."""
    return part.offset >= 0 and part.count is not None


def requests(parts: Sequence[ByteRange], gap: int = GAP, longest: int = LONGEST) -> list[Request]:
    """Ranges that hold all parts but the empty ones, in the order in which their first part is wanted.

    Parts of a file that are at most `gap` bytes apart share a range, up to `longest` bytes.
    """
    found = [Request(part, [i]) for i, part in enumerate(parts) if not is_exact(part)]
    exact = [i for i, part in enumerate(parts) if is_exact(part) and part.count]
    found += _merged(parts, sorted(exact, key=lambda i: parts[i]), gap, longest)
    return sorted(found, key=lambda request: min(request.members))


def batches(wanted: Sequence[Request], most: int, known: Container[str]) -> list[list[Request]]:
    """Neighbouring requests of one file, up to `most`, to be handed over in one go; `known`: files of known size.

    The first request for a file stays alone: its answer tells the size and the version of the file. Where the
    size is not known, all do: a range beyond the end must not take others with it.
    """
    found: list[list[Request]] = []
    seen: set[str] = set()
    open_for = None
    for request in wanted:
        key = request.part.key
        if key == open_for and len(found[-1]) < most:
            found[-1].append(request)
        else:
            found.append([request])
            open_for = key if key in seen and key in known else None
        seen.add(key)
    return found


def _merged(parts: Sequence[ByteRange], ordered: Sequence[int], gap: int, longest: int) -> list[Request]:
    """Ranges of parts that are sorted by their file, offset and length."""
    merged: list[Request] = []
    for i in ordered:
        key, start, count = parts[i]
        if merged and (last := merged[-1]).part.key == key:
            first, length = last.part.offset, last.part.count or 0
            together = max(first + length, start + (count or 0)) - first
            if start - (first + length) <= gap and together <= longest:
                merged[-1] = Request(ByteRange(key, first, together), [*last.members, i])
                continue
        merged.append(Request(parts[i], [i]))
    return merged
