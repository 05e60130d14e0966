"""Text as it is shown: without secrets, and without what a terminal, a table or a spreadsheet would obey.

Names of files and cells of tables are written by strangers. Every message, table and record that leaves the package
passes here; nothing that is computed with does.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

_URL = re.compile(r"(?P<quote>['\"]?)(?P<url>[A-Za-z][A-Za-z0-9+.-]{1,30}://\S+)")
_WHOLE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CLOSING = ".,;:!)]}>'\""
"""What may follow a URL in a sentence, and is not taken for its last letters."""
_HOST = re.compile(r"([^/?#@:\[]*|\[[0-9A-Fa-f:.%]*\])(:[0-9]*)?(?=[/?#]|$)")
_SIGNING = re.compile(
    "x-(amz|goog|oss|cos|ms)-.*|awsaccesskeyid|googleaccessid|key-pair-id|policy|expires|"
    "s[vsprtei]|srt|spr|sip|sdd|ses|scid|skoid|sktid|skt|ske|sks|skv|saoid|suoid|"
    "(.*[-_])?sig|auth|session|.*(signature|token|secret|passw|pwd|credential).*",
    re.IGNORECASE,
)
"""Names of parameters of signed URLs (AWS, Google, Azure, CloudFront, tokens): they say who asks, and until when."""
_CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what is obeyed and not seen: controls, marks of direction, halves of bytes, line ends."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that a spreadsheet computes instead of showing it."""


def redacted(text: str) -> str:
    """The text with every URL in it stripped of user, password, query (signatures) and fragment.

    >>> redacted("https://user:secret@host/a.svs?X-Amz-Signature=1f cannot be opened")
    'https://host/a.svs cannot be opened'
    """
    return _URL.sub(_redacted, text) if "://" in text else text


def public_url(text: str) -> str:
    """A URL as a whole, also one with blanks in it, without user, password, query and fragment; other text `redacted`.

    >>> public_url("s3://key:secret@bucket/a b.svs?token=c d"), public_url("slides/a.svs")
    ('s3://bucket/a b.svs', 'slides/a.svs')
    """
    return _without_secrets(text).rstrip("/") if _WHOLE.match(text) else redacted(text)


def url_id(url: str) -> str:
    """A URL as the id of what it leads to: `public_url`, and a digest of what else its query asks for.

    The same for every signature, and different for two files that a server tells apart by its query alone.

    >>> url_id("https://host/a.svs?X-Amz-Signature=1f&X-Amz-Date=20260101")
    'https://host/a.svs'
    >>> url_id("https://host/get?file=1&token=1f"), url_id("https://host/get?file=2&token=1f")
    ('https://host/get [query 31926327]', 'https://host/get [query 77b583d4]')
    """
    query = url.partition("#")[0].partition("?")[2]
    asked = "&".join(p for p in query.split("&") if p and not _SIGNING.fullmatch(p.partition("=")[0]))
    if not asked:
        return public_url(url)
    digest = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{public_url(url)} [query {digest[:8]}]"


def printable(text: str) -> str:
    r"""The text on one line, with what cannot be seen as an escape: newlines, ESC, bytes that are no UTF-8.

    >>> printable("a\nb\x1b[31m.svs")
    'a\\nb\\x1b[31m.svs'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _CONTROLS else c for c in text)


def shown(text: str) -> str:
    """The text as people may see it: `printable` and `redacted`; in this order, since a secret may have a newline."""
    return redacted(printable(text))


def cell(text: str) -> str:
    """The text as a cell of a table: `shown`, and with an apostrophe before what a spreadsheet would compute.

    >>> cell("=cmd|' /C calc'!A0"), cell("-1.5"), cell("P-7")
    ("'=cmd|' /C calc'!A0", '-1.5', 'P-7')
    """
    text = shown(text)
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "slide"), counted(1200, "slide")
    ('1 slide', '1,200 slides')
    """
    return f"{count:,} {what}" + "s" * (count != 1)


def csv_bytes(header: Iterable[object], rows: Iterable[Iterable[object]], delimiter: str = ",") -> bytes:
    r"""A table as CSV in UTF-8, whose texts are as `cell` has them.

    >>> csv_bytes(["slide", "mpp"], [["=a.svs", 0.5], ["b.svs", None]])
    b"slide,mpp\n'=a.svs,0.5\nb.svs,\n"
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([cell(entry) if isinstance(entry, str) else entry for entry in row])
    return text.getvalue().encode("utf-8", "backslashreplace")


def csv_of_records(columns: Sequence[str], records: Iterable[Mapping[str, object]]) -> bytes:
    """`csv_bytes` of records by column; what a record lacks is empty."""
    return csv_bytes(columns, ([record.get(column, "") for column in columns] for record in records))


def _redacted(found: re.Match[str]) -> str:
    """A URL in a sentence: up to the quote that it begins with, else up to the next blank."""
    quote, url = found["quote"], found["url"]
    end = url.rfind(quote) if quote else -1
    end = len(url.rstrip(_CLOSING)) if end < 0 else end
    return quote + _without_secrets(url[:end]) + url[end:]


def _without_secrets(url: str) -> str:
    scheme, _, rest = url.partition("://")
    # A password may have a slash, a question mark, a hash or an @ in it: what is no host is cut off up to the next @.
    while "@" in rest and not _HOST.match(rest):
        rest = rest.partition("@")[2]
    host, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host if _HOST.match(host) else host.partition(':')[0]}{slash}{path}"


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
