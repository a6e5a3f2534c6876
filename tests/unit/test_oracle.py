"""The numeric oracle: every case of what exists, at its own tolerance.

Each case of tests/oracle.json has a function here that computes its expected figures with the project's code, but for
those of GONE, which the project does not compute any more.
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

from mt.decoding.types import length_penalty, normalised_score
from mt.losses import encouraging, label_smoothed_kl
from mt.losses.function import LossFunction
from mt.losses.relatives import ConfidencePenalty, Focal, InverseFocal, RDrop
from mt.losses.targets import SmoothedTarget, encouraging_inverse_link, smoothing_inverse_link
from mt.metrics.bins import CalibrationBins, expected_calibration_error
from mt.metrics.maps import Temperature, TemperatureFit
from mt.metrics.noise import error_noise
from mt.metrics.penultimate import projected, template_plane

Case = dict[str, Any]
Figures = dict[str, Any]

ORACLE = json.loads((Path(__file__).parents[1] / "oracle.json").read_text(encoding="utf-8"))
CASES: dict[str, Case] = {case["id"]: case for case in ORACLE["cases"]}
GONE: dict[str, set[str]] = {
    "ece_sweep": set(),  # nothing was decided by ECE_sweep, one figure of a table
    "ce2_debiased": set(),  # nor by the debiased squared error
    "graduated_ls": set(),  # no config could ask for smoothing by confidence
    "proper_scores": {"classwise", "classwise_ece", "weighted_ece"},  # nor by errors over all classes
}
"""cases that are not computed any more and why; or only these figures of theirs"""
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
    result = counted.block()
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
    result = counted.block()
    return {
        "nll": result["nll"],
        "brier": result["brier"] * 2,
        "acc": result["accuracy"],
        "ece": result["ece"],
        "brier_mean_over_classes": result["brier"] * 2 / probabilities.shape[1],
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
    best = Temperature()
    for _ in range(3):  # exact where the best lies at a point of the fit's grid, as 1 does
        fit = TemperatureFit()
        for part in (slice(3), slice(3, None)):
            fit.update(logits[part] / best.temperature, targets[part])
        best = Temperature(best.temperature * fit.map().temperature)

    def nll(chosen: Temperature) -> float:
        return -float(chosen.apply(logits).gather(1, targets[:, None]).mean())

    return {"T": best.temperature, "nll_T1": nll(Temperature()), "nll_opt": nll(best)}


def floor_of_noise(case: Case) -> Figures:
    count, accuracy = np.array(case["inputs"]["count"]), np.array(case["inputs"]["acc"])
    floor, *_ = error_noise(np.zeros(len(count)), np.diag(count * accuracy * (1 - accuracy)))
    return {"floor": floor / count.sum()}


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
    result = counted.block()
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

    def compute(loss: LossFunction) -> float:
        return float(loss(logits, targets).detach())

    if case["id"] == "focal":
        return {"gamma1": compute(Focal(1.0, NO_PAD)), "gamma2": compute(Focal(2.0, NO_PAD))}
    return {
        "gamma1": compute(InverseFocal(1.0, NO_PAD)),
        "gamma2": compute(InverseFocal(2.0, NO_PAD)),
        "anti_focal": compute(InverseFocal(1.0, NO_PAD, scale=0.5)),
    }


def penalised_confidence(case: Case) -> Figures:
    inputs = case["inputs"]
    logits, targets = leaf([inputs["logits"]]), torch.tensor([inputs["target"]])
    loss = float(ConfidencePenalty(inputs["beta"], NO_PAD)(logits, targets).detach())
    nll = float(hard_nll(logits, targets).detach())
    return {"loss": loss, "entropy": (nll - loss) / inputs["beta"]}


def two_passes(case: Case) -> Figures:
    inputs = case["inputs"]
    first, second = leaf([inputs["logits1"]]), leaf([inputs["logits2"]])
    targets = torch.tensor([inputs["target"]])
    two_passes_loss = RDrop(smoothed("uniform", 0.0, first.shape[1], NO_PAD), inputs["alpha"], NO_PAD)
    loss = float(two_passes_loss(torch.stack([first, second], 1), targets).detach())
    nll = float((hard_nll(first, targets) + hard_nll(second, targets)).detach())
    p, q = (torch.softmax(each.detach(), 1) for each in (first, second))
    one_way = float((p * (p / q).log()).sum())
    both = (loss - nll) / inputs["alpha"] * 2
    return {"loss": loss, "kl_12": one_way, "kl_21": both - one_way, "kl_sym": both / 2}


def optimum(true: float, log_end: float, others: int) -> float:
    """The probability of one class that the inverse link brings back to `true`, the others being equal; bisection."""
    low, high = 0.5, 1 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        p = torch.full((1 + others,), (1 - middle) / others, dtype=torch.float64)
        p[0] = middle
        under = encouraging_inverse_link(p, log_end)[0] < true
        low, high = (middle, high) if under else (low, middle)
    return low


def bayes_of_two(case: Case) -> Figures:
    return {"p_star": [optimum(case["inputs"]["r"], log_end, 1) for log_end in case["inputs"]["log_end"]]}


def bayes_of_many(case: Case) -> Figures:
    """The limit of infinitely many others, from two large numbers of them: what is missing goes by 1 / others."""
    true, few, many = case["inputs"]["r"], 20_000, 40_000
    optima = [2 * optimum(true, log_end, many) - optimum(true, log_end, few) for log_end in case["inputs"]["log_end"]]
    back = []
    for p, log_end in zip(optima, case["inputs"]["log_end"], strict=True):
        limits = []
        for others in (few, many):
            model = torch.full((1 + others,), (1 - p) / others, dtype=torch.float64)
            model[0] = p
            limits.append(float(encouraging_inverse_link(model, log_end)[0]))
        back.append(2 * limits[1] - limits[0])
    return {"p_star": optima, "inverse": back}


def smoothed_optimum(case: Case) -> Figures:
    """One certain class among many equal ones."""
    size, alpha = case["inputs"]["V"], case["inputs"]["alpha"]
    certain = 1 - alpha + alpha / size
    return {"p_gold": [optimum(certain, log_end, size - 1) for log_end in case["inputs"]["log_end"]]}


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
    "ece_noise_floor": floor_of_noise,
    "projection": projection,
    "inference_ece": inference_ece,
    "length_norms": length_norms,
    "focal": focal_losses,
    "inverse_focal": focal_losses,
    "confidence_penalty": penalised_confidence,
    "rdrop": two_passes,
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
    expected = {name: value for name, value in case["expected"].items() if name not in GONE.get(case_id, ())}
    assert expected
    assert_near(compute(case), expected, case["tol"], case_id)


def test_every_case_is_computed() -> None:
    assert [name for name in CASES if not computation(name)] == [name for name in CASES if GONE.get(name) == set()]
