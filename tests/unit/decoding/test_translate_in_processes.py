"""Windows of lines that are dealt to worker processes: the records of one process, read no further than needed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from mt.decoding.translator import Translator

WORDS = ["der", "hund", "sieht", "einen", "kleinen", "ball", "und", "die", "frau", "liest", "fluss"]


def lines(count: int) -> list[str]:
    generator = random.Random(4)
    return [" ".join(generator.choices(WORDS, k=generator.randint(0, 9))) for _ in range(count)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the workers have, so that results are the same to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_records_are_those_of_one_process(translator: Translator) -> None:
    text = [*lines(320), "hund ball. " * 30, *lines(50)]  # windows that are dealt, and one that is too small
    expected = list(translator.translate(text, window=180, nbest=2, alignments=True))
    dealt = translator.translate(text, window=180, nbest=2, alignments=True, processes=2)
    assert list(dealt) == expected


def test_reads_no_further_than_the_workers_can_take(translator: Translator) -> None:
    read = 0

    def text() -> Iterator[str]:
        nonlocal read
        for line in lines(3000):
            read += 1
            yield line

    records = translator.translate(text(), window=120, processes=2, beam=1)
    next(records)
    assert 120 < read <= 720  # some windows ahead: at least one, and no more than two pieces of work a process
    records.close()  # type: ignore[attr-defined]
