"""URLs: from one to the store behind it, and from what obstore says when that fails to a sentence.

Credentials are in URLs (signatures, passwords) and in what obstore and servers say about errors; none of them gets
into a message.
"""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from wsi_ats.errors import ConfigError
from wsi_ats.shown import redacted

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

SCHEMES = ("https", "http", "s3", "gs", "az")
CLIENT: ClientConfig = {"connect_timeout": "10s", "read_timeout": "20s", "timeout": "300s"}
RETRIES: RetryConfig = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
}


def connect(url: str, address: str) -> tuple[ObjectStore, str]:
    """The store behind a URL and the path in it. Raises ConfigError, with `address` for the URL."""
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{address}: slides cannot be read from {scheme}://",
            f"give a path, or one of {', '.join(SCHEMES)}",
        )
    try:
        import obstore.store
    except ImportError as error:
        raise ConfigError(
            f"{address}: slides behind a URL need obstore, which is not installed",
            "pip install 'wsi-ats[remote]'",
        ) from error
    try:
        if scheme in ("http", "https"):
            store = obstore.store.HTTPStore(_plain(url), client_options=_client(url), retry_config=RETRIES)
            return store, ""
        bucket, _, path = url.partition("://")[2].partition("/")
        if "@" in bucket:
            raise ConfigError(
                f"{address}: a user in a URL of {scheme}:// is not taken",
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what obstore takes for this store",
            )
        # Plain http only where the user names such an endpoint (AWS_ENDPOINT=http://...).
        options: ClientConfig = {**CLIENT, "allow_http": True}
        root = obstore.store.from_url(f"{scheme}://{bucket}", client_options=options, retry_config=RETRIES)
        return root, path.strip("/")
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise ConfigError(f"{address} cannot be opened: {reason(str(error))}", "check the URL") from None


def _plain(url: str) -> str:
    """The URL without its user and a slash at the end, with its query."""
    parts = urlsplit(url)
    return parts._replace(
        netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/"), fragment=""
    ).geturl()


def _client(url: str) -> ClientConfig:
    """Plain http where the URL says so, and its user and password where it has them."""
    parts = urlsplit(url)
    options: ClientConfig = {**CLIENT, "allow_http": parts.scheme.lower() == "http"}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        options["default_headers"] = {"Authorization": f"Basic {base64.b64encode(login).decode()}"}
    return options


def status(said: str) -> str:
    """HTTP status in a message of obstore; "" where there is none."""
    found = re.search(r"status code: (\d{3})", said)
    return found[1] if found else ""


def reason(said: str) -> str:
    """Reason why a request failed, without the URL and without what the server wrote: both may hold credentials."""
    if found := re.search(r"status code: (\d{3}[A-Za-z ]*)", said):
        retries = re.search(r"after (\d+) retries", said)
        more = f", {retries[0]}" if retries else ""
        if found[1].startswith("403"):
            more = "; a bucket that may not be listed answers so for a file that is not there, too"
        return f"the server answers {found[1].strip()}{more}"
    if "RangeNotSupported" in said:
        return "the server cannot send parts of a file (it ignores the Range header)"
    if found := re.search(r'(?:message|error): "([^"]+)"', said):
        return redacted(found[1])
    if "IncompleteMessage" in said or "ConnectionReset" in said:
        return "the server closes the connection without an answer"
    if "TimedOut" in said:
        return "the server does not answer in time"
    if "kind: Body" in said:
        return "the connection breaks within the answer"
    return redacted(said.splitlines()[0]) if said else "no reason given"
