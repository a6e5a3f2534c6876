"""Validation during training, through the same scoring, search and measures as `tools/evaluate.py`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mt.config import Config
from mt.corpus.store import TokenStore
from mt.corpus.tokenizer import Tokenizer
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.evaluation.tokens import SplitBins, teacher_forced
from mt.metrics.quality import check_bleu, corpus_quality
from mt.model.directory import LoadedModel
from mt.model.transformer import Transformer
from mt.progress import LineNotes
from mt.training.distributed import Group

_SAMPLE = 8  # of so many lines one is translated to estimate how long a validation takes


@dataclass(frozen=True)
class Validation:
    """What one validation found."""

    figures: dict[str, float]
    """nll and perplexity (unsmoothed, per token), accuracy, ece (teacher-forced), bleu, chrf"""
    calibration: Mapping[str, Any]
    """teacher-forced calibration with its bins"""
    samples: list[tuple[str, str, str]]
    """a few (source, reference, translation) rows"""


class Validator:
    """Holds the validation text and measures a model on it; the processes deal out the lines."""

    def __init__(self, config: Config, tokenizer: Tokenizer, valid: TokenStore, group: Group) -> None:
        self.config, self.tokenizer, self.group = config, tokenizer, group
        self.sources = valid.texts("source", 0, len(valid))
        self.references = valid.texts("target", 0, len(valid))
        if not any(source.strip() for source in self.sources):
            raise UserError("data.valid: its source side holds no text; validation needs some")
        if group.is_main:
            check_bleu(config.data.target_language, self.references)
        longest, overlong = config.decode.max_length, LineNotes()
        for line, ids in enumerate(tokenizer.encode_source(self.sources) if group.rank == 0 else []):
            if len(ids) > longest:
                overlong.add(line)
        overlong.warn(f"validation sources of more than {longest} tokens (decode.max_length), translated in parts")
        # Lines of all lengths for everyone, so that all are done at about the same time.
        by_length = sorted(range(len(valid)), key=lambda index: len(self.sources[index]))
        self.mine = by_length[group.rank :: group.world_size]

    def measure(self, model: Transformer) -> Validation | None:
        """Teacher-forced figures, then BLEU and chrF of the beam's output; all call it, the main process gets them."""
        parts = self.group.gather((self.mine, *self._measure_lines(model, self.config, self.mine)))
        if not parts:
            return None
        bins = parts[0][1]
        for _, others, _ in parts[1:]:
            bins.merge(others)
        translations = [line for _, line in sorted(pair for lines, _, found in parts for pair in zip(lines, found))]
        calibration: Mapping[str, Any] = bins.result()
        quality = corpus_quality(translations, [self.references], language=self.config.data.target_language, ter=False)
        nll, accuracy, ece = (float(calibration[name]) for name in ("nll", "accuracy", "ece"))
        # exp overflows from 710 on.
        figures = {"nll": nll, "perplexity": math.exp(min(nll, 700.0)), "accuracy": accuracy, "ece": ece}
        figures |= {name: float(quality[name]["score"]) for name in ("bleu", "chrf")}
        return Validation(figures, calibration, list(zip(self.sources, self.references, translations))[:5])

    def estimated_seconds(self, model: Transformer) -> float:
        """About how long `measure` will take. All processes call it; the main one's answer counts."""
        # A model that has hardly been trained does not know where to end: outputs are kept as long as their sources.
        decode = replace(self.config.decode, max_length_ratio=1.0, max_length_extra=5)
        sample, started = self.mine[::_SAMPLE], time.monotonic()
        self._measure_lines(model, replace(self.config, decode=decode), sample)
        return (time.monotonic() - started) * len(self.mine) / max(1, len(sample))

    def _measure_lines(self, model: Transformer, config: Config, lines: list[int]) -> tuple[SplitBins, list[str]]:
        """Teacher-forced calibration of some lines, and their translations; leaves the model in training mode."""
        model.eval()
        model.use_bfloat16_products(False)  # as `tools/evaluate.py` will measure it
        loaded = LoadedModel(model, self.tokenizer, config, {}, Path(config.run_dir))
        sources = [self.sources[index] for index in lines]
        try:
            bins = teacher_forced(loaded, sources, [self.references[index] for index in lines])
        except ValueError as error:  # huge weights are finite, what comes out of them is not
            raise UserError(
                f"validation failed ({error}): training has diverged; lower train.learning_rate or raise "
                "train.warmup_steps, and train into another run_dir"
            ) from None
        translations = [str(record["translation"]) for record in Translator(loaded).translate(sources)]
        model.train()
        return bins, translations
