"""Outputs that begin with a given text."""

from __future__ import annotations

from typing import Any

import pytest

from mt.decoding.scoring import score_pairs
from mt.decoding.translator import Translator
from mt.errors import UserError

LINES = ["der hund sieht einen ball", "frau", "frau", "frau", "", "die frau liest ein buch", "hund. " * 20]
PREFIXES = ["die", "hund ball", "", "ein rotes buch und ein rotes buch und ein rotes buch", "ball", "am\n", "frau am"]


@pytest.mark.parametrize(
    "options",
    [{"beam": 1}, {"beam": 3, "nbest": 3}, {"beam": 3, "sample": True}, {"no_repeat_ngram": 1, "max_output": 3}],
    ids=str,
)
def test_every_output_begins_with_its_prefix_and_has_its_forced_score(
    translator: Translator, options: dict[str, Any]
) -> None:
    tokenizer = translator.loaded.tokenizer
    begun = list(translator.translate(LINES, prefixes=PREFIXES, **options))
    free = list(translator.translate(LINES, **options))
    assert begun[2]["tokens"] == free[2]["tokens"]  # nothing is given
    assert begun[4] == free[4]  # a blank line stays one
    ids = tokenizer.encode_source(LINES)
    for record, prefix, source in zip(begun, PREFIXES, ids, strict=True):
        pieces = tokenizer.target_pieces(tokenizer.encode_target([prefix])[0][:-1])
        if not record["source"]:
            continue
        for output in record.get("nbest", [record]):
            assert output["tokens"][: len(pieces)] == pieces and output["tokens"][-1] == "</s>"
        if not record["source"].startswith("hund. "):
            target = [tokenizer._target.piece_to_id(piece) for piece in record["tokens"]]
            forced = next(score_pairs(translator.loaded, [source], [target]))
            assert record["log_probs"] == pytest.approx(forced.log_probs, abs=1e-4)


def test_only_the_first_part_of_a_split_line_has_the_prefix(translator: Translator) -> None:
    found: list[Any] = []
    search = translator.engine.search

    def spy(source_ids: list[list[int]], options: Any, prefixes: Any) -> Any:
        found.append(prefixes)
        return search(source_ids, options, prefixes)

    translator.engine.search = spy  # type: ignore[method-assign]
    try:
        list(translator.translate(LINES[-1:], prefixes=["ball"], beam=1))
        list(translator.translate(LINES[-1:], beam=1))
    finally:
        del translator.engine.search
    [first, *rest], nothing = found
    assert first == translator.loaded.tokenizer.encode_target(["ball"])[0][:-1]
    assert rest == [[]] * len(rest) != [] and nothing is None


@pytest.mark.parametrize("settings", [{"batch_tokens": 1}, {"window": 2}, {"processes": 2}], ids=str)
def test_batches_windows_and_processes_change_nothing(translator: Translator, settings: dict[str, Any]) -> None:
    copies = 20 if "processes" in settings else 1  # small windows are not dealt
    lines = LINES[:6] + [f"{line} {number}" for line in LINES[:6] if line for number in range(copies)]
    prefixes = (PREFIXES[:6] * 20)[: len(lines)]
    options: dict[str, Any] = {"beam": 2, "max_output": 4}
    expected = list(translator.translate(lines, prefixes=prefixes, **options))
    found = list(translator.translate(lines, prefixes=iter(prefixes), **{**options, **settings}))
    assert [each["tokens"] for each in found] == [each["tokens"] for each in expected]


@pytest.mark.parametrize("count", [1, 3])
def test_other_than_one_prefix_a_line_is_one_clear_error(translator: Translator, count: int) -> None:
    with pytest.raises(UserError, match="not as many prefixes as lines"):
        list(translator.translate(["ball", "frau"], prefixes=["ein"] * count, beam=1))
