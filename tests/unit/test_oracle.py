"""The numeric oracle: every case of what exists, at its own tolerance.

Each case of tests/oracle.json has a function here that computes its expected figures with the project's code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mt.decoding.penalties import length_penalty, normalised_score
from mt.losses import (
    confidence_penalty,
    encouraging,
    focal,
    graduated_smoothing,
    inverse_focal,
    label_smoothed_kl,
    rdrop,
)
from mt.losses.links import (
    dominant_inverse_link,
    dominant_link,
    encouraging_inverse_link,
    encouraging_link,
    smoothing_inverse_link,
    smoothing_link,
)
from mt.losses.targets import SmoothedTarget
from mt.metrics import CalibrationBins, ClassMeasures, expected_calibration_error, sweep_calibration_error
from mt.metrics.maps import Temperature
from mt.metrics.noise import noise_floor, squared_error
from mt.metrics.penultimate import projected, template_plane

Case = dict[str, Any]
Figures = dict[str, Any]

ORACLE = json.loads((Path(__file__).parents[1] / "oracle.json").read_text(encoding="utf-8"))
CASES: dict[str, Case] = {case["id"]: case for case in ORACLE["cases"]}
NO_PAD = -100
Z1 = [2.0, -1.0, 0.5, 0.0, 1.0]


def leaf(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def with_gradient(loss: Tensor, logits: Tensor) -> tuple[float, list[float]]:
    return float(loss.sum().detach()), torch.autograd.grad(loss.sum(), logits)[0].flatten().tolist()


def hard_nll(logits: Tensor, targets: Tensor, pad: int = NO_PAD) -> Tensor:
    return label_smoothed_kl(logits, targets, smoothing=0.0, definition="uniform", pad_id=pad)


def smoothed(definition: str, alpha: float, size: int, pad: int, unigram: Tensor | None = None) -> SmoothedTarget:
    return SmoothedTarget(definition, alpha, pad_id=pad, vocabulary_size=size, unigram=unigram)


def distribution(target: SmoothedTarget, gold: int) -> Tensor:
    """q, read off the gradient's definition: -q is what a target subtracts."""
    weights = target.weights(torch.tensor([gold]), torch.float64)
    q = torch.zeros(1, target.vocabulary_size, dtype=torch.float64)
    target.subtract_prior_(q, weights.base)
    q = -q
    q[0, gold] += weights.gold[0]
    return q[0]


def entropy(target: SmoothedTarget, targets: Tensor) -> Tensor:
    return -target.negative_entropy(targets, target.weights(targets, torch.float64))


def basics(case: Case) -> Figures:
    logits = leaf(case["inputs"]["logits"])
    classes = torch.arange(len(logits))
    rows = logits.expand(len(classes), -1)
    nll = hard_nll(rows, classes)
    with_bonus = encouraging(rows, classes, log_end=1.0, smoothing=0.0, definition="uniform", pad_id=NO_PAD)
    return {
        "log_softmax": (-nll).tolist(),
        "softmax": torch.exp(-nll).tolist(),
        "log_one_minus_p": (with_bonus - nll).tolist(),
    }


def log_one_minus_exp(case: Case) -> Figures:
    """log p = a for the second of two classes, so that its bonus at log-end 1 is log(1 - e^a)."""
    a = torch.tensor(case["inputs"]["a"], dtype=torch.float64)
    logits = torch.stack([torch.log(-torch.expm1(a)), a], 1)
    second = torch.ones(len(a), dtype=torch.int64)
    with_bonus = encouraging(logits, second, log_end=1.0, smoothing=0.0, definition="uniform", pad_id=NO_PAD)
    return {"value": (with_bonus - hard_nll(logits, second)).tolist()}


def cross_entropy(case: Case) -> Figures:
    logits = leaf([case["inputs"]["logits"]])
    loss, grad = with_gradient(hard_nll(logits, torch.tensor([case["inputs"]["target"]])), logits)
    return {"loss": loss, "grad": grad}


def encouraged(case: Case) -> Figures:
    inputs = case["inputs"]
    logits, targets = leaf([inputs["logits"]]), torch.tensor([inputs["target"]])
    alpha = inputs.get("alpha", 0.0)

    def compute(log_end: float) -> tuple[float, list[float]]:
        loss = encouraging(logits, targets, log_end=log_end, smoothing=alpha, definition="uniform", pad_id=NO_PAD)
        return with_gradient(loss, logits)

    loss, grad = compute(inputs.get("log_end", 1.0))
    published = encouraging(
        logits, targets, log_end=1.0, smoothing=alpha, definition="uniform", pad_id=NO_PAD, reference=True
    )
    target = smoothed("uniform", alpha, logits.shape[1], NO_PAD)
    kl = label_smoothed_kl(logits, targets, smoothing=alpha, definition="uniform", pad_id=NO_PAD)
    ce = float(kl.detach() + entropy(target, targets))
    p = torch.softmax(logits.detach(), 1)[0, inputs["target"]]
    return {
        "loss": loss,
        "grad": grad,
        "exact": loss,
        "exact_grad": grad,
        "value": loss,
        "loss_LE1": compute(1.0)[0],
        "clamped": float(published.detach()),
        "bonus": loss - ce,
        "bonus_part": loss - ce,
        "ce_part": ce,
        "minus_logit_p": -float(torch.logit(p)),
        # d loss / d z_y = p - 1 + B'(p) p (1 - p)
        "dB_dp": float((grad[inputs["target"]] - (p - 1)) / (p * (1 - p))),
    }


def limit_of_certainty(case: Case) -> Figures:
    figures: Figures = {"limit": [], "grad_ratio": []}
    for log_end in case["inputs"]["log_end"]:
        logits, target = leaf([[25.0, 0.0]]), torch.tensor([0])
        loss = encouraging(logits, target, log_end=log_end, smoothing=0.0, definition="uniform", pad_id=NO_PAD)
        value, grad = with_gradient(loss, logits)
        figures["limit"].append(value)
        figures["grad_ratio"].append(grad[0] / (-1 / (1 + math.exp(25))))  # cross-entropy: p - 1
    return figures


def smoothed_target(case: Case) -> Figures:
    inputs = case["inputs"]
    unigram = torch.tensor(inputs["unigram"]) if "unigram" in inputs else None
    definition = inputs.get("variant", "unigram")
    pad = NO_PAD if inputs.get("pad") is None else inputs["pad"]
    target = smoothed(definition, inputs["alpha"], 5, pad, None if unigram is None else unigram.double())
    q = distribution(target, inputs["target"])
    logits, targets = leaf([Z1]), torch.tensor([inputs["target"]])
    loss = label_smoothed_kl(
        logits,
        targets,
        smoothing=inputs["alpha"],
        definition=definition,
        pad_id=pad,
        unigram=None if unigram is None else unigram.double(),
    )
    kl, grad = with_gradient(loss, logits)
    constant = float(entropy(target, targets))
    return {
        "q": q.tolist(),
        "sum": float(target.weights(targets, torch.float64).total),
        "ce_grad": grad,
        "entropy_term": constant,
        "kl_on_z1": kl,
        "ce_on_z1": kl + constant,
    }


def uniform_identity(case: Case) -> Figures:
    inputs = case["inputs"]
    logits, targets, alpha = leaf([inputs["logits"]]), torch.tensor([inputs["target"]]), inputs["alpha"]

    def ce(definition: str, weight: float) -> float:
        kl = label_smoothed_kl(logits, targets, smoothing=weight, definition=definition, pad_id=NO_PAD)
        return float(kl.detach() + entropy(smoothed(definition, weight, 5, NO_PAD), targets))

    nll = float(hard_nll(logits, targets).detach())
    return {
        "loss": ce("uniform", alpha),
        "nll": nll,
        "mean_nll": (ce("uniform", alpha) - (1 - alpha) * nll) / alpha,
        "fairseq_new_same_eps": ce("others", alpha),
        "fairseq_new_rescaled_eps": ce("others", alpha * 4 / 5),
    }


def scatter_minimum(case: Case) -> Figures:
    size, alpha = case["inputs"]["V"], case["inputs"]["alpha"]
    target = smoothed("scatter", alpha, size, NO_PAD)
    total = float(target.weights(torch.tensor([0]), torch.float64).total)
    logits = torch.log(distribution(target, 0) / total)[None]
    loss = label_smoothed_kl(logits, torch.tensor([0]), smoothing=alpha, definition="scatter", pad_id=NO_PAD)
    return {"S": total, "minimum": float(loss)}


def smoothing_optimum(case: Case) -> Figures:
    size, alpha = case["inputs"]["V"], case["inputs"]["alpha"]
    target = smoothed("uniform", alpha, size, NO_PAD)
    q = distribution(target, 0)
    logits, gold = torch.log(q)[None].requires_grad_(), torch.tensor([0])
    loss = label_smoothed_kl(logits, gold, smoothing=alpha, definition="uniform", pad_id=NO_PAD)
    value, grad = with_gradient(loss, logits)
    assert abs(value) < 1e-12 and max(map(abs, grad)) < 1e-12
    floor = float(entropy(target, gold))
    return {
        "p_gold": float(q[0]),
        "margin": float(torch.log(q[0] / q[1])),
        "floor_entropy": floor,
        "floor_ppl": math.exp(floor),
    }


def reductions(total: float, tokens: int, sentences: int) -> Figures:
    return {
        "sum": total,
        "per_token": total / tokens,
        "per_sentence": total / sentences,
        "bits_per_token": total / tokens / math.log(2),
        "ppl": math.exp(total / tokens),
    }


def batch(case: Case) -> Figures:
    inputs = case["inputs"]
    logits, targets, pad = leaf(inputs["logits"]), torch.tensor(inputs["targets"]), inputs["pad"]
    tokens, sentences = int((targets != pad).sum()), len(targets)
    if "log_end" in inputs:
        loss = encouraging(
            logits, targets, log_end=inputs["log_end"], smoothing=inputs["alpha"], definition="uniform", pad_id=pad
        )
        return reductions(float(loss.sum().detach()), tokens, sentences)
    if "variant" not in inputs:
        return reductions(float(hard_nll(logits, targets, pad).sum().detach()), tokens, sentences)
    loss = label_smoothed_kl(logits, targets, smoothing=inputs["alpha"], definition=inputs["variant"], pad_id=pad)
    target = smoothed(inputs["variant"], inputs["alpha"], logits.shape[-1], pad)
    kl = float(loss.sum().detach())
    constant = float(entropy(target, targets[targets != pad]).sum())
    return {"kl": reductions(kl, tokens, sentences), "ce": reductions(kl + constant, tokens, sentences)}


def scatter_example(case: Case) -> Figures:
    inputs = case["inputs"]
    logits, targets, pad = (torch.tensor(inputs["logits"]).double(), torch.tensor(inputs["targets"]), inputs["pad"])
    alpha = inputs["alpha"]
    real = targets[targets != pad]

    def kl(values: Tensor, definition: str) -> float:
        return float(label_smoothed_kl(values, targets, smoothing=alpha, definition=definition, pad_id=pad).sum())

    figures: Figures = {}
    for definition in ("uniform", "others", "others_nopad", "scatter"):
        constant = entropy(smoothed(definition, alpha, 10, pad), real).sum()
        figures[f"kl_sum_{definition}"] = kl(logits, definition)
        figures[f"ce_sum_{definition}"] = figures[f"kl_sum_{definition}"] + float(constant)
    total = figures["kl_sum_scatter"]
    # the tutorial's slip: normalised over time, so the classes' sum over time is missing
    slip = torch.log_softmax(logits, 1)
    q = torch.stack([distribution(smoothed("scatter", alpha, 10, pad), int(gold)) for gold in targets.flatten()])
    terms = (torch.xlogy(q, q) - q * slip.view(-1, 10)).sum(1)
    return {
        **figures,
        "dim_last_kl_sum": total,
        "dim_last_kl_per_sentence": total / 2,
        "dim_last_kl_per_token": total / len(real),
        "dim1_kl_per_sentence": float(terms[targets.flatten() != pad].sum()) / 2,
    }


def equal_width(case: Case) -> Figures:
    inputs = case["inputs"]
    counted = CalibrationBins(bins=inputs["bins"], edges="(l,r]" if inputs["convention"] == "right" else "[l,r)")
    counted.update(inputs["confidence"], inputs["correct"])
    result = counted.result()
    return {
        "ece": result["ece"],
        "mce": result["mce"],
        "avg_conf": result["confidence"],
        "acc": result["accuracy"],
        "signed_gap": result["confidence"] - result["accuracy"],
        "bins": [[each["count"], each["confidence"], each["accuracy"]] for each in result["bins"]],
    }


def equal_mass(case: Case) -> Figures:
    inputs = case["inputs"]
    return {
        "ace": expected_calibration_error(inputs["confidence"], inputs["correct"], bins=inputs["bins"], scheme="mass")
    }


def proper_scores(case: Case) -> Figures:
    probabilities, targets = np.array(case["inputs"]["probs"]), np.array(case["inputs"]["targets"])
    gold = probabilities[np.arange(len(targets)), targets]
    counted = CalibrationBins(bins=case["inputs"]["bins"])
    counted.update(
        probabilities.max(1),
        probabilities.argmax(1) == targets,
        nll=-np.log(gold),
        brier=(1 - 2 * gold + (probabilities**2).sum(1)) / 2,
    )
    result = counted.result()
    classes = ClassMeasures(bins=case["inputs"]["bins"], classes=range(probabilities.shape[1]))
    classes.update(torch.tensor(probabilities).log(), torch.tensor(targets))
    return {
        "nll": result["nll"],
        "brier": result["brier"] * 2,
        "acc": result["accuracy"],
        "ece": result["ece"],
        "brier_mean_over_classes": result["brier"] * 2 / probabilities.shape[1],
        **classes.result(),
    }


def at_temperature(case: Case) -> Figures:
    inputs = case["inputs"]
    logits = torch.tensor([inputs["logits"]], dtype=torch.float64)
    log_p = Temperature(inputs["T"]).apply(logits)[0]
    return {
        "nll": -float(log_p[inputs["target"]]),
        "pmax": float(log_p.max().exp()),
        "entropy": -float((log_p.exp() * log_p).sum()),
    }


def fitted_temperature(case: Case) -> Figures:
    logits, targets = torch.tensor(case["inputs"]["logits"]).double(), torch.tensor(case["inputs"]["targets"])
    best = Temperature.fit([(logits[:3], targets[:3]), (logits[3:], targets[3:])])

    def nll(chosen: Temperature) -> float:
        return -float(chosen.apply(logits).gather(1, targets[:, None]).mean())

    return {"T": best.temperature, "nll_T1": nll(Temperature()), "nll_opt": nll(best)}


def sweep(case: Case) -> Figures:
    found = sweep_calibration_error(case["inputs"]["confidence"], case["inputs"]["correct"])
    return {"M": found["bins"], "ece": found["ece"]}


def debiased(case: Case) -> Figures:
    counted = CalibrationBins(bins=case["inputs"]["bins"])
    counted.update(case["inputs"]["confidence"], case["inputs"]["correct"])
    plain, less_bias = squared_error(counted.count.astype(float), counted.confidence, counted.correct)
    return {
        "plugin_sq": plain,
        "debiased_sq": less_bias,
        "plugin": math.sqrt(plain),
        "debiased": counted.result()["ce2_debiased"],
    }


def floor_of_noise(case: Case) -> Figures:
    count, accuracy = np.array(case["inputs"]["count"]), np.array(case["inputs"]["acc"])
    return {"floor": noise_floor(count * accuracy * (1 - accuracy)) / count.sum()}


def projection(case: Case) -> Figures:
    origin, basis = template_plane(case["inputs"]["templates"])
    return {
        "e1": basis[0].tolist(),
        "e2": basis[1].tolist(),
        "coords": projected(case["inputs"]["x"], origin, basis).tolist(),
        "template_coords": projected(case["inputs"]["templates"], origin, basis).tolist(),
    }


def inference_ece(case: Case) -> Figures:
    inputs = case["inputs"]
    counted = CalibrationBins(bins=inputs["bins"], edges="[l,r)", split="inference")
    counted.update(inputs["confidence"], [label == "C" for label in inputs["ter_label"]])
    result = counted.result()
    return {"inf_ece": result["ece"], "avg_conf": result["confidence"], "acc": result["accuracy"]}


def length_norms(case: Case) -> Figures:
    inputs = case["inputs"]
    total, alpha = inputs["sum_logp"], inputs["alpha"]
    lengths = inputs["length"]
    return {
        "gnmt_lp": [length_penalty("gnmt", length, alpha) for length in lengths],
        "gnmt_score": [normalised_score(total, "gnmt", length, alpha) for length in lengths],
        "avg_score": [normalised_score(total, "average", length, 1.0) for length in lengths],
        "power_score": [normalised_score(total, "average", length, alpha) for length in lengths],
        "reward_score": [normalised_score(total, "reward", length, inputs["reward"]) for length in lengths],
    }


def focal_losses(case: Case) -> Figures:
    logits, targets = leaf([case["inputs"]["logits"]]), torch.tensor([case["inputs"]["target"]])

    def compute(loss: Callable[..., Tensor], **settings: float) -> float:
        return float(loss(logits, targets, pad_id=NO_PAD, **settings).detach())

    if case["id"] == "focal":
        return {"gamma1": compute(focal, gamma=1.0), "gamma2": compute(focal, gamma=2.0)}
    return {
        "gamma1": compute(inverse_focal, gamma=1.0),
        "gamma2": compute(inverse_focal, gamma=2.0),
        "anti_focal": compute(inverse_focal, gamma=1.0, scale=0.5),
    }


def penalised_confidence(case: Case) -> Figures:
    inputs = case["inputs"]
    logits, targets = leaf([inputs["logits"]]), torch.tensor([inputs["target"]])
    loss = float(confidence_penalty(logits, targets, beta=inputs["beta"], pad_id=NO_PAD).detach())
    nll = float(hard_nll(logits, targets).detach())
    return {"loss": loss, "entropy": (nll - loss) / inputs["beta"]}


def two_passes(case: Case) -> Figures:
    inputs = case["inputs"]
    first, second = leaf([inputs["logits1"]]), leaf([inputs["logits2"]])
    targets = torch.tensor([inputs["target"]])
    loss = float(rdrop(first, second, targets, alpha=inputs["alpha"], pad_id=NO_PAD).detach())
    nll = float((hard_nll(first, targets) + hard_nll(second, targets)).detach())
    p, q = (torch.softmax(each.detach(), 1) for each in (first, second))
    one_way = float((p * (p / q).log()).sum())
    both = (loss - nll) / inputs["alpha"] * 2
    return {"loss": loss, "kl_12": one_way, "kl_21": both - one_way, "kl_sym": both / 2}


def graduated(case: Case) -> Figures:
    confidence = torch.tensor(case["inputs"]["confidence"], dtype=torch.float64)
    return {"alpha": graduated_smoothing(confidence).tolist()}


def bayes_of_two(case: Case) -> Figures:
    true = torch.tensor([case["inputs"]["r"], 1 - case["inputs"]["r"]], dtype=torch.float64)
    return {"p_star": [float(encouraging_link(true, log_end)[0]) for log_end in case["inputs"]["log_end"]]}


def bayes_of_many(case: Case) -> Figures:
    true = torch.tensor(case["inputs"]["r"], dtype=torch.float64)
    optima = [dominant_link(true, log_end) for log_end in case["inputs"]["log_end"]]
    back = [float(dominant_inverse_link(p, end)) for p, end in zip(optima, case["inputs"]["log_end"], strict=True)]
    return {"p_star": [float(p) for p in optima], "inverse": back}


def smoothed_optimum(case: Case) -> Figures:
    """One certain class among many equal ones: its optimum, from the inverse link by bisection."""
    size, alpha = case["inputs"]["V"], case["inputs"]["alpha"]
    certain = torch.zeros(size, dtype=torch.float64)
    certain[0] = 1
    q = smoothing_link(certain, smoothed("uniform", alpha, size, NO_PAD))
    figures = []
    for log_end in case["inputs"]["log_end"]:
        low, high = 0.8, 1 - 1e-9
        for _ in range(60):
            middle = (low + high) / 2
            p = torch.full((size,), (1 - middle) / (size - 1), dtype=torch.float64)
            p[0] = middle
            under = encouraging_inverse_link(p, log_end)[0] < q[0]
            low, high = (middle, high) if under else (low, middle)
        figures.append(low)
        if log_end <= 0.5:
            assert abs(float(encouraging_link(q, log_end)[0]) - low) < 1e-9
    return {"p_gold": figures}


def rectified(case: Case) -> Figures:
    p = torch.tensor(case["inputs"]["p"], dtype=torch.float64)
    target = smoothed("uniform", case["inputs"]["alpha"], len(p), NO_PAD)
    return {"p": smoothing_inverse_link(p, target).tolist()}


COMPUTED: dict[str, Callable[[Case], Figures]] = {
    "softmax_z1": basics,
    "log1mexp": log_one_minus_exp,
    "ce_z1": cross_entropy,
    "cel_": encouraged,
    "cel_limit_p1": limit_of_certainty,
    "el_extreme": encouraged,
    "el_margin_identity": encouraged,
    "ls_target_": smoothed_target,
    "ls_uniform_identity": uniform_identity,
    "ls_scatter_min": scatter_minimum,
    "ls_optimum": smoothing_optimum,
    "ls_el_": encouraged,
    "batch_": batch,
    "scatter_example": scatter_example,
    "ece_right_": equal_width,
    "ece_left_": equal_width,
    "ece_equal_mass": equal_mass,
    "proper_scores": proper_scores,
    "temperature_": at_temperature,
    "temperature_fit": fitted_temperature,
    "ece_sweep": sweep,
    "ce2_debiased": debiased,
    "ece_noise_floor": floor_of_noise,
    "projection": projection,
    "inference_ece": inference_ece,
    "length_norms": length_norms,
    "focal": focal_losses,
    "inverse_focal": focal_losses,
    "confidence_penalty": penalised_confidence,
    "rdrop": two_passes,
    "graduated_ls": graduated,
    "el_bayes_binary": bayes_of_two,
    "el_bayes_largeV": bayes_of_many,
    "ls_cel_optimum": smoothed_optimum,
    "ls_rectify": rectified,
}
"""by id, or by the beginning of ids"""


def computation(case_id: str) -> Callable[[Case], Figures] | None:
    names = [name for name in COMPUTED if case_id == name or (name.endswith("_") and case_id.startswith(name))]
    return COMPUTED[max(names, key=len)] if names else None


def assert_near(value: Any, expected: Any, tolerance: float, where: str) -> None:
    """|value - expected| <= tolerance * max(1, |expected|), element by element."""
    if isinstance(expected, dict):
        for name, inner in expected.items():
            assert_near(value[name], inner, tolerance, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(value) == len(expected), where
        for index, (each, inner) in enumerate(zip(value, expected, strict=True)):
            assert_near(each, inner, tolerance, f"{where}[{index}]")
    elif expected is None:
        assert value is None, where
    else:
        assert abs(value - expected) <= tolerance * max(1, abs(expected)), f"{where}: {value}, not {expected}"


@pytest.mark.parametrize("case_id", [name for name in CASES if computation(name)])
def test_oracle_case(case_id: str) -> None:
    case = CASES[case_id]
    compute = computation(case_id)
    assert compute is not None
    assert case["expected"]
    assert_near(compute(case), case["expected"], case["tol"], case_id)


def test_every_case_is_computed() -> None:
    assert [name for name in CASES if not computation(name)] == []
