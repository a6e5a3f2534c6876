"""Confidence in the tokens of an output: their probability, after the recalibration stored with the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mt.decoding.beam_search import Hypothesis
from mt.decoding.options import SearchOptions
from mt.decoding.scoring import score_pairs
from mt.errors import UserError
from mt.metrics.maps import Isotonic, Map, map_from_json
from mt.model.directory import LoadedModel, read_json

if TYPE_CHECKING:
    from mt.decoding.translator import Engine

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
    saved = read_json(path)
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
    loaded: LoadedModel,
    chosen: Map,
    source_ids: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    log_probs: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Confidence in each token of outputs.

    Args:
        loaded: the model.
        chosen: the map; one that acts on distributions costs a pass of the model over the outputs.
        source_ids, tokens: ids of each source and its output, end of sentence last.
        log_probs: the model's own of those tokens.

    Returns:
        (tokens,) float64 in 0..1 for each output.
    """
    if isinstance(chosen, Isotonic):
        return [np.asarray(chosen.apply(np.exp(each, dtype=np.float64))) for each in log_probs]
    scored = score_pairs(loaded, source_ids, tokens, transform=chosen.apply)
    return [np.exp(each.log_probs, dtype=np.float64).clip(0, 1) for each in scored]


class RecalibratedEngine:
    """An engine whose hypotheses bring the recalibrated confidence of their tokens, where that is asked for."""

    def __init__(self, engine: Engine, loaded: LoadedModel, chosen: Map) -> None:
        self.engine, self.loaded, self.chosen = engine, loaded, chosen

    def search(
        self, source_ids: list[list[int]], options: SearchOptions, prefixes: list[list[int]] | None = None
    ) -> list[list[Hypothesis]]:
        """As the engine's."""
        found = self.engine.search(source_ids, options, prefixes)
        if not options.token_scores:
            return found
        flat = [(ids, hypothesis) for ids, hypotheses in zip(source_ids, found) for hypothesis in hypotheses]
        confidence = iter(
            recalibrated(
                self.loaded,
                self.chosen,
                [ids for ids, _ in flat],
                [hypothesis.tokens for _, hypothesis in flat],
                [hypothesis.log_probs for _, hypothesis in flat],
            )
        )
        return [[each._replace(confidence=next(confidence)) for each in hypotheses] for hypotheses in found]


def dump_recalibration(saved: dict[str, Any]) -> str:
    """The text of calibration.json."""
    return json.dumps({"version": VERSION, **saved}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
