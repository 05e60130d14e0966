"""Text as it is shown: without secrets, and without what a terminal, a table or a spreadsheet would obey.

Names of files and cells of tables are written by strangers. Every message, table and record that leaves the package
passes here; nothing that is computed with does.
"""

from __future__ import annotations

import re
import unicodedata

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what is obeyed and not seen: controls, marks of direction, halves of bytes, line ends."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that a spreadsheet computes instead of showing it."""


def redacted(text: str) -> str:
    """The text with every URL in it stripped of user, password, query (signatures) and fragment.

    >>> redacted("https://user:secret@host/a.svs?X-Amz-Signature=1f cannot be opened")
    'https://host/a.svs cannot be opened'
    """
    return _URL.sub(lambda found: _without_secrets(found[0]), text)


def printable(text: str) -> str:
    r"""The text on one line, with what cannot be seen as an escape: newlines, ESC, bytes that are no UTF-8.

    >>> printable("a\nb\x1b[31m.svs")
    'a\\nb\\x1b[31m.svs'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _CONTROLS else c for c in text)


def shown(text: str) -> str:
    """The text as people may see it: `redacted` and `printable`."""
    return printable(redacted(text))


def cell(text: str) -> str:
    """The text as a cell of a table: `shown`, and with an apostrophe before what a spreadsheet would compute.

    >>> cell("=cmd|' /C calc'!A0"), cell("-1.5"), cell("P-7")
    ("'=cmd|' /C calc'!A0", '-1.5', 'P-7')
    """
    text = shown(text)
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def _without_secrets(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _escaped(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that Python could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
