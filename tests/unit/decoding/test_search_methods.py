from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch

from mt.config import SearchConfig, TokenizerConfig
from mt.config_file import search_config
from mt.corpus.tokenizer import train_tokenizer
from mt.decoding.beam_search import beam_search
from mt.decoding.constraints import Constraints
from mt.decoding.sampling import _drawn, by_expected_chrf, pairwise_chrf, sample
from mt.decoding.scoring import score_pairs
from mt.decoding.torch_engine import TorchEngine
from mt.decoding.translator import Translator
from mt.decoding.types import Hypothesis
from mt.errors import UserError

END = 2
TEXTS = ["a man in a hat", "a man in a red hat .", "the woman", "", "a a a a b", "A  man, in a hat."]


class Rows:
    """Each row's tokens so far."""

    def __init__(self, sentences: int) -> None:
        self.rows: list[tuple[int, ...]] = [()] * sentences

    def expand(self, beams: int) -> None:
        self.rows = [row for row in self.rows for _ in range(beams)]

    def select(self, rows: torch.Tensor) -> None:
        self.rows = [self.rows[row] for row in rows.tolist()]

    reorder = select


def scores(prefix: tuple[int, ...]) -> np.ndarray:
    logits = np.random.default_rng([5, *prefix]).normal(size=6) * 1.5
    return logits - np.log(np.exp(logits).sum())


def step(tokens: torch.Tensor, state: Rows) -> torch.Tensor:
    state.rows = [(*row, token) for row, token in zip(state.rows, tokens.tolist(), strict=True)]
    return torch.tensor(np.array([scores(row[1:]) for row in state.rows]), dtype=torch.float32)


def outputs(limit: int) -> dict[tuple[int, ...], float]:
    """Every output of at most `limit` tokens with its log-probability."""
    found = {}
    for length in range(limit):
        for body in itertools.product((3, 4, 5), repeat=length):
            tokens = (*body, END)
            found[tokens] = sum(float(scores(tokens[:i])[token]) for i, token in enumerate(tokens))
    return found


def search(rules: dict[str, Any], limit: int = 5, beam: int = 130, **options: Any) -> list[Hypothesis]:
    constraints = Constraints([limit], end_id=END, forbidden_ids=(0, 1), **rules)
    options = {"length_penalty": "none", "stop": "exact", "nbest": min(beam, 5), **options}
    return beam_search(step, Rows(1), constraints, SearchConfig(beam=beam, **options), 1)[0]


def best(allowed: dict[tuple[int, ...], float]) -> list[list[int]]:
    return [list(tokens) for tokens in sorted(allowed, key=lambda tokens: -allowed[tokens])[:5]]


def test_min_length_equals_exhaustive_search() -> None:
    expected = best({tokens: total for tokens, total in outputs(5).items() if len(tokens) >= 3})
    assert [each.tokens for each in search({"min_length": 3})] == expected


@pytest.mark.parametrize("size", [1, 2])
def test_no_ngram_stands_twice(size: int) -> None:
    def fresh(tokens: tuple[int, ...]) -> bool:
        ngrams = [tokens[i : i + size] for i in range(len(tokens) - size + 1)]
        return len(set(ngrams)) == len(ngrams)

    expected = best({tokens: total for tokens, total in outputs(5).items() if fresh(tokens)})
    assert [each.tokens for each in search({"no_repeat_ngram": size})] == expected


def test_prefix_is_forced_and_scored() -> None:
    allowed = {tokens: total for tokens, total in outputs(5).items() if tokens[:2] == (4, 5) and len(tokens) > 2}
    found = search({"prefixes": [[4, 5]]})
    assert [each.tokens for each in found] == best(allowed)
    assert found[0].total == pytest.approx(allowed[tuple(found[0].tokens)], abs=1e-5)


@pytest.mark.parametrize("alpha", [0.3, 1.5])
def test_reward_with_the_exact_rule_misses_no_better_output(alpha: float) -> None:
    expected = {tokens: total + alpha * len(tokens) for tokens, total in outputs(5).items()}
    found = search({}, length_penalty="reward", length_alpha=alpha, nbest=1)
    assert found[0].tokens == best(expected)[0]


def test_samples_follow_the_distribution_and_their_seed_alone() -> None:
    def draw(seeds: list[list[int]], count: int) -> list[list[Hypothesis]]:
        constraints = Constraints([4] * len(seeds), end_id=END)
        return sample(step, Rows(len(seeds)), constraints, seeds, SearchConfig(sample=True, nbest=count), 1)

    together, alone = draw([[1], [2]], 2000), draw([[2]], 2000)
    assert [each.tokens for each in together[1]] == [each.tokens for each in alone[0]]
    assert [each.tokens for each in together[0]] != [each.tokens for each in together[1]]
    drawn = np.bincount([each.tokens[0] for each in alone[0]], minlength=6) / 2000
    expected = np.exp(scores(()))
    assert np.abs(drawn - expected).max() < 4 * math.sqrt(0.25 / 2000)


def test_top_k_of_one_is_greedy() -> None:
    constraints = Constraints([5], end_id=END)
    drawn = sample(step, Rows(1), constraints, [[7]], SearchConfig(sample=True, nbest=3, top_k=1), 1)[0]
    greedy = beam_search(step, Rows(1), Constraints([5], end_id=END), SearchConfig(beam=1), 1)[0][0]
    assert [each.tokens for each in drawn] == [greedy.tokens] * 3


@pytest.mark.parametrize("epsilon", [0.02, 0.2, 0.9])
@pytest.mark.parametrize("top_k", [0, 4])
def test_epsilon_sampling_draws_what_is_likely_enough_by_its_probability(epsilon: float, top_k: int) -> None:
    """Against float64: of the tokens with at least probability epsilon, or the likeliest where none has it, each is
    drawn by its share of their mass (Hewitt et al. 2022)."""
    generator = torch.Generator().manual_seed(3)
    log_probs = (3 * torch.randn(5, 12, generator=generator)).log_softmax(1)
    numbers = torch.arange(0, 1, 1 / 4000, dtype=torch.float64)
    for row in log_probs:
        drawn = _drawn(row.repeat(len(numbers), 1), numbers, top_k, 1.0, epsilon)
        p = row.double().exp().numpy()
        kept = np.where(p >= epsilon, p, 0.0)
        if top_k:
            kept[np.argsort(-p)[top_k:]] = 0.0
        if not kept.any():
            kept[p.argmax()] = 1.0
        shares = torch.bincount(drawn, minlength=12).double().numpy() / len(numbers)
        assert np.abs(shares - kept / kept.sum()).max() < 1e-3
        assert not shares[kept == 0].any()


def test_pairwise_chrf_is_sacrebleus_sentence_score() -> None:
    expected = [[sacrebleu.sentence_chrf(one, [other]).score for other in TEXTS] for one in TEXTS]
    np.testing.assert_allclose(pairwise_chrf(TEXTS), expected, atol=1e-9)


def test_minimum_bayes_risk_counts_repeated_samples() -> None:
    texts = ["xyz", "a man", "xyz"]
    hypotheses = [Hypothesis([place, END], np.zeros(2), 0.0, -float(place)) for place in range(3)]
    found = by_expected_chrf(hypotheses, texts)
    assert [each.tokens[0] for each in found] == [0, 1]
    assert found[0].score == pytest.approx(200 / 3)


def test_ensemble_of_a_model_with_itself_is_that_model(translator: Translator) -> None:
    loaded = translator.loaded
    ids = loaded.tokenizer.encode_source(["hund ball", "die frau liest"])
    options = search_config(loaded.config.decode)
    alone, twice = TorchEngine(loaded).search(ids, options), TorchEngine(loaded, loaded).search(ids, options)
    for one, other in zip(alone, twice, strict=True):
        assert one[0].tokens == other[0].tokens and one[0].score == pytest.approx(other[0].score, abs=1e-5)


def test_ensemble_is_the_mean_of_probabilities_and_another_vocabulary_is_refused(translator: Translator) -> None:
    loaded = translator.loaded
    other = dataclasses.replace(loaded, origin=copy.deepcopy(loaded.model))
    with torch.no_grad():
        other.model.output_weight.mul_(-0.5)
    ids = loaded.tokenizer.encode_source(["hund ball", "die frau liest"])
    options = search_config(loaded.config.decode, beam=3, nbest=3)
    for source, found in zip(ids, TorchEngine(loaded, other).search(ids, options), strict=True):
        targets = [each.tokens for each in found]
        both = [list(score_pairs(each, [source] * len(targets), targets)) for each in (loaded, other)]
        for hypothesis, one, two in zip(found, *both, strict=True):
            mean = np.log((np.exp(one.log_probs) + np.exp(two.log_probs)) / 2)
            np.testing.assert_allclose(hypothesis.log_probs, mean, atol=1e-4)
    lines = ["ein anderer text", "mit anderen worten"] * 20
    tokenizer = train_tokenizer(TokenizerConfig(vocabulary_size=280, byte_fallback=True), lines, lines)
    with pytest.raises(UserError, match="its vocabulary differs"):
        TorchEngine(loaded, dataclasses.replace(loaded, tokenizer=tokenizer))


def test_greedy_output_at_a_temperature_is_scored_at_it(translator: Translator) -> None:
    loaded, tokenizer = translator.loaded, translator.loaded.tokenizer
    [source] = tokenizer.encode_source(["die frau liest ein buch"])
    [[found]] = TorchEngine(loaded).search([source], search_config(loaded.config.decode, beam=1, temperature=0.5))
    read = torch.tensor([[tokenizer.begin_id, *found.tokens[:-1]]])
    with torch.inference_mode():
        logits = loaded.model.logits(loaded.model.decode(read, loaded.model.encode(torch.tensor([source]))))[0]
    expected = (2 * logits.double()).log_softmax(-1).gather(1, torch.tensor(found.tokens)[:, None])
    assert found.total == pytest.approx(expected.sum().item(), abs=1e-3)
    own = next(score_pairs(loaded, [source], [found.tokens]))
    assert found.log_probs == pytest.approx(own.log_probs, abs=1e-4)
    assert abs(found.total - own.total) > 0.1


@pytest.mark.parametrize("beam", [5, 12])
def test_cached_beams_score_as_forced(translator: Translator, beam: int) -> None:
    """Few beams share their cache, many move it."""
    loaded = translator.loaded
    ids = loaded.tokenizer.encode_source(["hund ball", "die frau liest ein buch"])
    found = TorchEngine(loaded).search(ids, search_config(loaded.config.decode, beam=beam, nbest=beam))
    for source, hypotheses in zip(ids, found, strict=True):
        forced = score_pairs(loaded, [source] * len(hypotheses), [each.tokens for each in hypotheses])
        for hypothesis, scored in zip(hypotheses, forced, strict=True):
            assert hypothesis.log_probs == pytest.approx(scored.log_probs, abs=1e-4)


@pytest.mark.parametrize(
    "given",
    [
        {"top_k": 3},
        {"epsilon": 0.1},
        {"epsilon": 2, "sample": True},
        {"temperature": 0.0},
        {"top_p": 0.0, "sample": True},
        {"candidates": 9},
        {"stop": "x"},
    ],
)
def test_an_option_without_sense_is_refused(translator: Translator, given: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        search_config(translator.loaded.config.decode, **given)
