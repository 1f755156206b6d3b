"""A proxy in front of an object store: delays, errors, resets, little bandwidth and silence, for chosen requests."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Self

CHUNK_BYTES = 64 << 10
MOST_DRAINED_BYTES = 64 << 20
"""Of the body of a request that is refused: a client that is answered earlier sees a reset."""
CODES = {400: "ExpiredToken", 403: "AccessDenied", 404: "NoSuchBucket", 500: "InternalError", 503: "SlowDown"}
"""What S3 calls the errors that are injected."""


@dataclass
class Fault:
    """What happens to some requests. Several values in one fault all apply.

    Args:
        methods: Of HTTP, such as `PUT`; none: all.
        path: Regular expression, searched in the path with its query.
        after: Number of such requests that are let through first.
        times: Number of requests that it hits after that; None: all.
        latency_s: The request arrives that much later.
        status: It never arrives; this is the answer.
        code: The S3 error code of that answer; None: the usual one.
        bytes_per_s: Bandwidth of all requests that this fault hits, together, in each direction.
        reset_after_bytes: The connection is reset after that much of the body of a request with a body, else of the
            response.
        black_hole: It never arrives, and there is no answer until `FaultProxy.clear`.
    """

    methods: Collection[str] = ()
    path: str = ""
    after: int = 0
    times: int | None = None
    latency_s: float = 0
    status: int | None = None
    code: str | None = None
    bytes_per_s: float | None = None
    reset_after_bytes: int | None = None
    black_hole: bool = False
    num_hits: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _free_at: dict[str, float] = field(default_factory=dict, init=False)

    def hits(self, method: str, path: str) -> bool:
        """Whether this request is hit; it is counted."""
        if (self.methods and method not in self.methods) or not re.search(self.path, path):
            return False
        with self._lock:
            if self.after:
                self.after -= 1
                return False
            if self.times is not None and self.num_hits >= self.times:
                return False
            self.num_hits += 1
            return True

    def delay_s(self, num_bytes: int, direction: str) -> float:
        """Return how long these bytes have to wait for their turn."""
        if not self.bytes_per_s:
            return 0
        with self._lock:
            now = time.monotonic()
            self._free_at[direction] = max(now, self._free_at.get(direction, now)) + num_bytes / self.bytes_per_s
            return self._free_at[direction] - now


_NONE = Fault()


@dataclass
class Request:
    """A request that the proxy has seen."""

    method: str
    path: str
    status: int | None = None
    """Of its answer; None if there was none."""
    at: float = field(default_factory=time.monotonic)


class FaultProxy:
    """A context with a proxy on loopback.

    Args:
        port: Of the server behind it, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.requests: list[Request] = []
        self.valid_keys: set[str] | None = None
        """Access keys that have not expired; None: all."""
        self._faults: list[Fault] = []
        self._connections: set[_Connection] = set()
        self.cleared = threading.Event()

    def __enter__(self) -> Self:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # closing alone does not wake the thread that accepts
        self._server.close()
        self.clear()
        for connection in tuple(self._connections):
            connection.reset()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def add(self, fault: Fault) -> Fault:
        """From now on, requests are hit; the newest fault that fits a request counts."""
        self._faults.insert(0, fault)
        return fault

    def clear(self) -> None:
        """No faults any more; requests in a black hole end with a reset."""
        self._faults = []
        self.cleared.set()
        self.cleared = threading.Event()

    def seen(self, method: str, path: str = "") -> list[Request]:
        """Return the requests so far with this method and a path that this expression is found in."""
        return [each for each in tuple(self.requests) if each.method == method and re.search(path, each.path)]

    def fault(self, method: str, path: str) -> Fault:
        """Return what happens to a request."""
        return next((each for each in tuple(self._faults) if each.hits(method, path)), _NONE)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            connection = _Connection(self, client)
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: _Connection) -> None:
        try:
            with suppress(OSError, ValueError):
                connection.serve()
        finally:
            connection.close()
            self._connections.discard(connection)


class _Connection:
    """A connection of a client, and the one to the server behind it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket) -> None:
        self._proxy, self._client = proxy, client
        self._upstream: socket.socket | None = None
        self._fault, self._request = _NONE, Request("", "")
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def serve(self) -> None:
        """Pass requests on until the client, or a fault, ends the connection."""
        reader = self._client.makefile("rb")
        while head := _read_head(reader):
            method, path, _ = head[0].decode("latin-1").split(" ", 2)
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.decode("latin-1").partition(":") for line in head[1:])
            }
            self._request = Request(method, path)
            self._proxy.requests.append(self._request)
            self._fault = fault = self._proxy.fault(method, path)
            cleared = self._proxy.cleared
            if fault.black_hole:
                cleared.wait()
                return self.reset()
            if fault.latency_s:
                cleared.wait(fault.latency_s)
            status, code = fault.status, fault.code
            if self._is_expired(headers.get("authorization", "")):
                status, code = 400, "ExpiredToken"
            if status is not None:
                return self._refuse(reader, headers, status, code or CODES.get(status, "InternalError"))
            self._send(b"".join(line + b"\r\n" for line in head) + b"\r\n")
            _copy_body(reader, headers, self._forward)
        return None

    def _is_expired(self, authorization: str) -> bool:
        valid, found = self._proxy.valid_keys, re.search(r"Credential=([^/]+)/", authorization)
        return valid is not None and (found is None or found[1] not in valid)

    def _refuse(self, reader: BinaryIO, headers: dict[str, str], status: int, code: str) -> None:
        """Answer without the server. The rest of the connection's life would be hard to tell: it is closed."""
        if "expect" not in headers and int(headers.get("content-length", 0)) <= MOST_DRAINED_BYTES:
            _copy_body(reader, headers, lambda data: None)
        body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        body = b"" if self._request.method == "HEAD" else body
        head = f"HTTP/1.1 {status} Injected\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        self._request.status = status
        self._client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._client.shutdown(socket.SHUT_WR)
        self._client.settimeout(5)
        while reader.read(CHUNK_BYTES):  # until the client closes: a close with unread data would be a reset
            pass

    def _send(self, data: bytes) -> None:
        if self._upstream is None:
            self._upstream = socket.create_connection(("127.0.0.1", self._proxy.upstream))
            self._upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._answer, args=(self._upstream,), daemon=True).start()
        self._sent = 0
        self._upstream.sendall(data)

    def _forward(self, data: bytes) -> None:
        self._sent += len(data)
        if self._fault.reset_after_bytes is not None and self._sent >= self._fault.reset_after_bytes:
            self.reset()
            raise OSError("reset")
        time.sleep(self._fault.delay_s(len(data), "up"))
        assert self._upstream is not None
        self._upstream.sendall(data)

    def _answer(self, upstream: socket.socket) -> None:
        request, received = None, 0
        with suppress(OSError):
            while data := upstream.recv(CHUNK_BYTES):
                if request is not self._request:
                    request, received = self._request, 0
                if (found := re.match(rb"HTTP/1\.\d (\d+)", data)) and found[1] != b"100":
                    request.status = int(found[1])
                received += len(data)
                fault = self._fault
                if fault.reset_after_bytes is not None and not self._sent and received >= fault.reset_after_bytes:
                    return self.reset()
                time.sleep(fault.delay_s(len(data), "down"))
                self._client.sendall(data)
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)  # wakes `serve`
        return None

    def reset(self) -> None:
        """End the connection as a broken line does: the client gets an error and not an end."""
        with suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Reading from it in another thread keeps a closed socket alive: this wakes that thread.
            self._client.shutdown(socket.SHUT_RD)
        self.close()

    def close(self) -> None:
        """Close both connections."""
        for each in (self._client, self._upstream):
            if each is not None:
                with suppress(OSError):
                    if each is self._upstream:
                        each.shutdown(socket.SHUT_RDWR)
                    each.close()


def _read_head(reader: BinaryIO) -> list[bytes]:
    """Return the lines of the head of a request; none at the end of the connection."""
    lines: list[bytes] = []
    while (line := reader.readline()) not in (b"\r\n", b""):
        lines.append(line.rstrip(b"\r\n"))
    return lines if line else []


def _copy_body(reader: BinaryIO, headers: dict[str, str], write: Callable[[bytes], None]) -> None:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while True:
            line = reader.readline()
            num_bytes = int(line.split(b";")[0], 16)
            write(line + reader.read(num_bytes + 2))
            if num_bytes == 0:
                return
    left = int(headers.get("content-length", 0))
    while left:
        data = reader.read1(min(left, CHUNK_BYTES))  # type: ignore[attr-defined]
        if not data:
            raise OSError("the client has ended in the middle of a request")
        left -= len(data)
        write(data)
