"""The server over real sockets, with upper case for a translation."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mt.serving import server as serving
from mt.serving.batching import Batcher
from mt.serving.protocol import Terms
from mt.serving.server import Server

ASKED = {"q": "hund", "source": "de", "target": "en"}
Start = Callable[..., Server]


def upper(lines: list[str], nbest: int) -> list[dict[str, Any]]:
    if "fault" in lines:
        raise ValueError("this text is a secret")
    if "memory" in lines:
        raise MemoryError
    return [{"translation": line.upper(), "confidence": 1.0} for line in lines]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers, which end with the test."""
    servers: list[Server] = []

    def started(translate: Any = upper, host: str = "127.0.0.1", most_waiting: int = 100, log: bool = False) -> Server:
        terms = Terms("de", "en", 1000, 4, None)
        servers.append(Server(host, 0, terms, Batcher(translate, most_waiting), "<p>the page", log))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield started
    for each in servers:
        each.shutdown()
        each.server_close()


def ask(
    server: Server, method: str = "POST", path: str = "/translate", body: Any = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, content and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    if method == "POST" and not isinstance(body, bytes):
        body = json.dumps({**ASKED, **(body or {})}).encode()
        headers = {"Content-Type": "application/json", **headers}
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    kind = response.headers.get("Content-Type", "")
    return response.status, json.loads(content) if "json" in kind and content else content, dict(response.headers)


def raw(server: Server, request: bytes) -> bytes:
    """What comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_pages_and_lists(start: Start) -> None:
    server = start()
    status, content, headers = ask(server, "GET", "/?x=1")
    assert (status, content, headers["Content-Type"]) == (200, b"<p>the page", "text/html; charset=utf-8")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    assert ask(server, "HEAD", "/")[:2] == (200, b"")
    assert ask(server, "GET", "/health")[:2] == (200, {"status": "ok"})
    assert ask(server, "GET", "/languages")[1] == [
        {"code": "de", "name": "German", "targets": ["en"]},
        {"code": "en", "name": "English", "targets": []},
    ]
    assert ask(server, body={"q": "ein hund\n\nzwei"})[1] == {"translatedText": "EIN HUND\n\nZWEI", "confidence": 1.0}


def test_a_connection_serves_many_requests(start: Start) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", start().server_port, timeout=10)
    for number in range(3):
        body = json.dumps({**ASKED, "q": f"hund {number}"})
        connection.request("POST", "/translate", body, {"Content-Type": "application/json"})
        assert json.loads(connection.getresponse().read())["translatedText"] == f"HUND {number}"
    connection.close()


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        ({"method": "GET", "path": "/../etc/passwd"}, 404, "nothing is at /../etc/passwd; there are /, /languages"),
        ({"method": "GET", "path": "http://evil.org/", "Host": "localhost"}, 404, "nothing is at http://evil.org/"),
        ({"method": "POST", "path": "/detect"}, 404, "nothing is at /detect"),
        ({"method": "GET"}, 405, "/translate takes POST, not GET"),
        ({"method": "OPTIONS"}, 405, "/translate takes POST"),
        ({"method": "DELETE", "path": "/"}, 405, "/ takes GET, HEAD"),
        ({"method": "BREW", "path": "/"}, 501, "BREW"),
        ({"body": {"source": "fr"}}, 400, "source is fr"),
        ({"body": b"{"}, 415, "application/json"),
        ({"body": b"{", "Content_Type": "application/json"}, 400, "the body is not what its type"),
        ({"body": {"q": "x" * 1001}}, 413, "1001 characters"),
        ({"body": {"q": "x" * 8_000_000}}, 413, "the body has"),
        ({"body": b"x", "Transfer_Encoding": "chunked"}, 411, "Content-Length"),
        ({"body": b"x", "Content_Length": "1x"}, 400, "Content-Length"),
        ({"body": b"x", "Content_Length": "-1"}, 400, "Content-Length"),
        ({"Host": "evil.org:5000"}, 403, "the Host header is 'evil.org:5000'"),
        ({"Host": "[127.0.0.1"}, 403, "the Host header"),
        ({"Origin": "https://evil.org"}, 403, "other sites"),
        ({"Origin": "null"}, 403, "other sites"),
        ({"Sec_Fetch_Site": "cross-site"}, 403, "other sites"),
        ({"body": {"q": "fault"}}, 500, "its log says how"),
        ({"body": {"q": "memory"}}, 503, "not enough memory"),
    ],
)
def test_each_error_is_one_clear_answer_and_the_server_stays(
    start: Start, call: dict[str, Any], status: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start()
    told, content, headers = ask(server, **call)
    assert told == status and words in content["error"] and "secret" not in str(content)
    assert headers["Connection"] == "close" and [*content] == ["error"]
    assert ("Allow" in headers) == (status == 405)
    assert ask(server)[1]["translatedText"] == "HUND"
    assert ("Traceback" in capfd.readouterr().err) == (status in (500, 503))


def test_own_pages_and_programs_are_served(start: Start) -> None:
    server = start()
    own = f"127.0.0.1:{server.server_port}"
    for headers in ({}, {"Origin": f"http://{own}"}, {"Sec_Fetch_Site": "same-origin"}, {"Host": "localhost"}):
        assert ask(server, **headers)[0] == 200
    everywhere = start(host="0.0.0.0")
    assert everywhere.hosts is None and ask(everywhere, Host="name.example")[0] == 200
    assert ask(everywhere, Host="name.example", Origin="http://name.example")[0] == 200
    assert ask(everywhere, Host="name.example", Origin="http://evil.org")[0] == 403


def test_what_is_no_request_gets_an_answer_too(start: Start) -> None:
    server = start()
    assert b'"error"' in raw(server, b"\x16\x03\x01 nonsense\r\n\r\n")
    assert b'"error"' in raw(server, b"GET / HTTP/9.9\r\n\r\n")
    assert b" 431 " in raw(server, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n")
    assert b" 414 " in raw(server, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n")
    both = b"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
    assert b" 400 " in raw(server, both)
    chunked = b"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 411 " in raw(server, chunked + b"0\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert raw(server, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").endswith(b"<p>the page")
    assert ask(server)[0] == 200


def test_many_clients_at_once_lose_nothing_and_share_searches(start: Start) -> None:
    searches = list[int]()

    def translate(lines: list[str], nbest: int) -> list[dict[str, Any]]:
        searches.append(len(lines))
        time.sleep(0.005)
        return upper(lines, nbest)

    server = start(translate)
    texts = [f"hund {number}" for number in range(200)]
    with ThreadPoolExecutor(20) as clients:
        answers = [*clients.map(lambda text: ask(server, body={"q": text}), texts)]
    assert [(status, told["translatedText"]) for status, told, _ in answers] == [(200, text.upper()) for text in texts]
    assert sum(searches) == 200 and len(searches) < 100


def test_too_many_requests_are_told_to_come_again(start: Start) -> None:
    free, begun = threading.Event(), threading.Event()

    def slow(lines: list[str], nbest: int) -> list[dict[str, Any]]:
        begun.set()
        assert free.wait(10)
        return upper(lines, nbest)

    server = start(slow, most_waiting=2)
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(server))) for _ in range(3)]
    threads[0].start()
    assert begun.wait(10)
    for each in threads[1:]:
        each.start()
    while len(server.batcher._waiting) < 2:
        time.sleep(0.005)
    status, content, headers = ask(server)
    assert status == 429 and "too many requests" in content["error"] and headers["Retry-After"] == "1"
    assert ask(server, "GET", "/health")[0] == 200
    free.set()
    for each in threads:
        each.join()
    assert [status for status, _, _ in answers] == [200] * 3


def test_a_client_that_goes_away_is_not_translated_for(start: Start) -> None:
    free, seen = threading.Event(), list[list[str]]()

    def slow(lines: list[str], nbest: int) -> list[dict[str, Any]]:
        seen.append(lines)
        assert free.wait(10)
        return upper(lines, nbest)

    server = start(slow)
    first = threading.Thread(target=ask, args=(server,))
    first.start()
    while not seen:
        time.sleep(0.005)
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        body = json.dumps({**ASKED, "q": "gone"}).encode()
        head = "POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while not server.batcher._waiting:
            time.sleep(0.005)
    while not server.batcher._waiting[0].result.cancelled():
        time.sleep(0.01)
    free.set()
    first.join()
    assert ask(server, body={"q": "next"})[1]["translatedText"] == "NEXT"
    assert seen == [["hund"], ["next"]]


def test_silent_clients_are_left_after_a_while(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    assert serving._Handler.timeout == 30
    monkeypatch.setattr(serving._Handler, "timeout", 0.2)
    server = start()
    assert raw(server, b"") == b""
    assert b" 408 " in raw(server, b"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab")
    assert ask(server)[0] == 200


def test_connections_are_bounded_and_free_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_MOST_CONNECTIONS", 2)
    server = start()
    for _ in range(3):
        assert ask(server)[0] == 200
    address = ("127.0.0.1", server.server_port)
    idle = [socket.create_connection(address, timeout=5) for _ in range(2)]
    with socket.create_connection(address, timeout=5) as third:
        assert third.recv(1) == b""
    for each in idle:
        each.close()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            assert ask(server)[0] == 200
            break
        except (ConnectionError, http.client.HTTPException):
            time.sleep(0.02)  # the threads of the two have not noticed yet
    else:
        pytest.fail("connections stay taken")


def test_the_log_tells_of_requests_without_their_text(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    ask(start(), body={"q": "secret"})
    assert capfd.readouterr().err == ""
    server = start(log=True)
    ask(server, body={"q": "secret\nhund"})
    ask(server, "GET", "/health?q=secret")
    lines = list[str]()
    while len(lines) < 2:  # they are written after the answer
        lines += capfd.readouterr().err.splitlines()
        time.sleep(0.01)
    assert lines[0].startswith("127.0.0.1 POST /translate 200, ") and lines[0].endswith(" s, 2 lines")
    assert lines[1].startswith("127.0.0.1 GET /health 200, ") and "secret" not in "".join(lines)
