"""Config to loss, its signature, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mt.config import LossConfig
from mt.losses import build_loss, encouraging, label_smoothed_kl, signature
from mt.losses.relatives import InverseFocal, RDrop
from mt.losses.targets import DEFINITIONS, SmoothedTarget

LOGITS = torch.tensor([[0.3, 1.0, -0.2, 2.0, 0.0], [1.5, 0.1, 0.2, -0.3, 0.4]], dtype=torch.float64)
TARGETS = torch.tensor([3, 4])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LossConfig(), "ls:0.1|target:uniform_nopad|kl"),
        (LossConfig(smoothing=0.0), "ls:0|target:hard|kl"),
        (LossConfig(definition="others", smoothing=0.05), "ls:0.05|target:others|kl"),
        (LossConfig(name="encouraging", exclude_special=False), "el|log_end:0.5|ls:0.1|target:uniform_nopad"),
        (
            LossConfig(name="encouraging", log_end=0.75, bonus_smoothing=0.2),
            "el|log_end:0.75|ls:0.1|target:uniform_nopad|bonus_ls:0.2|excluded:pad,bos",
        ),
        (
            LossConfig(name="encouraging", log_end=1.0, reference=True),
            "el|log_end:1|ls:0.1|target:uniform|reference:clamp1e-05",
        ),
        (LossConfig(name="focal"), "focal|gamma:2"),
        (LossConfig(name="inverse_focal", gamma=1.5), "inverse_focal|gamma:1.5|scale:1"),
        (LossConfig(name="confidence_penalty", beta=0.2), "confidence_penalty|beta:0.2"),
        (LossConfig(name="r_drop"), "r_drop|alpha:5|ls:0.1|target:uniform_nopad|kl"),
        (LossConfig(name="r_drop", alpha=1.0, smoothing=0.0), "r_drop|alpha:1|ls:0|target:hard|kl"),
    ],
)
def test_signature_says_what_is_computed(config: LossConfig, expected: str) -> None:
    assert signature(config) == expected
    assert build_loss(config, pad_id=0, begin_id=2, vocabulary_size=5).signature == expected


def test_built_losses_are_the_losses_of_the_same_name() -> None:
    built = build_loss(LossConfig(definition="others"), pad_id=0, begin_id=2, vocabulary_size=5)
    direct = label_smoothed_kl(LOGITS, TARGETS, smoothing=0.1, definition="others", pad_id=0)
    torch.testing.assert_close(built(LOGITS, TARGETS), direct)
    config = LossConfig(name="encouraging", log_end=0.75, bonus_smoothing=0.2, definition="uniform")
    built = build_loss(config, pad_id=0, begin_id=2, vocabulary_size=5)
    direct = encouraging(
        LOGITS,
        TARGETS,
        log_end=0.75,
        smoothing=0.1,
        bonus_smoothing=0.2,
        definition="uniform",
        pad_id=0,
        excluded_ids=(0, 2),
    )
    torch.testing.assert_close(built(LOGITS, TARGETS), direct)
    built = build_loss(LossConfig(name="inverse_focal", gamma=1.5), pad_id=0, begin_id=2, vocabulary_size=5)
    torch.testing.assert_close(built(LOGITS, TARGETS), InverseFocal(1.5, 0)(LOGITS, TARGETS))
    built = build_loss(LossConfig(name="r_drop", smoothing=0.2), pad_id=0, begin_id=2, vocabulary_size=5)
    both = torch.stack([LOGITS, LOGITS.flip(0)], 1)
    target = SmoothedTarget("uniform_nopad", 0.2, pad_id=0, vocabulary_size=5)
    torch.testing.assert_close(built(both, TARGETS), RDrop(target, 5.0, 0)(both, TARGETS))


def test_unigram_frequencies_reach_the_loss() -> None:
    counts = torch.tensor([0.0, 5.0, 0.0, 3.0, 2.0])
    built = build_loss(LossConfig(definition="unigram"), pad_id=0, begin_id=2, vocabulary_size=5, unigram=counts)
    direct = label_smoothed_kl(LOGITS, TARGETS, smoothing=0.1, definition="unigram", pad_id=0, unigram=counts / 10)
    torch.testing.assert_close(built(LOGITS, TARGETS), direct)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_masked_padding_logits_are_harmless_where_padding_has_no_mass(definition: str) -> None:
    logits = LOGITS.clone()
    logits[:, 0] = -torch.inf
    logits.requires_grad_()
    unigram = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]) if definition == "unigram" else None
    losses = encouraging(
        logits, TARGETS, log_end=1.0, smoothing=0.1, definition=definition, pad_id=0, unigram=unigram, excluded_ids=(0,)
    )
    gradient = torch.autograd.grad(losses.sum(), logits)[0]
    assert torch.isfinite(losses).all() and torch.isfinite(gradient).all()
    assert not gradient[:, 0].any()


def test_padding_is_masked_by_position_whatever_its_id() -> None:
    logits = torch.cat([LOGITS, torch.full((1, 5), torch.nan, dtype=torch.float64)]).requires_grad_()
    for pad in (0, -100):
        targets = torch.cat([TARGETS, torch.tensor([pad])])
        loss = label_smoothed_kl(logits, targets, smoothing=0.1, definition="uniform", pad_id=pad)
        gradient = torch.autograd.grad(loss.sum(), logits)[0]
        assert float(loss[2].detach()) == 0 and not gradient[2].any() and torch.isfinite(gradient).all()


def test_leading_shape_and_half_precision_are_kept_up() -> None:
    logits = torch.randn(2, 3, 4, 9)
    targets = torch.randint(1, 9, (2, 3, 4))
    whole = label_smoothed_kl(logits, targets, smoothing=0.1, definition="uniform", pad_id=0)
    assert whole.shape == targets.shape
    flat = label_smoothed_kl(logits.reshape(-1, 9), targets.reshape(-1), smoothing=0.1, definition="uniform", pad_id=0)
    assert torch.equal(whole.reshape(-1), flat)
    half = logits.bfloat16()
    low = label_smoothed_kl(half, targets, smoothing=0.1, definition="uniform", pad_id=0)
    assert low.dtype == torch.float32
    expected = label_smoothed_kl(half.float(), targets, smoothing=0.1, definition="uniform", pad_id=0)
    assert torch.equal(low, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"definition": "flat"}, "definition"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"smoothing": -0.1}, "smoothing"),
        ({"definition": "unigram"}, "unigram"),
        ({"unigram": torch.ones(5)}, "unigram"),
        ({"definition": "unigram", "unigram": torch.ones(4)}, "unigram"),
        ({"vocabulary_size": 2}, "classes"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"definition": "others_nopad", "smoothing": 0.1, "vocabulary_size": 5}
    with pytest.raises(ValueError, match=message):
        SmoothedTarget(**settings | change, pad_id=0)


def test_log_end_out_of_range_and_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="log_end"):
        encouraging(LOGITS, TARGETS, log_end=1.5, smoothing=0.1, definition="uniform", pad_id=0)
    with pytest.raises(ValueError, match="do not fit"):
        label_smoothed_kl(LOGITS, TARGETS[:1], smoothing=0.1, definition="uniform", pad_id=0)


def test_ids_beyond_the_vocabulary_exclude_nothing_and_two_classes_are_enough() -> None:
    plain = SmoothedTarget("uniform_nopad", 0.1, pad_id=-100, vocabulary_size=5)
    for ids in ((5,), (-1, 99)):
        target = SmoothedTarget("uniform_nopad", 0.1, pad_id=5, vocabulary_size=5, excluded_ids=ids)
        assert target.excluded == () and target.classes == 5
        torch.testing.assert_close(target.weighted_sum(LOGITS.clone()), plain.weighted_sum(LOGITS.clone()))
    assert SmoothedTarget("others_nopad", 0.1, pad_id=0, vocabulary_size=3).classes == 2
