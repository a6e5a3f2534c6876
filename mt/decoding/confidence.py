"""Confidence in the tokens of an output: their probability, after the recalibration stored with the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mt.decoding.scoring import score_pairs
from mt.decoding.types import Hypothesis
from mt.errors import UserError
from mt.files.json_file import read_json
from mt.metrics.maps import Isotonic, Map, map_from_json
from mt.model.directory import LoadedModel

FILE = "calibration.json"
VERSION = 1


@dataclass(frozen=True)
class Recalibration:
    """What `tools/calibrate.py` stored in a model directory."""

    teacher_forced: Map
    """for the next token after a given prefix; acts on whole distributions"""
    inference: Map
    """for the tokens of the model's own output: whether they are right"""
    saved: dict[str, Any]
    """the whole file: what the maps were fitted on, figures before and after, thresholds"""


def load_recalibration(loaded: LoadedModel) -> Recalibration | None:
    """The recalibration of the model directory; None where there is none.

    Raises:
        UserError: a broken file, or one that belongs to other weights.
    """
    path = loaded.folder / FILE
    if not path.is_file():
        return None
    saved = read_json(path, dict[str, Any])
    if saved.get("version") != VERSION:
        raise UserError(f"{path}: version {saved.get('version')!r}, this program reads {VERSION}; calibrate again")
    if saved.get("weights") != loaded.meta.get("weights_blake2b"):
        raise UserError(f"{path}: was fitted to other weights; remove it or run tools/calibrate.py again")
    try:
        forced, own = (map_from_json(saved[name]["map"]) for name in ("teacher_forced", "inference"))
        return Recalibration(forced, own, saved)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: broken ({error}); run tools/calibrate.py again") from None


def recalibrated(
    loaded: LoadedModel, chosen: Map, source_ids: Sequence[Sequence[int]], found: Sequence[Sequence[Hypothesis]]
) -> list[list[Hypothesis]]:
    """The hypotheses `found` of each sentence with the recalibrated confidence of their tokens. A map that acts on
    distributions costs a pass of the model over the outputs."""
    flat = [(ids, hypothesis) for ids, hypotheses in zip(source_ids, found) for hypothesis in hypotheses]
    if isinstance(chosen, Isotonic):
        confidence = (np.asarray(chosen.apply(np.exp(each.log_probs, dtype=np.float64))) for _, each in flat)
    else:
        sources, tokens = [ids for ids, _ in flat], [each.tokens for _, each in flat]
        scored = score_pairs(loaded, sources, tokens, transform=chosen.apply)
        confidence = (np.exp(each.log_probs, dtype=np.float64).clip(0, 1) for each in scored)  # rounding may exceed 1
    return [[each._replace(confidence=next(confidence)) for each in hypotheses] for hypotheses in found]


def dump_recalibration(saved: dict[str, Any]) -> str:
    """The text of calibration.json."""
    return json.dumps({"version": VERSION, **saved}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
