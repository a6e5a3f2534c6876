from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from mt.serving.batching import Batcher
from mt.serving.protocol import Refused


class Model:
    """Upper case for a translation; works when it is let, and notes its searches."""

    def __init__(self) -> None:
        self.searches: list[tuple[list[str], int]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, lines: list[str], nbest: int) -> list[dict[str, Any]]:
        self.searches.append((lines, nbest))
        assert self.free.wait(10)
        if "bad" in lines:
            raise ValueError("bad line")
        return [{"translation": line.upper()} for line in lines]


def texts(records: list[dict[str, Any]]) -> list[str]:
    return [record["translation"] for record in records]


def occupied(model: Model, batcher: Batcher) -> Any:
    """Lets the model begin with a request, and not end."""
    model.free.clear()
    result = batcher.submit(["first"], 1)
    while not model.searches:
        time.sleep(0.001)
    return result


def test_requests_that_arrive_together_are_one_search_and_each_gets_its_own() -> None:
    model = Model()
    batcher = Batcher(model, 100, seconds=0.2)
    results = [batcher.submit([f"a{number}", f"b{number}"], 1) for number in range(5)]
    assert [texts(each.result(5)) for each in results] == [[f"A{number}", f"B{number}"] for number in range(5)]
    assert len(model.searches) == 1 and len(model.searches[0][0]) == 10


def test_other_numbers_of_translations_are_other_searches() -> None:
    model = Model()
    batcher = Batcher(model, 100, seconds=0.2)
    results = [batcher.submit([str(number)], 1 + number % 2) for number in range(6)]
    assert [texts(each.result(5)) for each in results] == [[str(number)] for number in range(6)]
    assert model.searches == [(["0", "2", "4"], 1), (["1", "3", "5"], 2)]


def test_a_batch_holds_so_many_lines_and_does_not_wait_for_more() -> None:
    model = Model()
    batcher = Batcher(model, 100, most_lines=4, seconds=60)
    results = [batcher.submit(["x"] * count, 1) for count in (1, 2, 3, 7)]
    for each in results[:3]:
        each.result(5)
    batcher.close()
    assert [len(lines) for lines, _ in model.searches] == [3, 3, 7] and len(results[3].result(5)) == 7


def test_what_arrives_while_the_model_works_goes_next_and_too_much_is_refused() -> None:
    model = Model()
    batcher = Batcher(model, most_waiting=3)
    first = occupied(model, batcher)
    waiting = [batcher.submit([str(number)], 1) for number in range(3)]
    with pytest.raises(Refused, match="too many requests"):
        batcher.submit(["one too many"], 1)
    assert waiting[1].cancel()  # its client went away: there is room again
    waiting.append(batcher.submit(["3"], 1))
    model.free.set()
    assert texts(first.result(5)) == ["FIRST"]
    assert [texts(waiting[number].result(5)) for number in (0, 2, 3)] == [["0"], ["2"], ["3"]]
    assert model.searches[1:] == [(["0", "2", "3"], 1)]


def test_a_request_that_fails_leaves_the_others_of_its_batch_whole() -> None:
    model = Model()
    batcher = Batcher(model, 100, seconds=0.2)
    results = [batcher.submit([line], 1) for line in ("good", "bad", "fine")]
    assert texts(results[0].result(5)) == ["GOOD"] and texts(results[2].result(5)) == ["FINE"]
    with pytest.raises(ValueError, match="bad line"):
        results[1].result(5)
    assert texts(batcher.submit(["goes on"], 1).result(5)) == ["GOES ON"]


def test_closing_finishes_what_waits_and_takes_no_more() -> None:
    model = Model()
    batcher = Batcher(model, 100, seconds=60)
    waiting = batcher.submit(["last"], 1)
    batcher.close()
    assert texts(waiting.result(0)) == ["LAST"]
    with pytest.raises(Refused, match="ending"):
        batcher.submit(["late"], 1)
