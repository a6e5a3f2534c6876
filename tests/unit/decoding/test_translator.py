from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mt
from mt.config_file import search_config
from mt.decoding.records import json_line, translation_output
from mt.decoding.scoring import score_lines
from mt.decoding.translator import Translator
from mt.decoding.types import Hypothesis
from mt.errors import UserError, UserTypeError

LINES = [
    "der hund sieht einen ball",
    "",
    "frau",
    "   ",
    "die frau liest ein rotes buch am alten fluss und der hund",
    "ein\u2028rotes buch",
    "\0",
    "hund \0 ball",
    "🙂 ball 🙂",
    "\t",
    "\r",
    "buch\r",
    "\ud800 ball",
    "\u200b",
    "ﬁ ÄÖÜ ß",
    "wort " * 14,
    "am alten fluss",
    "." * 60,
]


def similar(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    """The same tokens, scores within 1e-4."""
    assert [record["tokens"] for record in first] == [record["tokens"] for record in second]
    assert [record["translation"] for record in first] == [record["translation"] for record in second]
    for one, other in zip(first, second, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["log_probs"] == pytest.approx(other["log_probs"], abs=1e-4)


def test_every_line_has_its_record(translator: Translator) -> None:
    records = list(translator.translate(LINES))
    assert [record["line"] for record in records] == list(range(len(LINES)))
    assert [record["source"] for record in records] == [line.replace("\ud800", "\ufffd") for line in LINES]
    for record in records:
        assert len(record["translation"].splitlines()) <= 1
        assert len(record["tokens"]) == len(record["log_probs"]) == len(record["token_confidence"])
        assert "nbest" not in record
        written = json_line(record)
        assert len(written.splitlines()) == 1 and json.loads(written) == record
        written.encode()


def test_blank_lines_do_not_reach_the_model(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translator.loaded.model, "encode", None)
    records = list(translator.translate(["", " \t", "\u2028", "\r", "\u200b"]))
    for record in records:
        assert record["translation"] == "" and record["score"] == 0 and record["confidence"] == 1
        assert record["tokens"] == record["log_probs"] == record["token_confidence"] == []


@pytest.mark.parametrize("beam", [1, 4])
def test_batches_windows_and_neighbours_change_nothing(translator: Translator, beam: int) -> None:
    expected = list(translator.translate(LINES, beam=beam))
    similar(list(translator.translate(LINES, beam=beam, batch_tokens=1)), expected)
    small_windows = list(translator.translate(LINES, beam=beam, batch_tokens=100_000, window=3))
    similar(small_windows, expected)
    assert [record["line"] for record in small_windows] == list(range(len(LINES)))
    order = list(range(len(LINES)))
    random.Random(3).shuffle(order)
    shuffled = list(translator.translate([LINES[index] for index in order], beam=beam, batch_tokens=900))
    similar(shuffled, [expected[index] for index in order])


def test_first_lines_alone_are_translated_alike(translator: Translator) -> None:
    similar(list(translator.translate(LINES[:3])), list(translator.translate(LINES))[:3])


def test_record_is_consistent(translator: Translator) -> None:
    tokenizer = translator.loaded.tokenizer
    for record in translator.translate(LINES[:3] + LINES[4:9], length_penalty="gnmt", length_alpha=0.6):
        if not record["tokens"]:
            continue
        assert record["tokens"][-1] == "</s>"
        length = len(record["tokens"])
        assert record["score"] == pytest.approx(sum(record["log_probs"]) / ((5 + length) / 6) ** 0.6, abs=1e-4)
        assert record["token_confidence"] == pytest.approx(np.exp(record["log_probs"]).tolist(), abs=1e-6)
        assert record["confidence"] == pytest.approx(np.mean(record["token_confidence"]), abs=1e-6)
        assert tokenizer.pad_id not in record["tokens"]


def test_padding_and_beginning_are_never_chosen(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, step = translator.loaded.tokenizer, translator.loaded.model.step

    def tempting(tokens: torch.Tensor, state: Any) -> torch.Tensor:
        logits = step(tokens, state)
        logits[:, [tokenizer.pad_id, tokenizer.begin_id]] += 20.0
        return logits

    monkeypatch.setattr(translator.loaded.model, "step", tempting)
    for record in translator.translate(["hund ball", "frau"], nbest=5):
        for output in record["nbest"]:
            assert not {"<pad>", "<s>"} & set(output["tokens"])


def test_nbest_is_sorted_and_unique(translator: Translator) -> None:
    for record in translator.translate(LINES[:5], beam=6, nbest=6):
        best = record["nbest"]
        texts = [output["translation"] for output in best]
        assert len(set(texts)) == len(texts) <= 6
        assert [output["score"] for output in best] == sorted((output["score"] for output in best), reverse=True)
        assert {key: record[key] for key in best[0]} == best[0]


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"minimum_bayes_risk": "chrf", "candidates": 8}], ids=str)
def test_sampled_lists_are_sorted_and_unique(translator: Translator, settings: dict[str, Any]) -> None:
    options = search_config(translator.loaded.config.decode, sample=True, nbest=8, temperature=0.2, **settings)
    ids = translator.loaded.tokenizer.encode_source(LINES[:5])
    drawn = translator.engine.search(ids, options, None)
    assert min(map(len, drawn)) < 8  # something was drawn twice
    for hypotheses in drawn:
        assert len({tuple(each.tokens) for each in hypotheses}) == len(hypotheses)
        assert [each.score for each in hypotheses] == sorted((each.score for each in hypotheses), reverse=True)


def test_a_sampled_line_does_not_depend_on_its_neighbours(translator: Translator) -> None:
    options: dict[str, Any] = {"sample": True, "nbest": 3, "top_p": 0.9}
    expected = list(translator.translate(LINES, **options))
    similar(list(translator.translate(LINES, batch_tokens=1, window=4, **options)), expected)
    similar(list(translator.translate(LINES[::-1], batch_tokens=900, **options)), expected[::-1])
    equal = list(translator.translate(["frau", "ball", "frau", "frau"], window=3, **options))
    similar([equal[0]] * 2, equal[2:])  # drawn alike, in the same window and in another
    other_seed = list(translator.translate(LINES, seed=2, **options))
    assert [each["tokens"] for each in other_seed] != [each["tokens"] for each in expected]


def test_outputs_of_equal_text_are_listed_once(translator: Translator) -> None:
    tokenizer = translator.loaded.tokenizer
    whole, end = tokenizer.encode_target(["ball"])[0][:-1], tokenizer.end_id
    split = [tokenizer._target.piece_to_id(piece) for piece in ("▁", "b", "a", "l", "l")]
    assert tokenizer.decode_target(whole) == tokenizer.decode_target(split) == "ball"
    hypotheses = [
        Hypothesis([*ids, end], np.full(len(ids) + 1, -0.5, dtype=np.float32), -1.0, score)
        for ids, score in ((split, -0.1), (whole, -0.2), (whole[:0], -0.3))
    ]
    record = translation_output(hypotheses, tokenizer, nbest=3)
    assert [(output["translation"], output["score"]) for output in record["nbest"]] == [("ball", -0.1), ("", -0.3)]


def test_line_breaks_in_an_output_become_spaces(translator: Translator) -> None:
    tokenizer = translator.loaded.tokenizer
    spelled = "a\nb\rc\u2028d\x85e"
    ids = [tokenizer._target.piece_to_id(f"<0x{byte:02X}>") for byte in spelled.encode()]
    assert tokenizer.unknown_id not in ids
    hypothesis = Hypothesis([*ids, tokenizer.end_id], np.zeros(len(ids) + 1, dtype=np.float32), 0.0, 0.0)
    assert translation_output([hypothesis], tokenizer)["translation"] == "a b c d e"


def test_too_long_lines_are_cut_and_reported(translator: Translator) -> None:
    long, longest = "hund " * 100, translator.loaded.config.decode.max_length
    lines = ["ball", long, long + "frau", "hund"]
    records = list(translator.translate(lines, window=3, overlong="cut"))
    assert [record["overlong"] for record in records] == [False, True, True, False]
    similar(records[1:2], [{**records[2]}])
    ids = translator.loaded.tokenizer.encode_source([long])[0]
    kept = [*ids[: longest - 1], ids[-1]]
    options_used: list[list[list[int]]] = []
    search = translator.engine.search

    def spy(source_ids: list[list[int]], *rest: Any) -> Any:
        options_used.append(source_ids)
        return search(source_ids, *rest)

    translator.engine.search = spy  # type: ignore[method-assign]
    try:
        list(translator.translate([long], overlong="cut"))
    finally:
        del translator.engine.search
    assert options_used == [[kept]]


def test_reads_no_further_than_a_window(translator: Translator) -> None:
    read: list[int] = []

    def lines() -> Iterator[str]:
        for number in range(10):
            read.append(number)
            yield "ball"

    records = translator.translate(lines(), window=4)
    assert read == []
    next(records)
    assert read == [0, 1, 2, 3]


def test_answers_at_once_when_nothing_waits(translator: Translator) -> None:
    read: list[str] = []
    lines = (read.append(line) or line for line in ["hund", "ball", "frau"])
    records = translator.translate(lines, more_waiting=lambda: len(read) != 2)
    assert next(records)["source"] == "hund" and read == ["hund", "ball"]
    assert [record["source"] for record in records] == ["ball", "frau"]


@settings(max_examples=25, deadline=None)
@given(lines=st.lists(st.text(), max_size=5))
def test_any_text_comes_back_as_one_line(translator: Translator, lines: list[str]) -> None:
    records = list(translator.translate(lines, beam=2, batch_tokens=300))
    assert [record["line"] for record in records] == list(range(len(lines)))
    for record in records:
        assert len(record["translation"].splitlines()) <= 1
        json_line(record).encode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam is 0"),
        ({"beam": 2, "nbest": 3}, "at most beam, 2"),
        ({"length_penalty": "other"}, "one of none, average, gnmt"),
        ({"length_alpha": -1.0}, "length_alpha is -1.0"),
        ({"window": 0}, "window is 0"),
        ({"window": "5"}, "window is '5'"),
        ({"first_line": -1}, "first_line is -1"),
        ({"processes": 0}, "processes is 0"),
        ({"overlong": "drop"}, "overlong is 'drop'; it must be one of split, cut"),
        ({"bem": 5}, "an option bem; it must be one of beam, "),
    ],
)
def test_an_option_out_of_range_is_refused_at_once(
    translator: Translator, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        translator.translate(["ball"], **options)


@pytest.mark.parametrize("given", ["a text", b"bytes", None, 5, {"a": "b"}, {"a set"}, Path("file")], ids=repr)
@pytest.mark.parametrize("name", ["lines", "prefixes"])
def test_what_is_no_list_of_lines_is_refused_at_once(translator: Translator, given: Any, name: str) -> None:
    """A text is an iterable of letters to Python; nobody means its letters to be translated one by one."""
    if given is None and name == "prefixes":
        return
    with pytest.raises(UserError, match=rf"^{name} is of type {type(given).__name__}; give a list of texts") as found:
        translator.translate(**{"lines": ["ball"], name: given})
    assert isinstance(found.value, TypeError)


@pytest.mark.parametrize("given", [(None,), (b"m",), ("m", None), ("m", "cpu", "m"), ("m", "cpu", [None])], ids=repr)
def test_what_is_no_path_of_a_model_is_refused_at_once(given: Any) -> None:
    with pytest.raises(UserError, match=r"^load\(.*: give a path, ") as found:
        mt.load(*given)
    assert isinstance(found.value, TypeError)


@pytest.mark.parametrize("wrong", [None, 5, b"", ["ball"]], ids=repr)
@pytest.mark.parametrize("name", ["line", "the prefix of line"])
def test_a_line_that_is_no_text_is_named_after_what_comes_before_it(
    translator: Translator, wrong: Any, name: str
) -> None:
    right, mixed = ["frau", "ball", "hund"], ["", "", ""]
    (right if name == "line" else mixed)[2] = wrong
    records = translator.translate(iter(right), prefixes=iter(mixed), first_line=10, beam=1)
    assert [next(records)["source"] for _ in range(2)] == ["frau", "ball"]
    with pytest.raises(UserError, match=rf"^{name} 13, counted from 1, is of type {type(wrong).__name__};"):
        next(records)


def test_a_call_may_set_how_long_a_source_may_be(translator: Translator) -> None:
    assert [each["overlong"] for each in translator.translate(["hund ball", "frau"], max_length=2, beam=1)] == [
        True,
        False,
    ]


def test_a_model_in_training_mode_is_not_searched(translator: Translator) -> None:
    translator.loaded.model.train()
    try:
        with pytest.raises(AssertionError, match="dropout"):
            list(translator.translate(["ball"]))
    finally:
        translator.loaded.model.eval()


def test_importing_the_package_is_light() -> None:
    import subprocess

    code = "import sys, mt; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; print(mt.__version__)"
    folder = Path(util.find_spec("mt").origin).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.stdout.strip() == "0.1.0", done.stderr


def test_padding_of_the_source_leaks_nothing(translator: Translator) -> None:
    """A change of what stands at padded places changes no score."""
    model, tokenizer = translator.loaded.model, translator.loaded.tokenizer
    ids = tokenizer.encode_source(["hund ball", "die frau liest ein buch am fluss"])
    width = max(map(len, ids))
    rows = torch.tensor([row + [tokenizer.pad_id] * (width - len(row)) for row in ids])
    with torch.inference_mode():
        together = model.step(torch.full((2,), tokenizer.begin_id), model.start(model.encode(rows)))
        alone = model.step(torch.tensor([tokenizer.begin_id]), model.start(model.encode(torch.tensor([ids[0]]))))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


def test_given_translations_are_scored_as_score_lines_does(translator: Translator) -> None:
    sources, targets = ["der hund", "die frau\n", ""], ["ein ball", "", "x"]
    found = list(translator.score(iter(sources), iter(targets)))
    assert found == list(score_lines(translator.loaded, [("der hund", "ein ball"), ("die frau", ""), ("", "x")]))
    for pair in (("der hund", ["x"]), (["der hund"], "x")):
        with pytest.raises(UserTypeError, match="give a list of texts"):
            translator.score(*pair)
    with pytest.raises(UserError, match="not as many targets as lines"):
        list(translator.score(["a", "b"], ["x"]))
    with pytest.raises(UserTypeError, match="the target of line 1, counted from 1, is of type int"):
        list(translator.score(["a"], [3]))  # type: ignore[list-item]


def test_a_translator_says_what_it_is(translator: Translator) -> None:
    assert repr(translator) == "<Translator de-en: 0 parameters, TorchEngine, not calibrated, from unused>"
