"""The inputs of confidence, by counting on fingers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mt.decoding.inputs import LINE_INPUTS, TOKEN_INPUTS, OutputInputs
from mt.model.directory import load_model


@pytest.fixture
def tokenizer(tiny_model: Path):  # type: ignore[no-untyped-def]
    return load_model(tiny_model, "cpu").tokenizer


def test_every_input_of_two_small_outputs(tokenizer) -> None:  # type: ignore[no-untyped-def]
    source, longer = tokenizer.encode_source(["ein Hund", "eine Katze schläft"])
    (dog,) = tokenizer.encode_target(["dog dog"])
    end = [tokenizer.end_id]
    counts = [3] * tokenizer.source_size, [*range(tokenizer.target_size)]
    halves = np.log([0.5 + 1e-7] * len(dog))
    tokens, lines = OutputInputs(tokenizer, counts)([longer, source], [end, dog], [np.zeros(1), halves])
    of_end, *of_dog = (dict(zip(TOKEN_INPUTS, row)) for row in tokens)
    assert of_end["log_odds"] == of_end["log_odds * is_end"] == 8 and of_end["is_end"] == of_end["position"] == 1
    assert of_end["log_odds_before"] == of_end["log_odds_after"] == 8  # none there, and none of the next line
    assert of_end["length"] == 0 and lines[0][4:6] == pytest.approx([0, math.log(1 / len(longer))])
    first, last = of_dog[0], of_dog[-1]
    assert first["log_odds"] == pytest.approx(0, abs=1e-6) and first["log_odds_before"] == 8
    assert last["log_odds_before"] == pytest.approx(0, abs=1e-6) and last["log_odds_after"] == 8
    assert first["starts_word"] == 1 and first["position"] == pytest.approx(1 / len(dog))
    assert first["line_log_prob"] == pytest.approx(math.log(0.5))
    assert [each["frequency"] for each in of_dog] == pytest.approx(np.log1p(dog))
    assert first["source_frequency"] == pytest.approx(math.log(4))
    assert first["source_fertility"] == pytest.approx(math.log(len(source) / 2))  # two words
    half = (len(dog) - 1) // 2  # the second "dog" is the first one again
    assert [each["repeated"] for each in of_dog] == [0] * half + [1] * half + [0]
    line = dict(zip(LINE_INPUTS, lines[1]))
    assert line["probability"] == pytest.approx(0.5) and line["least"] == pytest.approx(0, abs=1e-6)
    assert line["log_prob"] == line["log_prob_by_character"] == pytest.approx(math.log(0.5))
    assert line["length"] == pytest.approx(math.log(len(dog)))
    assert line["characters"] == pytest.approx(len("▁dog▁dog") / len(dog))
    assert line["repeated"] == pytest.approx(half / len(dog))


def test_a_line_s_inputs_do_not_depend_on_its_neighbours(tokenizer) -> None:  # type: ignore[no-untyped-def]
    generator, texts = np.random.default_rng(1), ["ein Hund", "die Frau liest ein Buch", "der Mann singt"]
    sources, outputs = tokenizer.encode_source(texts), tokenizer.encode_target(texts)
    log_probs = [np.log(generator.random(len(ids))) for ids in outputs]
    inputs = OutputInputs(tokenizer, None)
    tokens, lines = inputs(sources, outputs, log_probs)
    alone = [inputs([source], [ids], [own]) for source, ids, own in zip(sources, outputs, log_probs)]
    assert tokens == pytest.approx(np.concatenate([each[0] for each in alone]))
    assert lines == pytest.approx(np.concatenate([each[1] for each in alone]))


def test_without_counts_nothing_is_said_of_frequency(tokenizer) -> None:  # type: ignore[no-untyped-def]
    ids = tokenizer.encode_target(["dog"])
    tokens, _ = OutputInputs(tokenizer, None)(ids, ids, [np.full(len(ids[0]), -0.1)])
    assert not tokens[:, [TOKEN_INPUTS.index("frequency"), TOKEN_INPUTS.index("source_frequency")]].any()
