"""An S3 server that fails on demand: a proxy in front of moto's, which counts requests."""

import hashlib
import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

_OWN_HEADERS = {"connection", "expect", "transfer-encoding", "content-length", "date", "server"}


@dataclass(frozen=True)
class Reply:
    """A reply of the server behind the proxy."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Request(BaseHTTPRequestHandler):
    """One request at the proxy, for a fault to answer."""

    protocol_version = "HTTP/1.1"
    server: "_Proxy"

    def handle_one_request(self) -> None:
        """Ignores a connection that either side closed."""
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def respond(self) -> None:
        """Forward the request, or apply the next fault."""
        self.sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        (self.server.faulty.fault_for(self.command, self.path) or Request.answer)(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = respond  # noqa: N815

    def log_message(self, *_arguments: object) -> None:
        """Logs nothing."""

    def forward(self) -> Reply:
        """The reply of the server behind."""
        behind = http.client.HTTPConnection(*self.server.faulty.behind, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN_HEADERS}
        behind.request(self.command, self.path, self.sent, headers)
        reply = behind.getresponse()
        body = reply.read()
        behind.close()
        return Reply(reply.status, reply.getheaders(), body)

    def answer(self) -> None:
        """Send the reply of the server behind unchanged."""
        reply = self.forward()
        self.begin(reply)
        self.wfile.write(reply.body)

    def begin(self, reply: Reply) -> None:
        """The head of a reply; the length it announces is that of the whole body."""
        self.send_response(reply.status)
        for name, value in reply.headers:
            if name.lower() not in _OWN_HEADERS or (self.command == "HEAD" and name.lower() == "content-length"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()

    def reset(self) -> None:
        """End the connection as a crash would."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


Fault = Callable[[Request], None]


def refusal(status: int, code: str, message: str = "no") -> Fault:
    """An error of S3."""

    def fault(request: Request) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        reply = Reply(status, [("Content-Type", "application/xml")], b"" if request.command == "HEAD" else body)
        request.begin(reply)
        request.wfile.write(reply.body)

    return fault


slow_down = refusal(503, "SlowDown", "Please reduce your request rate.")
internal_error = refusal(500, "InternalError")
expired = refusal(400, "ExpiredToken", "The provided token has expired.")
denied = refusal(403, "AccessDenied", "Access Denied")


def drip(request: Request) -> None:
    """A byte now and then, for ten seconds: no time-out between two bytes would end it."""
    reply = request.forward()
    request.begin(reply)
    for index in range(100):
        request.wfile.write(reply.body[index : index + 1])
        request.wfile.flush()
        time.sleep(0.1)


def cut(request: Request) -> None:
    """Half of the body, then a proper end of the connection."""
    reply = request.forward()
    request.begin(reply)
    request.wfile.write(reply.body[: len(reply.body) // 2])
    request.close_connection = True


def reset_in_body(request: Request) -> None:
    """Half of the body, then a reset."""
    reply = request.forward()
    request.begin(reply)
    request.wfile.write(reply.body[: len(reply.body) // 2])
    request.reset()


def lost_reply(request: Request) -> None:
    """The server carries out the request, but its reply is lost."""
    request.forward()
    request.reset()


class FaultyS3:
    """The proxy's address, its counts of requests, and the requests that are to fail."""

    def __init__(self, behind: tuple[str, int]) -> None:
        self.behind = behind
        self.requests: Counter[str] = Counter()
        """Number of requests of each 'METHOD /path' since reset()."""
        self.n_failed = 0
        """Number of requests that failed."""
        self._in_turn: list[tuple[re.Pattern[str], list[Fault]]] = []
        self._always: list[tuple[re.Pattern[str], Fault]] = []
        self._share, self._seed = 0.0, 0
        self._kinds: tuple[Fault, ...] = ()
        self._in_a_row: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._proxy = _Proxy(self)
        self.url = f"http://127.0.0.1:{self._proxy.server_address[1]}"

    def once(self, request: str, *faults: Fault) -> None:
        """The next requests whose 'METHOD /path' matches fail so, one after the other."""
        self._in_turn.append((re.compile(request), list(faults)))

    def always(self, request: str, fault: Fault) -> None:
        """All requests whose 'METHOD /path' matches fail so."""
        self._always.append((re.compile(request), fault))

    def at_random(self, share: float, seed: int, *kinds: Fault) -> None:
        """Let this share of all requests fail in one of these ways, but none more than three times in a row."""
        self._share, self._seed, self._kinds = share, seed, kinds

    def reset(self) -> None:
        """Remove all faults and counts."""
        with self._lock:
            self._in_turn.clear()
            self._always.clear()
            self._share = 0.0
            self._in_a_row.clear()
            self.requests.clear()
            self.n_failed = 0

    def fault_for(self, method: str, path: str) -> Fault | None:
        """The fault for this request, if any."""
        said = f"{method} {path.partition('?')[0]}"
        with self._lock:
            self.requests[said] += 1
            fault = self._choose(said)
            self.n_failed += fault is not None
            return fault

    def _choose(self, said: str) -> Fault | None:
        for pattern, faults in self._in_turn:
            if faults and pattern.search(said):
                return faults.pop(0)
        for pattern, fault in self._always:
            if pattern.search(said):
                return fault
        draw = hashlib.sha256(f"{self._seed} {said} {self.requests[said]}".encode()).digest()
        if draw[0] / 256 >= self._share or self._in_a_row[said] == 3:
            self._in_a_row[said] = 0
            return None
        self._in_a_row[said] += 1
        return self._kinds[draw[1] % len(self._kinds)]

    def stop(self) -> None:
        """End the proxy."""
        self._proxy.shutdown()
        self._proxy.server_close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, faulty: FaultyS3) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.faulty = faulty
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Prints no tracebacks of clients that disconnect."""


@contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    """A faulty S3 server, which ends with the block."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    faulty = FaultyS3(moto.get_host_and_port())
    yield faulty
    faulty.stop()
    moto.stop()
