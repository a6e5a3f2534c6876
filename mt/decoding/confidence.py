"""Confidence in an output: how likely its tokens are right, how good its lines, as `tools/calibrate.py` found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import numpy as np
from msgspec import Meta

from mt.decoding.inputs import LINE_INPUTS, TOKEN_INPUTS, OutputInputs
from mt.decoding.types import Hypothesis
from mt.errors import UserError
from mt.files.json_file import read_json, write_json
from mt.metrics.estimator import Logistic, Quality
from mt.metrics.maps import InverseLink, Isotonic, Map, Temperature, map_from_json
from mt.metrics.noise import Floats
from mt.model.directory import LoadedModel

FILE = "calibration.json"
VERSION = 2
_UNLIKE = 0.5  # standard deviations of lines that a mean may be apart, the doubt of a few lines besides


class _Fitted(TypedDict):
    map: dict[str, Any]
    picked: str


class _Text(TypedDict):
    lines: Annotated[int, Meta(ge=0)]
    pairs: str


class _Promise(TypedDict):
    threshold: float
    chrf: float
    precision: float


class _Saved(TypedDict):
    teacher_forced: _Fitted
    inference: _Fitted
    quality: Quality
    fitted_on: _Text
    promises: list[_Promise]


@dataclass(frozen=True)
class Recalibration:
    """What `tools/calibrate.py` stored in a model directory."""

    teacher_forced: InverseLink | Temperature
    """for the next token after a given prefix; acts on whole distributions"""
    tokens: Logistic | Isotonic | None
    """whether the tokens of the model's own output are right; None: nothing was better than their probability"""
    quality: Quality
    """of a line of the output"""
    saved: dict[str, Any]
    """the whole file: what was fitted on, figures before and after, promises"""


def load_recalibration(loaded: LoadedModel) -> Recalibration | None:
    """The recalibration of the model directory; None where there is none. Raises UserError for a broken file, or one
    that belongs to other weights."""
    path = loaded.folder / FILE
    if not path.is_file():
        return None
    remedy = "remove it or run calibrate again"
    saved = read_json(path, dict[str, Any], remedy)
    if saved.get("version") != VERSION:
        raise UserError(f"{path}: version {saved.get('version')!r}, this program reads {VERSION}; {remedy}")
    if saved.get("weights") != loaded.meta.get("weights_blake2b"):
        raise UserError(f"{path}: was fitted to other weights; {remedy}")
    checked = read_json(path, _Saved, remedy)
    try:
        forced, tokens = map_from_json(checked["teacher_forced"]["map"]), _token_map(checked["inference"]["map"])
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None
    quality, known = checked["quality"], (*TOKEN_INPUTS,) if isinstance(tokens, Logistic) else None
    if {quality.expected.inputs, quality.spread.inputs} != {(*LINE_INPUTS,)} or (
        isinstance(tokens, Logistic) and tokens.inputs != known
    ):
        raise UserError(f"{path}: its estimators have other inputs than this program's; {remedy}")
    link = forced.link if isinstance(forced, Temperature) else forced
    classes = loaded.tokenizer.target_size, loaded.tokenizer.pad_id
    if isinstance(forced, Isotonic) or (
        isinstance(link, InverseLink) and (link.vocabulary_size, link.pad_id) != classes
    ):
        raise UserError(f"{path}: its maps are not for the vocabulary of this model; {remedy}")
    return Recalibration(forced, tokens, quality, saved)


def _token_map(saved: dict[str, Any]) -> Logistic | Isotonic | None:
    if saved.get("name") == "logistic":
        try:
            return msgspec.convert({name: saved[name] for name in saved.keys() - {"name"}}, Logistic)
        except msgspec.MsgspecError as error:
            raise ValueError(f"not an estimator: {error}") from None
    found: Map = map_from_json(saved)
    if isinstance(found, Isotonic) or found == Temperature():
        return found if isinstance(found, Isotonic) else None
    raise ValueError(f"{found.name} is no map of single tokens")


class Confidence:
    """Puts numbers on outputs, and keeps in mind how unlike the development set they are."""

    def __init__(self, loaded: LoadedModel, recalibration: Recalibration) -> None:
        self.recalibration = recalibration
        self.inputs = OutputInputs(loaded.tokenizer, loaded.piece_counts)

    def of_tokens(
        self, sources: Sequence[Sequence[int]], found: Sequence[Sequence[Hypothesis]]
    ) -> list[list[Hypothesis]]:
        """The hypotheses `found` of each source (ids, end of sentence last) with the confidence of their tokens."""
        flat = [(ids, hypothesis) for ids, hypotheses in zip(sources, found) for hypothesis in hypotheses]
        tokens = self.recalibration.tokens
        if tokens is None or not flat:
            return [[*hypotheses] for hypotheses in found]
        log_probs = [each.log_probs for _, each in flat]
        if isinstance(tokens, Isotonic):
            values = tokens.apply(np.exp(np.concatenate(log_probs), dtype=np.float64))
        else:
            values = tokens.apply(
                self.inputs([ids for ids, _ in flat], [each.tokens for _, each in flat], log_probs)[0]
            )
        parts = iter(np.split(values, np.cumsum([len(each) for each in log_probs])[:-1]))
        return [[each._replace(confidence=next(parts)) for each in hypotheses] for hypotheses in found]

    def of_lines(self, sources: Sequence[Sequence[int]], outputs: Sequence[Hypothesis]) -> tuple[Floats, Floats]:
        """The quality of each output (outputs, 3), as Quality.apply gives it, and its inputs, (outputs, inputs)."""
        values = np.zeros((0, len(LINE_INPUTS)))
        if outputs:
            values = self.inputs(sources, [each.tokens for each in outputs], [each.log_probs for each in outputs])[1]
        return self.recalibration.quality.apply(values), values


def unlike(quality: Quality, mean: Floats, lines: int) -> dict[str, Any]:
    """How a text of so many lines, with the mean (inputs,) of their inputs, differs from the one that confidence was
    fitted on: `unlike`, whether some input is clearly more than half a standard deviation apart; `distances`: in
    standard deviations of lines; `text`: a sentence about it."""
    distances = quality.distances(mean)
    limit = _UNLIKE + 2 / np.sqrt(lines)
    far = sorted((name for name in distances if abs(distances[name]) > limit), key=lambda name: -abs(distances[name]))
    said = ", ".join(f"{LINE_INPUTS[name][distances[name] < 0]} ({distances[name]:+.1f} sd)" for name in far[:3])
    text = f"this text is {'un' * bool(far)}like the one that confidence was fitted on"
    return {
        "unlike": bool(far),
        "distances": distances,
        "text": f"{text}: {said}; its confidence may not hold" if far else text,
    }


def save_recalibration(saved: dict[str, Any], folder: Path) -> Path:
    """Writes calibration.json into a model directory; its path."""
    write_json(folder / FILE, {"version": VERSION, **saved})
    return folder / FILE
