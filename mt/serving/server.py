"""The server: HTTP before the queue, with the standard library's, and a bound to whatever a client can send."""

from __future__ import annotations

import ipaddress
import json
import select
import signal
import socket
import threading
import time
import traceback
from collections import deque
from concurrent.futures import Future, wait
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from mt.corpus.languages import language_name
from mt.errors import UserError, out_of_memory, visible
from mt.progress import log_line
from mt.serving.batching import Batcher, Records
from mt.serving.protocol import Refused, Terms, answer, read_request

SECONDS = 30
"""for which a client may be silent"""
_MOST_CONNECTIONS = 256
_MOST_DISCARDED = 1 << 24  # bytes of a body that is too large: read, so that the client comes to read the answer
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",  # and what the page says
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_ROUTES = {"/": ("GET", "HEAD"), "/languages": ("GET", "HEAD"), "/health": ("GET", "HEAD"), "/translate": ("POST",)}


class Server(ThreadingHTTPServer):
    """Serves a page, and LibreTranslate's protocol, at an address. Raises OSError where it cannot be had."""

    request_queue_size = 128
    timeout = 0.2  # seconds after which `serve` looks whether it shall end

    def __init__(self, host: str, port: int, terms: Terms, batcher: Batcher, page: str, log: bool = False) -> None:
        self.terms, self.batcher, self.page, self.log = terms, batcher, page.encode("utf-8"), log
        self.under_way: deque[None] = deque()  # as long as there are requests that are being answered
        self._connections = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)
        address, self.server_port = self.server_address[:2]
        # A page of another site whose name is made to lead here (DNS rebinding) still sends that name.
        local = ipaddress.ip_address(str(address)).is_loopback
        self.hosts = {"localhost", "127.0.0.1", "::1", host.lower()} if local else None
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def server_bind(self) -> None:
        """As it is inherited, but the name of the address is not asked for, which can take long."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serves a connection in a thread of its own; drops it where there are too many."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.close_request(request)

    def shutdown_request(self, request: Any) -> None:
        """The end of a connection that was served."""
        super().shutdown_request(request)
        self._connections.release()

    def serve(self) -> None:
        """Answers until Ctrl-C or SIGTERM; then finishes what is under way. A second Ctrl-C does not wait for that."""
        ending: list[int] = []

        def end(signum: int, frame: object) -> None:
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
        while self.under_way and time.monotonic() < until:
            time.sleep(0.02)


class _Handler(BaseHTTPRequestHandler):
    """A connection: one request after the other."""

    server: Server
    protocol_version = "HTTP/1.1"  # connections are kept
    timeout = SECONDS
    disable_nagle_algorithm = True
    server_version, sys_version = "mt", ""
    path = ""

    def handle(self) -> None:
        with suppress(OSError):  # the client went away
            super().handle()

    def handle_one_request(self) -> None:
        self.began, self.lines = time.monotonic(), 0  # for the log
        super().handle_one_request()

    def _serve(self) -> None:
        try:
            body = self._body()
            self.server.under_way.append(None)
            try:
                self._send(200, *self._answer(body))
            finally:
                self.server.under_way.pop()
        except Refused as refused:
            self.send_error(refused.status, refused.why, headers=refused.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve

    def _body(self) -> bytes:
        """What was sent. Raises Refused for a body of unknown length, or one that is too long or does not come."""
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or (self.command == "POST" and not lengths):
            raise Refused(411, "a body needs its Content-Length here")
        if len(lengths) > 1 or not all(each.isascii() and each.isdigit() for each in lengths):
            raise Refused(400, "Content-Length must be one whole number")
        length = int((lengths or "0")[0][:18])
        # A character takes at most twelve bytes: \ud83d\ude00, or %F0%9F%98%80.
        most = 12 * self.server.terms.most_characters + 4096
        try:
            if length > most:
                for _ in range(min(length, _MOST_DISCARDED) >> 16):
                    self.rfile.read(1 << 16)
                raise Refused(413, f"the body has {length} bytes; send at most {most}")
            if len(body := self.rfile.read(length)) == length:
                return body
        except TimeoutError:
            raise Refused(408, f"nothing came for {SECONDS} seconds") from None
        raise ConnectionResetError

    def _answer(self, body: bytes) -> tuple[bytes, str]:
        """The content of the answer, and its type. Raises Refused."""
        self._check_origin()
        path = urlsplit(self.path).path
        if path not in _ROUTES or not self.path.startswith("/"):
            raise Refused(404, f"nothing is at {visible(self.path[:80])}; there are {', '.join(_ROUTES)}")
        if self.command not in _ROUTES[path]:
            allowed = ", ".join(_ROUTES[path])
            raise Refused(405, f"{path} takes {allowed}, not {self.command}", Allow=allowed)
        if path == "/":
            return self.server.page, "text/html"
        if path == "/health":
            return _json({"status": "ok"})
        if path == "/translate":
            return _json(self._translated(body))
        source, target = self.server.terms[:2]
        pairs: list[tuple[str, list[str]]] = [(source, [target]), (target, [])]
        return _json([{"code": code, "name": language_name(code), "targets": targets} for code, targets in pairs])

    def _check_origin(self) -> None:
        """Raises Refused for a request that comes here under another's name, or that a page of another site sends."""
        host, hosts = self.headers.get("Host", ""), self.server.hosts
        try:
            known = hosts is None or urlsplit(f"//{host}").hostname in hosts
        except ValueError:
            known = False
        if not known:
            raise Refused(403, f"the Host header is {visible(host[:80])!r}; here it must be localhost or 127.0.0.1")
        site, origin = self.headers.get("Sec-Fetch-Site"), self.headers.get("Origin")
        own = site in ("same-origin", "none") if site else origin in (None, f"http://{host}", f"https://{host}")
        if not own:
            raise Refused(403, "pages of other sites are not served")

    def _translated(self, body: bytes) -> dict[str, Any]:
        batcher, terms = self.server.batcher, self.server.terms
        wanted = read_request(body, self.headers.get("Content-Type", ""), terms)
        self.lines = len(wanted.lines)
        try:
            return answer(wanted, self._wait(batcher.submit(wanted.lines, wanted.alternatives + 1)), terms)
        except (Refused, ConnectionResetError):
            raise
        except Exception as error:
            log_line(str(error) if isinstance(error, UserError) else traceback.format_exc())
            if out_of_memory(error):
                raise Refused(503, "there is not enough memory for this request; send less at once") from None
            raise Refused(500, "the server failed at this request; its log says how") from None

    def _wait(self, result: Future[Records]) -> Records:
        """Waits for the result, unless the client goes away: then nobody wants it."""
        while not wait([result], timeout=0.2).done:
            if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                result.cancel()
                raise ConnectionResetError
        return result.result()

    def _send(self, status: int, content: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        own = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content))}
        for name, value in (own | _HEADERS | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        if self.server.log:
            took, path = time.monotonic() - self.began, self.path.partition("?")[0][:80]
            log_line(f"{self.client_address[0]} {self.command} {path} {status}, {took:.3f} s, {self.lines} lines")

    def send_error(self, code: int, message: str | None = None, explain: Any = None, headers: Any = None) -> None:
        """Answers with an error and ends the connection, whatever else was sent. The library calls it, too."""
        content, kind = _json({"error": message or self.responses[code][0]})
        self._send(code, content, kind, Connection="close", **headers or {})  # "close" ends it

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `_send` tells."""


def _json(value: Any) -> tuple[bytes, str]:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), "application/json"
