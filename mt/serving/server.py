"""The server: HTTP around the queue, with the standard library's, and a bound to everything that a client can send."""

from __future__ import annotations

import io
import ipaddress
import json
import select
import signal
import socket
import threading
import time
import traceback
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from mt.errors import UserError, out_of_memory, visible
from mt.progress import log_line
from mt.serving.batching import Batcher, Busy, Closed, Records
from mt.serving.protocol import Refused, Terms, answer, read_request

SECONDS = 30.0
"""in which a request has to arrive, and an answer to be taken"""
_MOST_CONNECTIONS = 256
_MOST_DISCARDED = 1 << 24  # bytes of a body that is too large: read, so that the client comes to read the answer
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_ROUTES = {"/": "GET, HEAD", "/languages": "GET, HEAD", "/health": "GET, HEAD", "/translate": "POST"}


class Server(ThreadingHTTPServer):
    """Serves a page, and LibreTranslate's protocol, at an address. Raises OSError where it cannot be had."""

    request_queue_size = 128
    timeout = 0.2  # seconds after which `serve` looks whether it shall end

    def __init__(self, host: str, port: int, terms: Terms, batcher: Batcher, page: str, log: bool = False) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.terms, self.batcher, self.page, self.log = terms, batcher, page.encode("utf-8"), log
        self._connections = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._busy, self._lock = 0, threading.Lock()
        super().__init__((host, port), _Handler)
        address = self.server_address[0]
        local = ipaddress.ip_address(address).is_loopback
        # A page of another site whose name is made to lead here (DNS rebinding) still sends that name.
        self.hosts = {"localhost", "127.0.0.1", "::1", host.lower(), address} if local else None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """As it is inherited, without asking what the address is called, which can take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serves a connection in a thread of its own; drops it where there are too many."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As it is inherited, and counts connections."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells of a fault; that a client went away is none."""
        log_line(traceback.format_exc())

    def busy(self, change: int) -> None:
        """Counts the requests that are being answered."""
        with self._lock:
            self._busy += change

    def serve(self) -> None:
        """Answers until Ctrl-C or SIGTERM; then finishes what has begun. A second Ctrl-C does not wait for that."""
        ending: list[int] = []

        def end(signum: int, frame: FrameType | None) -> None:
            if ending:
                raise KeyboardInterrupt
            ending.append(signum)

        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, end)
        while not ending:
            self.handle_request()
        self.server_close()
        self.batcher.close()
        until = time.monotonic() + SECONDS
        while self._busy and time.monotonic() < until:
            time.sleep(0.02)


class _Incoming(io.RawIOBase):
    """What a client sends; raises TimeoutError where that is not there in time."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.until = connection, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.connection.settimeout(max(self.until - time.monotonic(), 0.001))
        if time.monotonic() > self.until:
            raise TimeoutError
        return self.connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """A connection: one request after the other."""

    server: Server
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True
    server_version, sys_version = "mt", ""

    def setup(self) -> None:
        super().setup()
        self.incoming = _Incoming(self.connection)
        self.rfile = io.BufferedReader(self.incoming)

    def handle(self) -> None:
        with suppress(OSError):  # the client went away
            super().handle()

    def handle_one_request(self) -> None:
        self.incoming.until = time.monotonic() + SECONDS
        super().handle_one_request()

    def _serve(self) -> None:
        """Answers any request."""
        self.began, self.told = time.monotonic(), ""
        self.server.busy(+1)
        try:
            try:
                content, kind = self._answer()
            except Refused as refused:
                self.send_error(refused.status, refused.why, headers=refused.headers)
            else:
                self._send(200, content, kind)
        finally:
            self.server.busy(-1)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve

    def _answer(self) -> tuple[bytes, str]:
        """The content of the answer, and its type. Raises Refused."""
        body = self._body()
        self._check_origin()
        path = urlsplit(self.path).path if self.path.startswith("/") else self.path
        if path not in _ROUTES:
            raise Refused(404, f"nothing is at {visible(path[:80])}; there are {', '.join(_ROUTES)}")
        if self.command not in _ROUTES[path].split(", "):
            raise Refused(405, f"{self.command} is not answered at {path}", Allow=_ROUTES[path])
        if path == "/":
            return self.server.page, "text/html"
        if path == "/translate":
            return _json(self._translated(body))
        return _json(self.server.terms.languages() if path == "/languages" else {"status": "ok"})

    def _body(self) -> bytes:
        """What was sent. Raises Refused for a body of unknown length, or one that is too long or not there in time."""
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or (self.command == "POST" and not lengths):
            raise Refused(411, "a body needs its Content-Length here")
        if len(lengths) > 1 or not all(each.isascii() and each.isdigit() and len(each) < 19 for each in lengths):
            raise Refused(400, "Content-Length must be one whole number")
        length = int(lengths[0]) if lengths else 0
        # A character takes at most twelve bytes: \ud83d\ude00, or %F0%9F%98%80.
        most = 12 * self.server.terms.most_characters + 4096
        try:
            if length > most:
                for _ in range(min(length, _MOST_DISCARDED) >> 16):
                    self.rfile.read(1 << 16)
                raise Refused(413, f"the body has {length} bytes; send at most {most}")
            body = self.rfile.read(length)
        except TimeoutError:
            raise Refused(408, f"the request was not there in {SECONDS:g} seconds") from None
        if len(body) < length:
            raise ConnectionResetError
        return body

    def _check_origin(self) -> None:
        """Raises Refused for a request that comes here under another's name, or that a page of another site sends."""
        hosts, host = self.server.hosts, self.headers.get("Host", "")
        with suppress(ValueError):
            if hosts is None or urlsplit(f"//{host}").hostname in hosts:
                site, origin = self.headers.get("Sec-Fetch-Site"), self.headers.get("Origin")
                if site in ("same-origin", "none") or (site is None and origin in (None, *_origins(host))):
                    return
                raise Refused(403, "pages of other sites are not served")
        raise Refused(403, f"the Host header is {visible(host[:80])}; this server answers to {', '.join(sorted(hosts or ()))}")

    def _translated(self, body: bytes) -> dict[str, Any]:
        server = self.server
        wanted = read_request(body, self.headers.get("Content-Type", ""), server.terms)
        lines = wanted.lines
        self.told = f", {len(lines)} lines"
        try:
            return answer(wanted, self._wait(server.batcher.submit(lines, wanted.alternatives + 1)), server.terms)
        except Busy:
            raise Refused(429, "too many requests are waiting; try again in a second", **{"Retry-After": "1"}) from None
        except Closed:
            raise Refused(503, "the server is ending") from None
        except (Refused, OSError):
            raise
        except Exception as error:
            log_line(str(error) if isinstance(error, UserError) else traceback.format_exc())
            if out_of_memory(error):
                raise Refused(503, "there is not enough memory for this request; send less at once") from None
            raise Refused(500, "the server failed at this request; its log says how") from None

    def _wait(self, result: Future[Records]) -> Records:
        """Waits for the result, unless the client goes away: then nobody wants it."""
        while True:
            try:
                return result.result(timeout=0.2)
            except NotYet:
                if result.done():  # it is the result
                    raise
                if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                    result.cancel()
                    raise ConnectionResetError from None

    def _send(self, status: int, content: bytes, kind: str, **headers: str) -> None:
        self.connection.settimeout(SECONDS)
        self.send_response(status)
        length = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content))}
        for name, value in {**length, **_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        if self.server.log:
            took = time.monotonic() - getattr(self, "began", time.monotonic())
            path = visible(urlsplit(getattr(self, "path", "")).path[:80])
            log_line(f"{self.client_address[0]} {self.command} {path} {status}, {took:.3f} s{getattr(self, 'told', '')}")

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """Answers with an error, after which the connection ends: what is left of the request is not read. The library
        calls it, too, for what is no HTTP."""
        self.close_connection = True
        content, kind = _json({"error": message or self.responses[code][0]})
        self._send(code, content, kind, Connection="close", **headers or {})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `_send` tells."""


def _origins(host: str) -> tuple[str, str]:
    return f"http://{host}", f"https://{host}"


def _json(value: Any) -> tuple[bytes, str]:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), "application/json"
