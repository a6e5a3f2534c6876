"""Confidence in the tokens of an output: their probability, after the recalibration stored with the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from msgspec import Meta

from mt.decoding.scoring import score_pairs
from mt.decoding.types import Hypothesis
from mt.errors import UserError
from mt.files.json_file import read_json, write_json
from mt.metrics.maps import InverseLink, Isotonic, Map, Temperature, map_from_json
from mt.model.directory import LoadedModel

FILE = "calibration.json"
VERSION = 1


class _Fitted(TypedDict):
    map: dict[str, Any]
    picked: str


class _Text(TypedDict):
    lines: Annotated[int, Meta(ge=0)]
    pairs: str


class _Threshold(TypedDict):
    confidence: Annotated[float, Meta(ge=0, le=1)]


class _Saved(TypedDict):
    teacher_forced: _Fitted
    inference: _Fitted
    fitted_on: _Text
    thresholds: list[_Threshold]


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
    """The recalibration of the model directory; None where there is none. Raises UserError for a broken file, or one
    that belongs to other weights."""
    path = loaded.folder / FILE
    if not path.is_file():
        return None
    remedy = "remove it or run tools/calibrate.py again"
    saved = read_json(path, dict[str, Any], remedy)
    if saved.get("version") != VERSION:
        raise UserError(f"{path}: version {saved.get('version')!r}, this program reads {VERSION}; {remedy}")
    if saved.get("weights") != loaded.meta.get("weights_blake2b"):
        raise UserError(f"{path}: was fitted to other weights; {remedy}")
    checked = read_json(path, _Saved, remedy)
    try:
        forced, own = map_from_json(checked["teacher_forced"]["map"]), map_from_json(checked["inference"]["map"])
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None
    classes = loaded.tokenizer.target_size, loaded.tokenizer.pad_id
    ends = {each.end_id for each in (forced, own) if isinstance(each, Temperature)}
    links = [each.link if isinstance(each, Temperature) else each for each in (forced, own)]
    sizes = {(link.vocabulary_size, link.pad_id) for link in links if isinstance(link, InverseLink)}
    if isinstance(forced, Isotonic) or not (ends <= {None, loaded.tokenizer.end_id} and sizes <= {classes}):
        raise UserError(f"{path}: its maps are not for the vocabulary of this model; {remedy}")
    return Recalibration(forced, own, saved)


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


def save_recalibration(saved: dict[str, Any], folder: Path) -> Path:
    """Writes calibration.json into a model directory; its path."""
    write_json(folder / FILE, {"version": VERSION, **saved})
    return folder / FILE
