"""Inside a model: all figures against plain float64 over whole logits, and which pieces are shown."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mt.config import LossConfig
from mt.errors import UserError
from mt.evaluation.inspection import (
    choose_pieces,
    expected_margin,
    gradient_norms,
    hardest_pieces,
    inspect_model,
    named_pieces,
)
from mt.evaluation.test_set import TestSet
from mt.losses.build import build_loss
from mt.model.directory import LoadedModel
from tests.unit.conftest import some_lines

# a blank line has no tokens, and moves the numbers of the others
SOURCES = [*some_lines(3, 3), " ", *some_lines(157, 1)]
TARGETS = [*some_lines(3, 4), "der", *some_lines(157, 2)]
ALPHA = 0.1


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "bias"])
def model(request: pytest.FixtureRequest, loaded: LoadedModel) -> LoadedModel:
    """A model with random weights and label smoothing, without or with an output bias."""
    changed = deepcopy(loaded.model)
    if request.param:
        changed.output_bias = torch.nn.Parameter(torch.randn(changed.output_weight.shape[0]))
    config = replace(loaded.config, loss=LossConfig(smoothing=ALPHA))
    return replace(loaded, origin=changed, config=config)


@pytest.fixture(scope="module")
def found(model: LoadedModel) -> dict[str, Any]:
    return inspect_model(model, TestSet(SOURCES, [TARGETS], {"lines": len(SOURCES)}), groups=6)


class Plain:
    """The states, right pieces and logits of all tokens, one sentence at a time, in float64."""

    def __init__(self, loaded: LoadedModel) -> None:
        tokenizer, states, ids = loaded.tokenizer, [], []
        self.lines: list[int] = []
        for line, (source, target) in enumerate(zip(SOURCES, TARGETS)):
            if not source.strip():
                continue
            (source_ids,), (target_ids,) = tokenizer.encode_source([source]), tokenizer.encode_target([target])
            prefix = torch.tensor([[tokenizer.begin_id, *target_ids[:-1]]])
            with torch.no_grad():
                states.append(loaded.model.decode(prefix, loaded.model.encode(torch.tensor([source_ids])))[0].numpy())
            ids += target_ids
            self.lines += [line] * len(target_ids)
        bias = loaded.model.output_bias
        self.states, self.ids = np.concatenate(states).astype(np.float64), np.array(ids)
        self.templates = loaded.model.output_weight.detach().double().numpy()
        if bias is not None:
            self.templates = np.concatenate([self.templates, bias.detach().double().numpy()[:, None]], 1)
            self.states = np.concatenate([self.states, np.ones((len(ids), 1))], 1)
        self.logits = self.states @ self.templates.T
        self.probabilities = np.exp(self.logits) / np.exp(self.logits).sum(1, keepdims=True)
        never = (tokenizer.pad_id, tokenizer.begin_id)
        self.wrong = [[k for k in range(len(self.templates)) if k not in never and k != y] for y in ids]


@pytest.fixture(scope="module")
def plain(model: LoadedModel) -> Plain:
    return Plain(model)


def test_margins_are_those_of_whole_logits(found: dict[str, Any], plain: Plain) -> None:
    of = [row[y] - row[wrong] for row, y, wrong in zip(plain.logits, plain.ids, plain.wrong)]
    for name, values in (("mean", [each.mean() for each in of]), ("runner_up", [each.min() for each in of])):
        block = found["margins"][name]
        assert block["mean"] == pytest.approx(np.mean(values), rel=1e-5)
        assert [block[each] for each in ("5", "50", "95")] == pytest.approx(
            np.percentile(values, [5, 50, 95]), rel=1e-4
        )
    assert [sum(counts) for counts in found["margins"]["histograms"]] == [len(plain.ids)] * 2 == [found["tokens"]] * 2


def test_distances_are_those_between_states_and_templates(found: dict[str, Any], plain: Plain) -> None:
    wrong, right, spread = [], [], []
    for state, row, y, others in zip(plain.states, plain.logits, plain.ids, plain.wrong):
        wrong.append(np.linalg.norm(state - plain.templates[others], axis=1))
        right.append(np.linalg.norm(state - plain.templates[y]))
        spread.append(np.std(row[others]))
    distances = found["distances"]
    assert distances["distance_variation"] == pytest.approx(np.mean([w.std() / w.mean() for w in wrong]), rel=1e-5)
    assert distances["distance_ratio"] == pytest.approx(np.mean([r / w.mean() for r, w in zip(right, wrong)]), rel=1e-5)
    assert distances["logit_spread"] == pytest.approx(np.mean(spread), rel=1e-5)


def test_tightness_is_that_of_all_states_of_the_pieces(found: dict[str, Any], plain: Plain, model: LoadedModel) -> None:
    chosen = [model.tokenizer.vocabularies[1].index(each["piece"]) for each in found["projection"]]
    frequent = np.argsort(-np.bincount(plain.ids), kind="stable")[:6]
    for name, pieces in (("frequent", frequent), ("chosen", chosen)):
        clusters = [plain.states[plain.ids == piece] for piece in pieces]
        means = np.array([each.mean(0) for each in clusters])
        within = np.mean([((each - mean) ** 2).sum(1).mean() for each, mean in zip(clusters, means)])
        between = ((means - means.mean(0)) ** 2).sum(1).mean()
        block = found["tightness"][name]
        assert block["pieces"] == len(pieces)
        assert (block["within"], block["between"]) == pytest.approx((within, between), rel=1e-5)
        assert block["ratio"] == pytest.approx(within / between, rel=1e-5)


def test_distances_in_the_plane_are_those_of_the_templates(
    found: dict[str, Any], plain: Plain, model: LoadedModel
) -> None:
    vocabulary = model.tokenizer.vocabularies[1]
    ids = [vocabulary.index(each["piece"]) for each in found["projection"]]
    a, b, c = plain.templates[ids]
    drawn = np.array([each["template"] for each in found["projection"]])
    for first, second, true in ((0, 1, a - b), (0, 2, a - c), (1, 2, b - c)):
        assert np.linalg.norm(drawn[first] - drawn[second]) == pytest.approx(np.linalg.norm(true), abs=1e-3)
    for piece, each in zip(ids, found["projection"]):
        states = plain.states[plain.ids == piece]
        assert each["count"] == len(states) == len(each["states"])
        along = (states - a) @ (b - a) / np.linalg.norm(b - a)
        assert sorted(x for x, _ in each["states"]) == pytest.approx(sorted(along), abs=1e-3)
        cosines = [
            plain.templates[piece] @ t / np.linalg.norm(plain.templates[piece]) / np.linalg.norm(t) for t in (a, b, c)
        ]
        assert each["cosines"] == pytest.approx(cosines)


def test_gradients_are_softmax_less_target_by_the_probability_of_the_right_piece(
    found: dict[str, Any], plain: Plain, model: LoadedModel
) -> None:
    classes, rows = len(plain.templates), np.arange(len(plain.ids))
    hard = np.eye(classes)[plain.ids]
    smoothed = (1 - ALPHA) * hard + ALPHA / (classes - 1)  # all but padding
    smoothed[:, model.tokenizer.pad_id] = 0
    true = plain.probabilities[rows, plain.ids]
    for name, target in (("loss", smoothed), ("cross_entropy", hard)):
        gradient = plain.probabilities - target
        for each in range(10):
            inside = (true > each / 10) & (true <= (each + 1) / 10)
            assert found["gradients"]["tokens"][each] == inside.sum()
            norm, pull = (found["gradients"][f"{name}_{what}"][each] for what in ("norm", "pull"))
            if not inside.any():
                assert norm is pull is None
                continue
            assert norm == pytest.approx(np.linalg.norm(gradient[inside], axis=1).mean(), rel=1e-4)
            assert pull == pytest.approx(np.abs(gradient[rows, plain.ids][inside]).mean(), rel=1e-4)


def test_the_hardest_tokens_are_those_of_the_lowest_probability(
    found: dict[str, Any], plain: Plain, model: LoadedModel
) -> None:
    nll = -np.log(plain.probabilities[np.arange(len(plain.ids)), plain.ids])
    assert found["nll"] == pytest.approx(nll.mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((plain.logits.argmax(1) == plain.ids).mean())
    vocabulary, shown = model.tokenizer.vocabularies[1], found["hardest_tokens"]
    assert [each["nll"] for each in shown] == pytest.approx(sorted(nll, reverse=True)[:20], rel=1e-5)
    assert max(each["line"] for each in shown) > SOURCES.index(" ")
    for each in shown:
        token = plain.lines.index(each["line"]) + each["position"]
        assert nll[token] == pytest.approx(each["nll"], rel=1e-5)
        assert each["piece"] == vocabulary[plain.ids[token]]
        assert each["predicted"] == vocabulary[plain.logits[token].argmax()]


def test_hardest_pieces_by_hand() -> None:
    ids = np.array([0] * 5 + [1] * 5 + [2] * 4)
    predicted = np.array([0] * 5 + [1, 1, 0, 2, 2] + [0] * 4)
    nll = np.array([0.5] * 5 + [1.0, 1.0, 1.0, 1.0, 6.0] + [9.0] * 4)
    assert hardest_pieces(["a", "b", "c"], ids, predicted, nll) == [  # four tokens of c tell nothing
        {"piece": "b", "count": 5, "nll": 2.0, "accuracy": 0.4, "confusion": "c"},
        {"piece": "a", "count": 5, "nll": 0.5, "accuracy": 1.0, "confusion": None},
    ]


def built(size: int, unigram: torch.Tensor | None = None, **settings: Any) -> Any:
    return build_loss(LossConfig(**settings), pad_id=0, begin_id=1, vocabulary_size=size, unigram=unigram)


def test_the_expected_margin_of_uniform_smoothing_is_the_published_one() -> None:
    counts = np.ones(10_000, dtype=np.int64)
    margin = expected_margin(built(10_000, smoothing=0.1, definition="uniform"), counts)
    assert margin == pytest.approx(11.40757606, abs=1e-8)
    nopad = expected_margin(built(10_001, smoothing=0.1), np.append(0, counts))  # the same classes, and padding
    assert nopad == pytest.approx(11.40757606, abs=1e-8)


@pytest.mark.parametrize("definition", ["uniform", "uniform_nopad", "others", "others_nopad", "scatter", "unigram"])
@pytest.mark.parametrize("name", ["label_smoothed_kl", "r_drop"])
def test_the_expected_margin_is_that_of_the_smoothed_target(definition: str, name: Any) -> None:
    size, alpha, counts = 7, 0.3, np.array([0, 0, 5, 1, 2, 0, 3])
    frequencies = np.array([0, 0, 0.4, 0.1, 0.2, 0.25, 0.05])
    total = 0.0
    for y, count in enumerate(counts):
        with_mass = [k for k in range(size) if not (definition.endswith("_nopad") and k == 0)]
        if definition == "unigram":
            with_mass = [k for k in range(size) if frequencies[k]]
        n = len(with_mass)
        if definition == "unigram":
            q = alpha * frequencies + (1 - alpha) * np.eye(size)[y]
        else:
            share = alpha / (n - 1) if definition.startswith("others") else alpha / n
            on_gold = {"s": 1 - alpha, "o": 1 - alpha}.get(definition[0], 1 - alpha + share)
            q = np.full(size, share)
            q[y] = on_gold
        total += count * (np.log(q[y]) - np.mean([np.log(q[k]) for k in with_mass if k != y])) if count else 0
    unigram = torch.tensor(frequencies) if definition == "unigram" else None
    loss = built(size, unigram, name=name, smoothing=alpha, definition=definition)
    assert expected_margin(loss, counts) == pytest.approx(total / counts.sum())


@pytest.mark.parametrize("settings", [{"smoothing": 0.0}, {"name": "encouraging"}, {"name": "focal"}])
def test_no_margin_is_expected_without_label_smoothing(settings: Any) -> None:
    assert expected_margin(built(7, **settings), np.ones(7, dtype=np.int64)) is None


@pytest.mark.parametrize("reference", [False, True])
def test_the_encouraging_loss_pulls_with_all_its_strength_up_to_the_log_end(reference: bool) -> None:
    loss = built(5, name="encouraging", smoothing=0.0, log_end=0.5, reference=reference)
    true = torch.tensor([0.1, 0.3, 0.49, 0.8, 0.95])
    with torch.inference_mode():
        never = torch.zeros(5)
        logits = torch.stack([never, never, (1 - true) * 0.4, (1 - true) * 0.6, true], 1).log().clamp(min=-50)
        norm, pull = gradient_norms(loss, logits, torch.full((5,), 4))
    # d/dz of -log p + B(p), B' = -1 / (1 - p) up to 1/2, then -2
    expected = [1.0, 1.0, 1.0, 0.2 + 0.8 * 0.2 / 0.5, 0.05 + 0.95 * 0.05 / 0.5]
    assert pull.tolist() == pytest.approx(expected, rel=1e-5)
    assert norm.tolist() == pytest.approx([p * (1 + 0.4**2 + 0.6**2) ** 0.5 for p in expected], rel=1e-5)
    assert logits.exp()[:, 4].tolist() == pytest.approx(true.tolist())  # not overwritten


def test_a_loss_of_two_passes_has_no_gradient_of_one_token(loaded: LoadedModel) -> None:
    changed = replace(loaded, config=replace(loaded.config, loss=LossConfig(name="r_drop")))
    gradients = inspect_model(changed, TestSet(SOURCES, [TARGETS], {}))["gradients"]
    assert gradients["loss_norm"] == gradients["loss_pull"] == [None] * 10
    assert any(gradients["cross_entropy_norm"])


VOCABULARY = ["<pad>", "</s>", "▁dog", "▁dogs", "▁cat", "$"]
COUNTS = np.array([0, 50, 30, 4, 20, 9])


def test_named_pieces_are_taken_as_they_are() -> None:
    assert named_pieces(["▁cat", "▁dog", "$"], VOCABULARY, COUNTS) == [4, 2, 5]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["▁cat", "▁dog"], ["▁cat,▁dog", "three different"]),
        (["▁cat", "▁dog", "▁cat"], ["three different"]),
        (["▁cat", "▁dog", "dogs"], ["no piece dogs", "did you mean ▁dogs"]),
        (["▁cat", "▁dog", "xyzzy"], ["no piece xyzzy", "▁ stands for the space"]),
        (["▁cat", "▁dog", "▁dogs"], ["▁dogs stands 4 times", "5 times or more"]),
    ],
)
def test_pieces_that_tell_nothing_are_refused(pieces: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        named_pieces(pieces, VOCABULARY, COUNTS)
    assert all(each in str(error.value) for each in words)


def test_two_alike_and_one_unlike_are_chosen_of_the_frequent_pieces_that_begin_words(loaded: LoadedModel) -> None:
    vocabulary = loaded.tokenizer.vocabularies[1]
    begin = [number for number, piece in enumerate(vocabulary) if piece.startswith("▁")]
    inner = [number for number, piece in enumerate(vocabulary) if not piece.startswith("▁")]
    counts, changed = np.zeros(len(vocabulary), dtype=np.int64), deepcopy(loaded.model)
    first, second, third, fourth, rare = begin[:5]
    counts[[first, second, third, fourth, *inner[-2:]]] = 20
    counts[rare] = 19
    width = changed.output_weight.shape[1]
    with torch.no_grad():
        weight = changed.output_weight
        directions = torch.tensor([[0.0, 0, 3], [0, 5.0, 0], [4, 5.0, 0], [2, -1.0, 0]])
        weight[[first, second, third, fourth]] = directions @ torch.eye(
            3, width
        )  # the fourth is unlike the second only
        weight[rare] = weight[first].clone()
        weight[inner[-2:]] = weight[first].clone()  # as like each other as can be, but they begin no word
    assert choose_pieces(replace(loaded, origin=changed), counts) == [second, third, first]


def test_text_too_short_to_choose_from_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(UserError, match=r"^only 0 pieces that begin words .* give more lines, or name three"):
        inspect_model(loaded, TestSet(["der hund"], [["der ball"]], {}))
    with pytest.raises(UserError, match="only 0 pieces"):
        inspect_model(loaded, TestSet([" "], [["der ball"]], {}))


def test_definitions_by_frequency_need_the_counts_of_the_training_text(loaded: LoadedModel) -> None:
    config = replace(loaded.config, loss=LossConfig(definition="unigram"))
    text, size = TestSet(SOURCES, [TARGETS], {}), loaded.tokenizer.target_size
    without = inspect_model(replace(loaded, config=config, piece_counts=None), text)
    assert without["margins"]["expected"] is None and without["gradients"]["loss_norm"] == [None] * 10
    counts = ([1] * size, list(range(size)))
    known = inspect_model(replace(loaded, config=config, piece_counts=counts), text)
    assert known["margins"]["expected"] > 0 and any(known["gradients"]["loss_norm"])


def test_the_folder_of_the_model_is_not_told_whole(found: dict[str, Any]) -> None:
    assert found["model"]["name"] == Path("unused").name
