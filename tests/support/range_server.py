"""A loopback server of byte ranges with a delay, in a process of its own: what a bucket far away looks like.

The process ends with the block that started it, and by itself when its parent dies (its standard input closes).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

CONTROL = "/-/"
MOST_SECONDS = 600


class RangeServer:
    """Serves the files below `folder` on 127.0.0.1, every answer `latency` seconds late.

    faults: a status each for the first requests ("503"), or "drop" (close without an answer), "cut" (half of the
        body), "stall" (no answer at all), "trickle" (20 bytes a second); afterwards all is well.
    ranges: False: a server that ignores Range and sends the whole file.
    etag: False: no ETag, only the time of change.
    """

    def __init__(
        self,
        folder: Path,
        latency: float = 0.0,
        faults: tuple[str, ...] = (),
        ranges: bool = True,
        etag: bool = True,
        authorization: str = "",
    ) -> None:
        self._settings = json.dumps(
            {
                "folder": str(folder),
                "latency": latency,
                "faults": faults,
                "ranges": ranges,
                "etag": etag,
                "authorization": authorization,
            }
        )

    def __enter__(self) -> RangeServer:
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, self._settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def counts(self) -> dict[str, int]:
        """Since the last `reset`: requests, bytes sent, connections opened, most requests at the same time."""
        return self._control("counts")

    def reset(self) -> None:
        """Count from 0 again."""
        self._control("reset")

    def _control(self, name: str) -> dict[str, int]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", CONTROL + name)
            counts: dict[str, int] = json.loads(connection.getresponse().read())
            return counts
        finally:
            connection.close()


class _Server:
    """The other process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.folder = Path(settings["folder"])
        self.latency: float = settings["latency"]
        self.faults: list[str] = settings["faults"]
        self.ranges: bool = settings["ranges"]
        self.etag: bool = settings["etag"]
        self.authorization: str = settings["authorization"]
        self.zero()

    def zero(self) -> None:
        self.requests = self.sent = self.connections = self.running = self.most = 0

    def counts(self) -> dict[str, int]:
        return {
            "requests": self.requests,
            "bytes": self.sent,
            "connections": self.connections,
            "at_once": self.most,
        }

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if not await self.request(head.decode("latin-1").split("\r\n"), writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def request(self, lines: list[str], writer: asyncio.StreamWriter) -> bool:
        """Answer; False where the connection is to be closed."""
        method, target, _ = lines[0].split(" ")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        if target.startswith(CONTROL):
            counts = self.counts()
            if target == CONTROL + "reset":
                self.zero()
            self.connections = max(self.connections - 1, 0)
            return await send(writer, "200 OK", {}, json.dumps(counts).encode())
        self.requests += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            fault = self.faults.pop(0) if self.faults else ""
            if fault == "stall":
                await asyncio.sleep(MOST_SECONDS)
            if fault == "drop":
                return False
            if fault.isdigit():
                return await send(writer, f"{fault} Fault", {}, b"as told")
            if self.authorization and headers.get("authorization") != self.authorization:
                return await send(writer, "401 Unauthorized", {}, b"who are you?")
            return await self.file(writer, method, target, headers, fault)
        finally:
            self.running -= 1

    async def file(
        self, writer: asyncio.StreamWriter, method: str, target: str, headers: dict[str, str], fault: str
    ) -> bool:
        path = self.folder / unquote(urlsplit(target).path).lstrip("/")
        if not path.is_file():
            return await send(writer, "404 Not Found", {}, b"no such file")
        facts = path.stat()
        size, status, start, stop = facts.st_size, "200 OK", 0, facts.st_size
        answer = {"Accept-Ranges": "bytes", "Last-Modified": "Sat, 01 Jan 2000 00:00:00 GMT"}
        if self.etag:
            answer["ETag"] = f'"{facts.st_mtime_ns:x}-{size:x}"'
        if self.ranges and "range" in headers:
            start, stop = limits(headers["range"], size)
            if start >= size:
                answer["Content-Range"] = f"bytes */{size}"
                return await send(writer, "416 Range Not Satisfiable", answer, b"")
            status, answer["Content-Range"] = "206 Partial Content", f"bytes {start}-{stop - 1}/{size}"
        if method == "HEAD":
            return await send(writer, status, answer, b"", stop - start)
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        self.sent += len(body)
        at_once = {"cut": len(body) // 2, "trickle": 0}.get(fault, len(body))
        await send(writer, status, answer, body[:at_once], len(body))
        for at in range(at_once, len(body)) if fault == "trickle" else ():
            writer.write(body[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0.05)
        return fault != "cut"


async def send(
    writer: asyncio.StreamWriter, status: str, headers: dict[str, str], body: bytes, length: int | None = None
) -> bool:
    """Write an answer; the connection stays open."""
    headers = {**headers, "Content-Length": str(len(body) if length is None else length)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body)
    await writer.drain()
    return True


def limits(text: str, size: int) -> tuple[int, int]:
    """`bytes=a-b`, `bytes=a-` or `bytes=-n` as (first, one past the last)."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


async def serve(settings: dict[str, Any]) -> None:
    server = await asyncio.start_server(_Server(settings).connection, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    await asyncio.wait_for(loop.run_in_executor(None, sys.stdin.read), MOST_SECONDS)


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
