from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mt.config import SearchConfig
from mt.decoding.scoring import score_lines, score_pairs
from mt.decoding.translator import Translator
from mt.model.directory import LoadedModel

SOURCES = ["der hund sieht einen ball", "frau", "die frau liest ein rotes buch am alten fluss und der hund", "ball"]
TARGETS = ["ein ball", "die frau am fluss und der hund", "", "hund ball und hund ball und buch"]


@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize(("penalty", "alpha"), [("none", 1.0), ("average", 1.0), ("gnmt", 0.6)])
def test_forced_score_equals_search_score(loaded: LoadedModel, beam: int, penalty: str, alpha: float) -> None:
    options = SearchConfig(beam=beam, nbest=beam, length_penalty=penalty, length_alpha=alpha, batch_tokens=500)
    source_ids = loaded.tokenizer.encode_source(SOURCES)
    found = Translator(loaded).engine.search(source_ids, options, None)
    pairs = [(ids, hypothesis) for ids, hypotheses in zip(source_ids, found) for hypothesis in hypotheses]
    assert len(pairs) > 3
    forced = score_pairs(loaded, [ids for ids, _ in pairs], [hypothesis.tokens for _, hypothesis in pairs])
    for (_, hypothesis), scores in zip(pairs, forced, strict=True):
        assert scores.log_probs == pytest.approx(hypothesis.log_probs, abs=1e-4)
        assert scores.total == pytest.approx(hypothesis.total, abs=1e-4)


def test_scores_equal_the_plain_softmax(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt.decoding.scoring._BLOCK", 5)
    monkeypatch.setattr("mt.decoding.scoring._WINDOW", 3)
    tokenizer, model = loaded.tokenizer, loaded.model
    sources, targets = tokenizer.encode_source(SOURCES), tokenizer.encode_target(TARGETS)
    config = replace(loaded.config, decode=replace(loaded.config.decode, batch_tokens=40))
    results = list(score_pairs(replace(loaded, config=config), sources, targets))
    assert len(results) == 4
    for source, target, result in zip(sources, targets, results):
        read = torch.tensor([[tokenizer.begin_id, *target[:-1]]])
        with torch.inference_mode():
            logits = model.logits(model.decode(read, model.encode(torch.tensor([source]))))[0]
        probabilities = logits.double().softmax(-1).numpy()
        places = np.arange(len(target))
        assert result.log_probs.dtype == np.float32
        assert result.log_probs == pytest.approx(np.log(probabilities[places, target]), abs=1e-4)
        assert result.confidence == pytest.approx(probabilities.max(-1), abs=1e-5)
        assert result.squares == pytest.approx((probabilities**2).sum(-1), abs=1e-5)
        assert result.correct.tolist() == (probabilities.argmax(-1) == target).tolist()


def test_a_source_that_is_too_long_is_scored_whole_and_says_so(loaded: LoadedModel) -> None:
    """Translation divides it; a given target cannot be divided. Nothing of it is left out without a word."""
    lines = ["der hund sieht einen ball. " * 10, "frau"]
    ids, targets = loaded.tokenizer.encode_source(lines), loaded.tokenizer.encode_target(["hund", "hund"])
    assert len(ids[0]) > loaded.config.decode.max_length
    records = list(score_lines(loaded, [(line, "hund") for line in lines]))
    forced = score_pairs(loaded, ids, targets)
    assert [record["score"] for record in records] == pytest.approx([each.total for each in forced], abs=1e-4)
    assert [record["overlong"] for record in records] == [True, False]
    assert [record["overlong"] for record in Translator(loaded).translate(lines, beam=1)] == [True, False]


def test_no_pairs_give_no_scores(loaded: LoadedModel) -> None:
    assert list(score_pairs(loaded, [], [])) == []


def test_lines_are_scored_in_order_with_their_tokens(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt.decoding.scoring._WINDOW", 3)
    records = list(score_lines(loaded, zip(SOURCES, TARGETS)))
    assert [(record["line"], record["source"], record["target"]) for record in records] == [
        (line, *pair) for line, pair in enumerate(zip(SOURCES, TARGETS))
    ]
    sources, targets = loaded.tokenizer.encode_source(SOURCES), loaded.tokenizer.encode_target(TARGETS)
    for record, ids, scores in zip(records, targets, score_pairs(loaded, sources, targets)):
        assert record["tokens"] == loaded.tokenizer.target_pieces(ids)
        assert record["log_probs"] == pytest.approx(scores.log_probs, abs=1e-5)
        assert record["score"] == pytest.approx(sum(record["log_probs"]), abs=1e-4)
        assert record["confidence"] == pytest.approx(np.exp(scores.log_probs).mean(), abs=1e-5)
    assert records[2]["tokens"] == ["</s>"]
