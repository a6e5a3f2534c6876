"""tools/serve.py as a process, on a model with random weights, asked by many at once and by a real browser."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from mt.cli.serve import main
from mt.cli.translate import main as translate
from mt.errors import UserError

ROOT = Path(__file__).parents[2]
WORDS = ["ein", "Hund", "läuft", "eine", "Katze", "schläft", "der", "Mann", "singt", "Lied", "Frau", "liest", "Buch"]


class Served:
    """A server in a process of its own."""

    def __init__(self, model: Path, *options: str) -> None:
        command = [sys.executable, str(ROOT / "tools/serve.py"), str(model), "--port", "0", "--threads", "1", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.told = self.process.stdout.readline()
        found = re.search(r"http://\S+/", self.told)
        assert found, self.process.communicate()
        self.url = found[0]

    def ask(self, text: str | list[str], **fields: Any) -> dict[str, Any]:
        body = json.dumps({"q": text, "source": "de", "target": "en", **fields}).encode()
        request = Request(self.url + "translate", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as response:
            told: dict[str, Any] = json.load(response)
        return told

    def end(self, signum: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and standard error."""
        self.process.send_signal(signum)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture
def serve(tiny_model: Path) -> Iterator[Callable[..., Served]]:
    servers: list[Served] = []

    def started(*options: str) -> Served:
        servers.append(Served(tiny_model, *options))
        return servers[-1]

    yield started
    for each in servers:
        each.process.kill()
        each.process.communicate()


def some_lines(count: int) -> list[str]:
    chooser = random.Random(3)
    lines = [" ".join(chooser.choices(WORDS, k=chooser.randint(1, 9))) for _ in range(count - 3)]
    return [*lines, "", "🙂", "Hund " * 300]


def test_200_requests_of_20_clients_at_once_give_what_translate_gives(
    serve: Callable[..., Served], tiny_model: Path, tmp_path: Path
) -> None:
    lines = some_lines(200)
    (tmp_path / "in").write_text("".join(line + "\n" for line in lines))
    given = [str(tiny_model), "--input", str(tmp_path / "in"), "--format", "jsonl", "--threads", "1"]
    for nbest in (1, 4):
        assert translate([*given, "--output", str(tmp_path / str(nbest)), "--nbest", str(nbest)]) == 0
    records = {n: [json.loads(line) for line in (tmp_path / str(n)).read_text().splitlines()] for n in (1, 4)}
    server = serve("--engine", "torch")
    with ThreadPoolExecutor(20) as clients:
        answers = [*clients.map(lambda each: server.ask(each[1], alternatives=3 * (each[0] % 2)), enumerate(lines))]
    for number, told in enumerate(answers):
        record = records[4 if number % 2 else 1][number]
        assert told["translatedText"] == record["translation"] == records[1][number]["translation"]
        assert told["confidence"] == pytest.approx(record["confidence"], rel=1e-4)
        if number % 2:
            assert told["alternatives"] == [each["translation"] for each in record["nbest"][1:]]
    whole = server.ask("\n".join(lines[:20]))
    assert whole["translatedText"] == "\n".join(record["translation"] for record in records[1][:20])
    assert server.ask(lines[:20])["translatedText"] == [record["translation"] for record in records[1][:20]]
    assert server.end() == (0, "")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_finishes_what_is_under_way_when_it_is_told_to_end(serve: Callable[..., Served], signum: int) -> None:
    server = serve("--engine", "torch", "--max_characters", "20000", "--beam", "20")
    lines, told = some_lines(400)[:-1], list[dict[str, Any]]()
    asking = threading.Thread(target=lambda: told.append(server.ask(lines)))
    asking.start()
    time.sleep(0.3)
    assert server.end(signum)[0] == 0
    asking.join()
    assert len(told[0]["translatedText"]) == len(lines)


def test_lines_are_flagged_and_the_first_line_says_what_and_where(
    serve: Callable[..., Served], tiny_model: Path
) -> None:
    server = serve("--flag_below", "1", "--host", "localhost")
    assert server.told.startswith(f"de to en, {tiny_model}: http://localhost:")
    told = server.ask("ein Hund\n", tokens=True)
    assert told["flagged"] and [line["flagged"] for line in told["lines"]] == [True, False]  # a blank line is sure
    with pytest.raises(HTTPError, match="400"):
        server.ask("ein Hund", target="fr")


def test_ctranslate2_serves_where_it_is_asked_for(serve: Callable[..., Served]) -> None:
    pytest.importorskip("ctranslate2")
    server, other = serve("--engine", "ctranslate2"), serve("--engine", "torch")
    lines = some_lines(30)
    assert server.ask(lines)["translatedText"] == other.ask(lines)["translatedText"]


def test_what_cannot_be_served_is_told_in_a_line(tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match=f"127.0.0.1, port {port}: .*; give another --host or --port"):
            main([str(tiny_model), "--port", port])
    for options, words in (
        (["--host", "no.such.name.invalid"], "give another --host"),
        (["--flag_below", "30", "--flag_by", "quality"], "is not calibrated"),
        (["--flag_below", "2"], "confidence is 0 to 1"),
        (["--port", "70000"], "--port"),
        (["--beam", "0"], "--beam"),
        (["--top_k", "3"], "only sampling draws"),
    ):
        with pytest.raises(UserError, match=words):
            main([str(tiny_model), "--port", "0", *options])


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_translates_what_is_typed(serve: Callable[..., Served], width: int, scheme: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (the dev extra has it)")
    server = serve("--engine", "torch", "--max_characters", "200", "--flag_below", "1")
    text = "ein Hund <img src=x onerror='window.hacked = 1'>"
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(
                executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
            )
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start here: {str(error).splitlines()[0]}")
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        complaints: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(server.url)
        assert page.title() == "German to English: model"

        page.locator("#text").press_sequentially(text, delay=5)  # faster than the pause that a request waits for
        told = server.ask(text, alternatives=4, tokens=True)["lines"][0]
        playwright.expect(page.locator("#spoken")).to_have_text(told["translation"])
        page.wait_for_selector("#output:not(.stale) .token")
        shown = page.locator("#output .told > .tokens").text_content()
        assert "".join(shown.split()) == "".join((told["translation"] + "end").split())
        assert page.locator("#output li").count() == len(told["alternatives"]) > 0
        assert page.locator("#output .flag").count() == 1
        assert sum(url.endswith("/translate") for url in requests) < len(text) / 4  # one, unless the machine is slow

        token, tip = page.locator("#output .told > .tokens .token").first, page.locator("#tip")
        token.hover()
        probability = f"{told['tokens'][0]['confidence']:.3f}"
        assert tip.is_visible() and probability in tip.inner_text()
        page.keyboard.press("Escape")
        assert tip.is_hidden()
        token.focus()
        page.keyboard.press("ArrowRight")
        assert tip.is_visible() and page.evaluate("document.activeElement.className").startswith("token")
        doubts = page.locator("#output .told > .tokens .token").evaluate_all(
            "all => all.map(each => Number(each.style.getPropertyValue('--doubt')))"
        )
        expected = [0.75 * (1 - each["confidence"]) for each in told["tokens"]]
        assert doubts == pytest.approx(expected[: len(doubts)], abs=1e-3)
        page.check("#numbers")
        assert page.evaluate("document.documentElement.scrollWidth") == width

        assert complaints == [] and page.evaluate("window.hacked") is None and page.locator("img").count() == 0
        assert all(url.startswith(server.url) for url in requests)
        page.fill("#text", "ein Hund\n\neine Katze")
        page.locator("#output .source").nth(1).wait_for()
        page.fill("#text", "x" * 201)
        page.wait_for_selector("#status.error")
        assert "201 characters are too many" in page.locator("#status").inner_text()
        assert page.locator("#output.stale").count() == 1  # what it shows is of another text, and looks so
        page.fill("#text", "  ")
        page.wait_for_selector("#output:empty")
        server.end()
        page.fill("#text", "ein Hund")
        page.wait_for_selector("#status.error")
        assert "does not answer" in page.locator("#status").inner_text()
        browser.close()
