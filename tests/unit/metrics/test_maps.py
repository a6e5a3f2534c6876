"""Recalibration maps: known distortions are undone, fits are optima, maps survive their files."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mt.config import LossConfig
from mt.losses import LossFunction, build_loss
from mt.losses.targets import SmoothedTarget
from mt.metrics.bins import CalibrationBins
from mt.metrics.maps import InverseLink, Isotonic, Temperature, TemperatureFit, _likelihoods, _tell_end, map_from_json
from tests.forward_links import encouraging_link, smoothing_link

END = 3
SIZE = 40
EL = InverseLink(0.1, "uniform_nopad", SIZE, 0, (0, 1), 0.5)


def truth(tokens: int, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """True log-probabilities (tokens, SIZE), no mass on padding and beginning, and targets drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, SIZE, generator=generator, dtype=torch.float64) * 2.5
    logits[:, END] += 2
    logits[:, :2] = -60
    log_probs = logits.log_softmax(-1)
    return log_probs, torch.multinomial(log_probs.exp(), 1, generator=generator)[:, 0], generator


def trained(log_true: Tensor, log_end: float | None, smoothing: float) -> Tensor:
    """What a perfectly trained model puts out."""
    target = SmoothedTarget(
        "uniform_nopad", smoothing, pad_id=0, vocabulary_size=SIZE, excluded_ids=() if log_end is None else (0, 1)
    )
    smoothed = smoothing_link(log_true.exp(), target)
    return (smoothed if log_end is None else encouraging_link(smoothed, log_end)).clamp(min=1e-30).log()


def fitted(*batches: tuple[Tensor, ...], **settings: Any) -> Temperature:
    fit = TemperatureFit(**settings)
    for batch in batches:
        fit.update(*batch)
    return fit.map()


def block(log_probs: Tensor, targets: Tensor) -> dict[str, Any]:
    confidence, predicted = log_probs.exp().max(-1)
    counted = CalibrationBins()
    counted.update(confidence, predicted == targets)
    return {**counted.block()}


@pytest.mark.parametrize("temperature", [1.3, 0.7])
def test_a_known_temperature_is_recovered_within_two_percent(temperature: float) -> None:
    log_true, targets, generator = truth(20_000, seed=1)
    model = (log_true * temperature).log_softmax(-1)
    found = fitted(*zip(model.split(9000), targets.split(9000)))
    assert found.temperature == pytest.approx(temperature, rel=0.02)
    # fitted exactly, but for reading between the grid's points: scaling the model scales the temperature
    assert found.temperature == pytest.approx(fitted((log_true, targets)).temperature * temperature, rel=1e-3)
    tokens = model.argmax(-1)  # from labels of the model's own tokens
    correct = torch.rand(20_000, generator=generator) < log_true.exp().gather(1, tokens[:, None])[:, 0]
    labelled = fitted((model, tokens, correct))
    assert labelled.temperature == pytest.approx(temperature, rel=0.02)
    before, after = block(model, targets), block(found.apply(model), targets)
    assert before["ece"] > 2 * before["noise_floor_high"] and after["ece"] < after["noise_floor_high"]
    assert after["accuracy"] == before["accuracy"]


@pytest.mark.parametrize(("log_end", "smoothing"), [(0.5, 0.0), (0.5, 0.1), (0.25, 0.1), (None, 0.1)])
def test_a_known_link_is_recovered_within_two_percent(log_end: float | None, smoothing: float) -> None:
    log_true, targets, _ = truth(5000, seed=2)
    model = trained(log_true, log_end, smoothing)
    link = InverseLink(smoothing, "uniform_nopad", SIZE, 0, () if log_end is None else (0, 1), log_end)
    found = link.apply(model)
    likely = log_true.exp() > 0.01
    assert torch.allclose(found.exp()[likely], log_true.exp()[likely], rtol=0.02)
    if not smoothing:
        assert torch.allclose(found.exp(), log_true.exp(), rtol=1e-6, atol=1e-12)
    before, after = block(model, targets), block(found, targets)
    assert before["ece"] > before["noise_floor_high"] and after["ece"] < after["noise_floor_high"]
    # nothing is left for a temperature to do
    assert fitted((model, targets), link=link).temperature == pytest.approx(1, abs=0.02)


def test_the_inverse_link_gives_finite_log_probabilities_in_float32() -> None:
    logits = torch.randn(64, SIZE, generator=torch.Generator().manual_seed(3)) * 15  # far below the smoothing
    curves = [InverseLink(0.0, "uniform", SIZE, 0, beta=0.1), InverseLink(0.0, "uniform", SIZE, 0, (), 0.5)]
    for link in (EL, InverseLink(0.1, "uniform", SIZE, 0), *curves):
        log_probs = link.apply(logits)
        assert log_probs.dtype == torch.float32 and bool(log_probs.isfinite().all())
        assert torch.allclose(log_probs.exp().sum(-1), torch.ones(64))
        assert torch.equal(log_probs.argmax(-1), logits.argmax(-1))
        # what the smoothing would take whole keeps a hundredth
        model = logits.log_softmax(-1)
        possible = model > -75  # of what float32 can hold
        assert bool((log_probs > model + math.log(0.0049))[possible].all())
        assert torch.allclose(link.apply(logits + 5), log_probs, atol=1e-4)
        assert bool(link.apply(logits.bfloat16()).isfinite().all())


@pytest.mark.parametrize(("gamma", "scale"), [(2.0, -1.0), (10.0, -1.0), (1.0, 1.0)])
def test_the_link_of_a_focal_loss_is_finite_however_sure_the_model_is(gamma: float, scale: float) -> None:
    logits = torch.randn(64, SIZE, generator=torch.Generator().manual_seed(3)) * 15
    logits[0, 1:], logits[1, 2:] = -torch.inf, -1000  # all mass on one class, on two
    found = InverseLink(0.0, "uniform", SIZE, 0, gamma=gamma, scale=scale).apply(logits)
    assert bool(found.isfinite().all()) and torch.equal(found.argmax(-1), logits.argmax(-1))
    surer = found.exp().amax(-1) - logits.softmax(-1).amax(-1)
    assert bool((surer * scale < 1e-6).all())  # focal models are under-confident, inverse focal ones over-confident


def link_of(unigram: Tensor | None = None, **fields: Any) -> InverseLink | None:
    return InverseLink.of_loss(LossConfig(**fields), SIZE, pad_id=0, begin_id=1, unigram=unigram)


def test_the_link_is_that_of_the_training_loss() -> None:
    assert link_of(name="encouraging") == EL
    assert link_of() == InverseLink(0.1, "uniform_nopad", SIZE, 0)
    assert link_of(smoothing=0.2, definition="others") == InverseLink(0.2, "others", SIZE, 0)
    assert link_of(name="encouraging", reference=True) == InverseLink(0.1, "uniform", SIZE, 0, (), 0.5)
    assert link_of(name="encouraging", bonus_smoothing=0.1) == EL
    assert link_of(name="r_drop") == link_of()
    assert link_of(name="focal", gamma=3.0) == InverseLink(0.0, "uniform", SIZE, 0, gamma=3.0)
    assert link_of(name="inverse_focal") == InverseLink(0.0, "uniform", SIZE, 0, gamma=1.0, scale=1.0)
    assert link_of(name="confidence_penalty") == InverseLink(0.0, "uniform", SIZE, 0, beta=0.1)
    counts = torch.arange(SIZE)
    frequencies = tuple((counts.double() / counts.sum()).tolist())
    assert link_of(counts, definition="unigram") == InverseLink(0.1, "unigram", SIZE, 0, unigram=frequencies)


def test_a_loss_that_may_have_several_optima_or_whose_frequencies_are_not_known_has_no_link() -> None:
    for fields in (
        {"definition": "unigram"},
        {"name": "encouraging", "log_end": 0.51},
        {"name": "encouraging", "log_end": 1.0},
        {"name": "encouraging", "bonus_smoothing": 0.0},
        {"name": "inverse_focal", "gamma": 1.1},
        {"name": "inverse_focal", "scale": 1.1},
        {"name": "inverse_focal", "gamma": 10.0, "scale": 100.0},
    ):
        assert link_of(**fields) is None
    for gamma in (0.0, 0.3, 1.0, 2.0, 10.0):
        assert link_of(name="focal", gamma=gamma) is not None
    assert link_of(name="inverse_focal", gamma=2.0, scale=0.3) is not None


def optimum(loss: LossFunction, true: Tensor) -> Tensor:
    """The distribution with the least expected loss where targets are drawn from `true`, by L-BFGS on its logits; of a
    loss of two passes, two."""
    size = len(true)
    logits = torch.zeros(loss.passes, size, dtype=torch.float64, requires_grad=True)
    minimiser = torch.optim.LBFGS(
        [logits], max_iter=5000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def expected() -> Tensor:
        minimiser.zero_grad()
        rows = logits.expand(size, loss.passes, size) if loss.passes > 1 else logits.expand(size, size)
        value = (loss(rows, torch.arange(size)) * true).sum()
        value.backward()
        return value

    minimiser.step(expected)
    assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-7
    return logits.detach().log_softmax(-1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "fields",
    [
        {"name": "focal", "gamma": 0.5},
        {"name": "focal"},
        {"name": "focal", "gamma": 5.0},
        {"name": "inverse_focal"},
        {"name": "inverse_focal", "gamma": 3.0, "scale": 0.2},
        {"name": "confidence_penalty"},
        {"name": "confidence_penalty", "beta": 1.0},
        {"name": "r_drop", "definition": "uniform"},
        {"definition": "unigram"},
        {"name": "encouraging", "definition": "unigram", "exclude_special": False},
        {"name": "encouraging", "definition": "others", "exclude_special": False, "log_end": 0.25},
    ],
    ids=str,
)
def test_the_link_finds_the_truth_behind_the_least_expected_loss(fields: dict[str, Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    true = (1.5 * torch.randn(7, generator=generator, dtype=torch.float64)).softmax(0)
    unigram = torch.rand(7, generator=generator, dtype=torch.float64) + 0.1
    config, classes = LossConfig(**fields), {"pad_id": 0, "begin_id": 1, "vocabulary_size": 7}
    link = InverseLink.of_loss(config, 7, 0, 1, unigram)
    assert link is not None
    loss = build_loss(config, **classes, unigram=unigram)
    loss.pad_id = -100  # all seven are targets
    for model in optimum(loss, true):
        torch.testing.assert_close(link.apply(model[None])[0].exp(), true, rtol=0, atol=1e-6)
        assert float((model.exp() - true).abs().max()) > 1e-3  # which is not the truth itself


def test_the_sums_of_parts_fit_as_the_whole() -> None:
    log_true, targets, _ = truth(900, seed=5)
    whole, merged = TemperatureFit(EL), TemperatureFit(EL)
    whole.update(log_true, targets)
    for part in torch.arange(900).split(150):
        piece = TemperatureFit(EL)
        piece.update(log_true[part], targets[part])
        merged.sums += piece.sums
    assert merged.map().temperature == pytest.approx(whole.map().temperature, rel=1e-9)
    assert merged.map().link == EL


def test_sums_are_likelihood_slope_and_curvature() -> None:
    log_true, targets, generator = truth(30, seed=6)
    right = (torch.rand(30, generator=generator) < 0.6).double()

    def loss(b: Tensor) -> Tensor:
        c = (log_true * b).log_softmax(-1).gather(1, targets[:, None])[:, 0].exp()
        return -(right * c.log() + (1 - right) * (1 - c).log()).sum()

    for b in (0.5, 1.0, 1.7):
        ours = _likelihoods(log_true, targets, right, np.array([b]))[0]
        at = torch.tensor(b, dtype=torch.float64, requires_grad=True)
        value = loss(at)
        slope = torch.autograd.grad(value, at, create_graph=True)[0]
        curvature = torch.autograd.grad(slope, at)[0]
        assert ours.tolist() == pytest.approx([each.item() for each in (value, slope, curvature)], rel=1e-9)


def test_a_temperature_beyond_the_range_is_its_end_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    log_true, targets, _ = truth(500, seed=7)
    _tell_end.cache_clear()
    assert fitted((log_true, targets)).temperature == pytest.approx(1, abs=0.1)
    assert not capsys.readouterr().err
    assert fitted((log_true * 100, targets)).temperature == fitted((log_true * 90, targets)).temperature == 16
    told = "note: the best temperature lies beyond 0.0625 to 16, where it is looked for; 16 is taken\n"
    assert capsys.readouterr().err == told
    certain = log_true, log_true.argmax(-1)  # all right: the sharper the better
    assert fitted(certain).temperature == 1 / 16
    assert "0.0625 is taken" in capsys.readouterr().err


@pytest.mark.parametrize("temperature", [0.1, 0.2, 3.9, 5.96, 9.0, 12.0])
def test_a_temperature_far_from_1_is_found_to_a_thousandth(temperature: float) -> None:
    log_true, targets, _ = truth(2000, seed=7)
    low, high = 0.5, 2.0  # of the undistorted model: where the slope of the likelihood changes its sign
    for _ in range(50):
        middle = (low * high) ** 0.5
        slope = _likelihoods(log_true, targets, torch.ones(2000).double(), np.array([1 / middle]))[0, 1]
        low, high = (low, middle) if slope < 0 else (middle, high)
    found = fitted(((log_true * temperature).log_softmax(-1), targets))
    assert found.temperature == pytest.approx(temperature * low, rel=1e-3)


TOKENS = st.lists(st.tuples(st.integers(0, 12).map(lambda tick: tick / 12), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=80, deadline=None)
@given(TOKENS)
def test_isotonic_is_the_least_squares_rising_function(tokens: list[tuple[float, bool]]) -> None:
    confidence, correct = zip(*tokens)
    fitted = Isotonic.fit(confidence, correct)
    starts = sorted(set(confidence))

    def mean(low: float, high: float) -> float:
        inside = [a for c, a in tokens if low <= c <= high]
        return sum(inside) / len(inside)

    # the max-min formula of isotonic regression
    expected = [
        max(min(mean(low, high) for high in starts if high >= at) for low in starts if low <= at) for at in starts
    ]
    assert fitted.apply(starts).tolist() == pytest.approx(expected)
    assert list(fitted.value) == sorted(set(fitted.value)) and list(fitted.confidence) == sorted(fitted.confidence)


def test_isotonic_steps_are_right_continuous_and_reach_beyond_what_was_seen() -> None:
    fitted = Isotonic.fit([0.2, 0.2, 0.6, 0.8], [0, 1, 1, 0])
    assert fitted == Isotonic((0.2,), (0.5,))
    fitted = Isotonic.fit([0.3, 0.5, 0.5, 0.9], [0, 0, 1, 1])
    assert fitted == Isotonic((0.3, 0.5, 0.9), (0.0, 0.5, 1.0))
    below = math.nextafter(0.5, 0)
    assert fitted.apply([0.0, 0.3, below, 0.5, 0.7, 0.9, 1.0]).tolist() == [0, 0, 0, 0.5, 0.5, 1, 1]
    with pytest.raises(ValueError, match="no confidences"):
        Isotonic.fit([], [])


def test_isotonic_calibrates_what_no_temperature_can() -> None:
    generator = np.random.default_rng(8)
    confidence = generator.random(20_000)
    correct = generator.random(20_000) < np.where(confidence < 0.5, 0.3, 0.6)
    fitted = Isotonic.fit(confidence[:10_000], correct[:10_000])
    before, after = CalibrationBins(), CalibrationBins()
    before.update(confidence[10_000:], correct[10_000:])
    after.update(fitted.apply(confidence[10_000:]), correct[10_000:])
    assert before.block()["ece"] > 0.12 and after.block()["ece"] < 0.025


@pytest.mark.parametrize(
    "each",
    [
        Temperature(),
        Temperature(1 / 3),
        Temperature(1.1, link=EL),
        EL,
        InverseLink(0.1, "uniform", SIZE, 0),
        Isotonic((0.1, 1 / 3), (0.2, 2 / 3)),
    ],
)
def test_maps_survive_json(each: Temperature | InverseLink | Isotonic) -> None:
    saved = each.to_json()
    assert saved["name"] == each.name
    assert map_from_json(json.loads(json.dumps(saved, allow_nan=False))) == each


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"name": "spline"},
        {"name": "temperature", "temperatur": 1.0},
        {"name": "temperature", "temperature": 0.0},
        {"name": "temperature", "temperature": 1.0, "end_temperature": 1.0},
        {"name": "isotonic", "confidence": [0.1], "value": [1.1]},
        {"name": "isotonic", "confidence": [0.1, 0.2], "value": [0.2, 0.1]},
        {"name": "isotonic", "confidence": [0.1]},
        {"name": "link", "smoothing": 0.1},
        {"name": "link_temperature", "temperature": 1.0, "link": {"name": "temperature", "temperature": 1.0}},
        [],
    ],
)
def test_what_is_no_map_is_refused(saved: Any) -> None:
    with pytest.raises(ValueError, match="not a recalibration map"):
        map_from_json(saved)


def test_no_map_changes_what_is_likeliest_and_temperature_one_changes_nothing() -> None:
    log_true, _, _ = truth(300, seed=9)
    for each in (Temperature(2.0), Temperature(0.5), Temperature(1.5, link=EL)):
        assert torch.equal(each.apply(log_true).argmax(-1), log_true.argmax(-1))
        assert torch.allclose(each.apply(log_true).exp().sum(-1), torch.ones(300, dtype=torch.float64))
    assert torch.allclose(Temperature().apply(log_true), log_true)


def test_a_class_below_the_smoothing_keeps_a_hundredth_and_the_others_their_inverse() -> None:
    """Four classes at smoothing 0.4, so 0.1 each: (p - 0.1) / 0.6 is the inverse, negative for the last one."""
    model = torch.tensor([[0.6, 0.25, 0.13, 0.02]], dtype=torch.float64)
    found = InverseLink(0.4, "uniform", 4, 0).apply(model.log()).exp()
    inverse = (model - 0.1).clamp(min=0) / (model - 0.1).clamp(min=0).sum()
    expected = torch.maximum(inverse, 0.01 * model)
    torch.testing.assert_close(found, expected / expected.sum())


@pytest.mark.parametrize("each", [Temperature(1.7), Temperature(1.5, link=EL), EL], ids=lambda each: each.name)
def test_distributions_of_any_leading_shape_are_mapped_one_by_one(each: Temperature | InverseLink) -> None:
    log_probs = truth(6, seed=3)[0]
    torch.testing.assert_close(each.apply(log_probs.view(2, 3, SIZE)), each.apply(log_probs).view(2, 3, SIZE))


@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.27, 0.38, 14.0])
def test_temperatures_at_both_ends_of_the_range_are_found(temperature: float) -> None:
    log_true, targets, _ = truth(3000, seed=11)
    undistorted = fitted((log_true, targets)).temperature
    found = fitted(((log_true * temperature).log_softmax(-1), targets)).temperature
    assert found == pytest.approx(temperature * undistorted, rel=1e-3)


def test_a_temperature_from_a_hundredth_to_a_hundred_is_read_and_no_other() -> None:
    saved: dict[str, Any] = Temperature().to_json()
    for value in (0.01, 1.0, 100.0):
        assert map_from_json(saved | {"temperature": value}) == Temperature(value)
    for value in (0.01 - 1e-6, 100.001, math.nan):
        with pytest.raises(ValueError, match="not a recalibration map"):
            map_from_json(saved | {"temperature": value})


def test_steps_of_an_isotonic_map_are_read_where_they_rise_within_zero_and_one() -> None:
    for confidence, value in (([0.0, 1.0], [0.0, 1.0]), ([0.5], [0.5]), ([0.1, 0.2], [0.3, 0.3])):
        assert map_from_json({"name": "isotonic", "confidence": confidence, "value": value})
    for confidence, value in (
        ([], []),
        ([0.1, 0.1], [0.2, 0.3]),  # no step is empty
        ([0.2, 0.1], [0.2, 0.3]),
        ([0.1, 0.2], [0.3]),
        ([0.1, 0.2], [0.3, 0.2]),
        ([-0.1], [0.2]),
        ([1.01], [0.2]),
        ([0.1], [-0.1]),
        ([0.1], [1.01]),
    ):
        with pytest.raises(ValueError, match="not a recalibration map"):
            map_from_json({"name": "isotonic", "confidence": confidence, "value": value})


def test_ids_of_a_link_lie_within_its_vocabulary() -> None:
    for pad_id, excluded in ((0, ()), (SIZE - 1, (0, SIZE - 1))):
        link = InverseLink(0.1, "uniform", SIZE, pad_id, excluded)
        assert map_from_json(link.to_json()) == link
    for pad_id, excluded in ((SIZE, ()), (-1, ()), (0, (SIZE,)), (0, (-1,))):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            InverseLink(0.1, "uniform", SIZE, pad_id, excluded)


def test_a_text_without_tokens_has_temperature_1() -> None:
    assert TemperatureFit().map() == Temperature() and TemperatureFit(EL).map() == Temperature(link=EL)


@pytest.mark.parametrize("shift", [0.0, 800.0, -800.0])
def test_a_fit_does_not_depend_on_where_logits_lie_nor_on_what_is_impossible(shift: float) -> None:
    log_true, targets, _ = truth(600, seed=12)
    expected = fitted((log_true[:, 2:] * 1.5, targets - 2)).temperature
    logits = (log_true * 1.5).float()
    logits[:, 0], logits[:, 1] = -torch.inf, -1e5  # masked, and as good as masked
    assert fitted((logits + shift, targets)).temperature == pytest.approx(expected, rel=1e-3)


def test_the_temperature_of_a_few_tokens_is_where_their_likelihood_is_highest() -> None:
    """Sums so small that their slopes lie below 1, on both sides of the grid's points."""
    checked = 0
    for seed in range(30):
        log_true, targets, _ = truth(4, seed)
        model, ones = log_true * 0.01 ** (seed / 60), torch.ones(4).double()

        def slope(temperature: float, model: Tensor = model, targets: Tensor = targets, ones: Tensor = ones) -> float:
            return float(_likelihoods(model, targets, ones, np.array([1 / temperature]))[0, 1])

        low, high = 0.25, 16.0
        if not slope(high) < 0 < slope(low):  # beyond the range
            continue
        for _ in range(50):
            middle = (low * high) ** 0.5
            low, high = (low, middle) if slope(middle) < 0 else (middle, high)
        assert fitted((model, targets)).temperature == pytest.approx(low, rel=5e-3)
        checked += 1
    assert checked > 10
