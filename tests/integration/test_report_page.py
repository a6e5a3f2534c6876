"""The pages of the report in a real browser: Chromium, driven by Playwright, from disk and without network."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mt.report.comparison import write_comparison
from mt.report.page import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (the dev extra has it)")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
HOSTILE = ["<script>window.hacked = 1</script>", "A&amp;M </script>", "\"><img src=x onerror='window.hacked = 1'>"]
VOCABULARY = ["▁a", "▁man", "▁woman", "▁is", "▁walk", "ing", "▁in", "▁the", "▁park", "▁dog", "s", "▁playing"]
LINES = 130


def record(line: int, chooser: random.Random) -> dict[str, Any]:
    tokens = [*chooser.choices(VOCABULARY, k=12), "</s>"]
    confidences = [round(chooser.betavariate(4, 1), 4) for _ in tokens]
    source = f"Quelle Nummer {line}"
    if line < len(HOSTILE):
        source = HOSTILE[line]
        tokens[0] = "▁" + HOSTILE[line]
        confidences = [0.02] * len(tokens)
    return {
        "line": line,
        "source": source,
        "translation": "".join(tokens[:-1]).replace("▁", " ").strip(),
        "reference": HOSTILE[line] if line < len(HOSTILE) else "a man is walking in the park",
        "tokens": tokens,
        "token_confidence": confidences,
        "log_probs": [-0.1] * len(tokens),
        "chrf": round(100 * chooser.random(), 2),
        "bleu": round(100 * chooser.random(), 2),
        "confidence": sum(confidences) / len(confidences),
        "quality": (quality := 100 * chooser.random()),
        "quality_low": quality / 2,
        "quality_high": (quality + 100) / 2,
        "correct": [chooser.random() < 0.8 for _ in tokens],
        "alternatives": [[[token, -0.1], ["▁" + HOSTILE[2], -1.203973], ["</s>", -4.60517]] for token in tokens],
    }


def write_evaluation(folder: Path, seed: int, name: str) -> Path:
    chooser = random.Random(seed)
    records = [record(line, chooser) for line in range(LINES)]
    bins = [
        {"low": i / 4, "high": (i + 1) / 4, "count": 100 + i, "confidence": i / 4 + 0.125, "accuracy": i / 4 + 0.1}
        for i in range(4)
    ]
    block: dict[str, Any] = {
        "tokens": 406,
        "ece": 0.025,
        "mce": 0.025,
        "nll": 1.0,
        "brier": 0.2,
        "accuracy": 0.48,
        "confidence": 0.5,
        "bins": bins,
        "noise_floor": 0.01,
        "signature": "ece|bins:4|" * 8,
    }
    group = {"name": "1-9", "tokens": 10, "confidence": 0.5, "accuracy": 0.4, "ece": 0.1, "noise_floor": 0.07}
    block["breakdown"] = {"frequency": [group, group | {"name": "10+", "tokens": 500}]}
    score = {"score": 40.0, "low": 39.0, "high": 41.0, "signature": "nrefs:1|bs:1000|seed:12345|case:mixed|tok:13a"}
    quality = {"bleu": score, "chrf": score, "ter": score, "length_ratio": 0.98, "empties": 0}
    results = {
        **quality,
        "calibration": {"teacher_forced": block, "inference": block},
        "beam": 5,
        "beams": {beam: {**quality, "calibration": {"inference": block}} for beam in ("1", "5")},
        "sequence": {
            "selective": [
                {"coverage": 0.5, "lines": 65, "chrf": 70.0, "bleu": 50.0, "ter": 30.0},
                {"coverage": 1.0, "lines": 130, "chrf": 60.0, "bleu": 40.0, "ter": 40.0},
            ]
        },
        "model": {"name": name, "fingerprint": "0123456789abcdef" * 4},
        "data": {"source": "<b>test</b>.de", "references": ["test.en"], "lines": LINES},
    }
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of an evaluation and that of a comparison."""
    folder = tmp_path_factory.mktemp("report")
    both = [write_evaluation(folder / name, seed, f"system {name}") for seed, name in enumerate(("one", "two"))]
    return {"report": write_report(both[0]), "comparison": write_comparison(both, folder / "compare.html")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        try:
            started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start here: {str(error).splitlines()[0]}")
        yield started
        started.close()


class Opened:
    """A page in a window, and all that it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.address = path.as_uri()

    def close(self) -> None:
        """Nothing was wrong, and nothing but the file itself was asked for."""
        # the empty icon is data in the page
        assert [url for url in self.requests if not url.startswith("data:")] == [self.address]
        assert self.complaints == []
        self.page.context.close()

    def column(self, number: int) -> list[float]:
        texts = self.page.locator("#rows tr").evaluate_all(f"rows => rows.map(row => row.cells[{number}].textContent)")
        return [float(text.split()[0].replace("−", "-")) for text in texts]


@pytest.fixture
def report(browser: Any, pages: dict[str, Path]) -> Iterator[Opened]:
    opened = Opened(browser, pages["report"])
    yield opened
    opened.close()


def test_page_is_rendered_without_complaint_or_network(report: Opened) -> None:
    page = report.page
    assert page.title() == "Evaluation of system one"
    assert page.locator("figure svg").count() >= 2
    boxes = page.locator("figure svg").evaluate_all("all => all.map(each => each.getBoundingClientRect().width)")
    assert min(boxes) > 100
    assert page.locator("#rows tr").count() == 20
    page.click("#more")
    assert page.locator("#rows tr").count() == 120
    page.click("#more")
    assert page.locator("#rows tr").count() == LINES and page.locator("#more").is_hidden()
    page.reload()
    page.click("#whole")
    assert page.locator("#rows tr").count() == LINES and page.locator("#whole").is_hidden()
    report.requests.pop()  # of the second time


def test_least_sure_come_first_and_headings_sort(report: Opened) -> None:
    page = report.page
    heads = page.locator("#heads th")
    assert report.column(1) == sorted(report.column(1)) and report.column(1)[0] < 0.1
    assert heads.nth(1).get_attribute("aria-sort") == "ascending"
    for number, name in ((2, "Expected chrF"), (3, "chrF"), (4, "BLEU")):
        button = page.locator("#heads").get_by_role("button", name=name, exact=True)
        button.focus()
        page.keyboard.press("Enter")
        assert report.column(number) == sorted(report.column(number))
        assert heads.nth(number).get_attribute("aria-sort") == "ascending"
        assert page.locator("#heads [aria-sort]").count() == 1
        button.click()
        assert report.column(number) == sorted(report.column(number), reverse=True)
        assert heads.nth(number).get_attribute("aria-sort") == "descending"


def test_tables_of_figures_sort_by_number(report: Opened) -> None:
    report.page.get_by_text("By how often a token stands in the training text").click()
    table = report.page.locator("table.sortable", has_text="in training").first
    tokens = table.get_by_role("button", name="tokens")
    for expected in (["500", "10"], ["10", "500"]):
        tokens.click()
        assert table.locator("tbody tr td:nth-child(2)").all_text_contents() == expected


def test_search_and_filters(report: Opened) -> None:
    page = report.page
    page.fill("#search", "QUELLE NUMMER 77")
    assert page.locator("#rows tr").count() == 1 and "1 of 130" in page.locator("#count").inner_text()
    page.fill("#search", "nowhere to be found")
    assert page.locator("#rows tr").count() == 0 and page.locator("#more").is_hidden()
    page.fill("#search", "")
    page.select_option("#show", "wrong")
    assert page.locator("#rows tr:not(:has(.token.wrong))").count() == 0
    page.select_option("#show", "flagged")
    assert page.locator("#rows tr").count() == 0
    page.fill("#threshold", "0.1")
    assert page.locator("#rows tr").count() == len(HOSTILE) == page.locator("#rows .flag").count()
    page.select_option("#show", "empty")
    assert page.locator("#rows tr").count() == 0


def test_probabilities_show_by_keyboard_by_pointer_and_as_numbers(report: Opened) -> None:
    page = report.page
    tip = page.locator("#tip")
    page.fill("#search", "nummer 77")
    page.locator("#heads button").last.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.hash") == "#line-78"
    page.keyboard.press("Tab")
    first = page.locator("#rows .token").first
    assert first.evaluate("token => token === document.activeElement") and tip.is_visible()
    assert tip.locator("div").count() == 3  # the token, and two alternatives
    assert "0.300" in tip.inner_text() and "end of sentence" in tip.inner_text()  # exp(-1.203973)
    assert "the model itself said 0.905" in tip.inner_text()
    shown = tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#rows .token").nth(1).evaluate("token => token === document.activeElement")
    assert tip.is_visible() and tip.inner_text() != shown
    page.keyboard.press("End")
    assert page.locator("#rows .token").last.evaluate("token => token === document.activeElement")
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    first.hover()
    assert tip.is_visible() and tip.inner_text() == shown
    assert "; else " in (first.get_attribute("aria-label") or "")
    page.check("#numbers")
    number = first.evaluate("token => getComputedStyle(token, '::before').content")
    assert number.strip('"') == first.get_attribute("data-probability")


def test_shade_is_darker_and_striped_for_the_less_sure_on_both_scales(report: Opened) -> None:
    page = report.page
    for scale in ("linear", "logarithmic"):
        page.select_option("#scale", scale)
        shades = page.locator("#rows .token").evaluate_all(
            "all => all.map(each => [Number(each.dataset.confidence), Number(each.style.getPropertyValue('--doubt')),"
            " getComputedStyle(each).backgroundImage !== 'none'])"
        )
        shades.sort()
        doubts = [doubt for _, doubt, _ in shades]
        assert doubts == sorted(doubts, reverse=True) and doubts[0] > doubts[-1]
        assert all(striped == (confidence < 0.5) for confidence, _, striped in shades)


def test_skip_link_leads_to_the_translations(report: Opened) -> None:
    page = report.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the translations"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "translations"


def test_markup_in_a_corpus_stays_text(report: Opened) -> None:
    page = report.page
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2 and page.locator("b b").count() == 0
    text = page.locator("#rows").inner_text()
    assert all(hostile in text for hostile in HOSTILE)
    assert "<b>test</b>.de" in page.locator("header").inner_text()
    page.locator("#rows .token").first.hover()
    assert HOSTILE[2] in page.locator("#tip").inner_text() and page.locator("#tip img").count() == 0


@pytest.mark.parametrize("name", ["report", "comparison"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_and_has_contrast(browser: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    opened = Opened(browser, pages[name], width=360, scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.check("#numbers")
    page.locator("#rows .token").nth(3).focus()
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    ground, ink, soft = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        " getComputedStyle(document.querySelector('.soft')).color]"
    )
    assert (luminance(ground) < 0.1) == (scheme == "dark")
    assert contrast(ground, ink) > 7 and contrast(ground, soft) > 4.5
    tokens = page.locator("#rows .token").first.evaluate("token => getComputedStyle(token).color")
    assert tokens == ink
    opened.close()


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2)."""
    parts = [float(part) / 255 for part in colour[4:-1].split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours (WCAG 2)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_comparison_shows_outputs_side_by_side(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["comparison"])
    page = opened.page
    row = page.locator("#rows tr").first
    assert row.locator(".line > span:first-child").all_text_contents() == ["source", "A", "B", "reference"]
    page.get_by_role("button", name="Least expected chrF").click()
    assert opened.column(2) == sorted(opened.column(2))
    assert "expected chrF" in row.inner_text()
    page.select_option("#show", "differ")
    assert page.locator("#rows tr").count() == 20
    assert page.locator("#differences tbody tr").count() >= 6
    opened.close()


def test_lines_of_a_comparison_begin_with_the_largest_difference(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["comparison"])
    sizes = [abs(difference) for difference in opened.column(3)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 50
    assert {difference > 0 for difference in opened.column(3)} == {True, False}
    assert opened.page.locator("#heads th").nth(3).get_attribute("aria-sort") == "descending"
    opened.page.get_by_role("button", name="chrF B − A").click()
    assert opened.column(3)[0] in (0, min(opened.column(3), key=abs))
    opened.close()


def test_filters_tell_where_each_system_is_better(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["comparison"])
    page, counts = opened.page, []
    for value, label, sign in (("better-0", "A better, by chrF", -1), ("better-1", "B better, by chrF", 1)):
        page.select_option("#show", label=label)
        assert page.locator("#show").input_value() == value
        assert all(sign * difference > 0 for difference in opened.column(3))
        counts.append(int(page.locator("#count").inner_text().split()[0]))
    assert min(counts) > 20 and sum(counts) in (LINES - 1, LINES)  # a draw is neither
    opened.close()


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_an_address_opens_its_line_wherever_it_is(browser: Any, pages: dict[str, Path], name: str) -> None:
    opened = Opened(browser, pages[name])
    page = opened.page
    last = page.evaluate("JSON.parse(document.getElementById('data').textContent).rows.at(-1).n")
    page.goto(f"{opened.address}#line-{last}")  # a change of the part behind #: nothing is loaded again
    row = page.locator(f"#line-{last}")
    assert row.evaluate("row => row === document.activeElement && row.classList.contains('linked')")
    box = row.bounding_box()
    assert 0 <= box["y"] < 800
    page.fill("#search", "nowhere to be found")
    page.select_option("#show", "flagged")
    page.evaluate("location.hash = '#line-9'")
    page.wait_for_selector("#line-9.linked")
    assert page.locator("#search").input_value() == "" and page.locator(".linked").count() == 1
    page.evaluate(f"location.hash = '#line-{LINES + 1}'")
    page.wait_for_function("document.getElementById('count').textContent.includes('not in this page')")
    page.fill("#search", "Nummer 40")
    page.locator("#rows td a").first.click()
    assert page.url.endswith("#line-41")
    page.goto("about:blank")
    page.goto(f"{opened.address}#line-{last}")
    assert page.locator(f"#line-{last}.linked").bounding_box()["y"] < 800
    opened.requests[:] = [opened.address]
    opened.close()


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_the_lines_that_were_found_are_saved_as_a_table(
    browser: Any, pages: dict[str, Path], name: str, tmp_path: Path
) -> None:
    opened = Opened(browser, pages[name])
    page = opened.page
    page.fill("#search", "hacked")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "saved.tsv")
    assert download.value.suggested_filename == "translations.tsv"
    text = (tmp_path / "saved.tsv").read_bytes().decode("utf-8")
    head, *rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    system = ["translation", "confidence", "expected chrF", "chrF", "BLEU", "flagged"]
    of_systems = system if name == "report" else [f"{letter} {each}" for letter in "AB" for each in system]
    assert head == ["line", "source", *of_systems, "reference"]
    assert sorted(row[0] for row in rows) == ["1", "3"] and {len(row) for row in rows} == {len(head)}
    by_line = {row[0]: row for row in rows}
    assert by_line["1"][1] == HOSTILE[0] == by_line["1"][-1] and by_line["1"][2].startswith(HOSTILE[0])
    assert by_line["1"][3] == "0.02" and 0 <= float(by_line["1"][5]) <= 100 and by_line["1"][7] == "0"
    opened.requests[:] = [url for url in opened.requests if not url.startswith("blob:")]  # made in the page
    opened.close()


def test_what_would_end_a_cell_of_the_table_is_a_space(browser: Any, tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "odd", 3, "odd")
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text("utf-8").splitlines()]
    lines[5]["source"] = "one\ttwo\r\nthree\u2028four"
    (folder / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    opened = Opened(browser, write_report(folder))
    with opened.page.expect_download() as download:
        opened.page.click("#save")
    download.value.save_as(tmp_path / "saved.tsv")
    rows = (tmp_path / "saved.tsv").read_text("utf-8").removesuffix("\n").split("\n")
    assert len(rows) == 1 + LINES and {row.count("\t") for row in rows} == {8}
    assert any(row.startswith("6\tone two three four\t") for row in rows)
    opened.page.context.close()


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_tables_scroll_on_a_phone_behind_their_first_column(browser: Any, pages: dict[str, Path], name: str) -> None:
    opened = Opened(browser, pages[name], width=390)
    page = opened.page
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wide = page.locator(".scroll").evaluate_all(
        "all => all.map((each, index) => each.scrollWidth > each.clientWidth ? index : -1)"
    )
    wide = [index for index in wide if index >= 0]
    assert wide
    for index in wide:
        box = page.locator(".scroll").nth(index)
        left = "each => each.querySelector('tbody').rows[0].cells[0].getBoundingClientRect()"
        before = box.evaluate(f"{left}.left")
        box.evaluate("each => { each.scrollLeft = each.scrollWidth; }")
        assert box.evaluate("each => each.scrollLeft") > 0
        assert abs(box.evaluate(f"{left}.left") - before) < 1  # it stays, and can be read
        assert 70 < box.evaluate(f"{left}.width") < 200
    opened.close()


@pytest.mark.parametrize("name", ["report", "of six systems"])
def test_tables_fit_a_sheet_of_a4(browser: Any, pages: dict[str, Path], tmp_path: Path, name: str) -> None:
    path = pages.get(name)
    if path is None:
        systems = [write_evaluation(tmp_path / str(seed), seed, f"system {seed}") for seed in range(6)]
        path = write_comparison(systems, tmp_path / "six.html")
    opened = Opened(browser, path, width=687)  # 210 mm less margins of 14 mm, in pixels of CSS
    page = opened.page
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 687
    widths = page.locator("table, figure, .facts").evaluate_all(
        "all => all.map(each => each.getBoundingClientRect().right)"
    )
    assert max(widths) <= 687
    opened.close()


def test_page_prints_without_its_controls(report: Opened) -> None:
    report.page.emulate_media(media="print", color_scheme="dark")
    assert report.page.locator("#controls").is_hidden()
    assert luminance(report.page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9


def test_what_other_judges_found_stands_marked_under_the_tokens(tmp_path: Path, browser: Any) -> None:
    folder = write_evaluation(tmp_path / "judged", 3, "judged")
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    for each in records:
        errors = [{"start": 0, "end": 7, "severity": "critical"}, {"start": 5, "end": 10**6, "severity": "<b>"}]
        each["judged"] = {"comet": {"score": 0.25, "errors": errors if each["line"] == 0 else []}}
        each["labels"], each["correct"] = "people", [False, True, *[None] * (len(each["tokens"]) - 2)]
    (folder / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    opened = Opened(browser, write_report(folder))
    row = opened.page.locator("#rows tr", has=opened.page.locator(".judged mark"))
    assert row.locator(".judged .figures").inner_text() == "0.250"
    marks = row.locator(".judged mark")
    assert marks.all_inner_texts() == [records[0]["translation"][:5], records[0]["translation"][5:]]
    assert [mark.get_attribute("title") for mark in marks.all()] == ["critical", "<b>"]  # the last one that covers it
    said = [token.get_attribute("aria-label") for token in row.locator(".token").all()]
    assert "people found it wrong" in said[0] and "people found it right" in said[1] and "people" not in said[2]
    opened.close()
