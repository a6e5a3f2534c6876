"""Validation during training, through the same scoring, search and measures as `tools/evaluate.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt.config import Config
from mt.corpus.store import TokenStore
from mt.corpus.tokenizer import Tokenizer
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.evaluation.quality import corpus_quality
from mt.evaluation.token_calibration import teacher_forced
from mt.model.directory import LoadedModel
from mt.model.transformer import Transformer


@dataclass(frozen=True)
class Validation:
    """What one validation found."""

    figures: dict[str, float]
    """nll and perplexity (unsmoothed, per token), accuracy, ece (teacher-forced), bleu, chrf"""
    calibration: dict[str, Any]
    """teacher-forced calibration with its bins"""
    samples: list[tuple[str, str, str]]
    """a few (source, reference, translation) rows"""


class Validator:
    """Holds the validation text and measures a model on it."""

    def __init__(self, config: Config, tokenizer: Tokenizer, valid: TokenStore) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.sources = [valid.source_text(index) for index in range(len(valid))]
        self.references = [valid.target_text(index) for index in range(len(valid))]

    def measure(self, model: Transformer, meta: dict[str, Any]) -> Validation:
        """Teacher-forced figures, then BLEU and chrF of the beam's output; the model is left in training mode."""
        model.eval()
        loaded = LoadedModel(model, self.tokenizer, self.config, meta, folder=Path(self.config.run_dir))
        try:
            calibration = teacher_forced(loaded, self.sources, self.references)
        except ValueError as error:  # huge weights are finite, what comes out of them is not
            raise UserError(
                f"validation failed ({error}): training has diverged; lower train.learning_rate or raise "
                "train.warmup_steps, and train into another run_dir"
            ) from None
        records = Translator(loaded).translate(self.sources)
        translations = [record["translation"] for record in records]
        quality = corpus_quality(translations, [self.references], bootstrap=0, seed=self.config.seed, ter=False)
        model.train()
        nll = float(calibration["nll"])
        figures = {
            "nll": nll,
            "perplexity": math.exp(min(nll, 700.0)),
            "accuracy": float(calibration["accuracy"]),
            "ece": float(calibration["ece"]),
            "bleu": float(quality["bleu"]["score"]),
            "chrf": float(quality["chrf"]["score"]),
        }
        samples = list(zip(self.sources, self.references, translations))[:5]
        return Validation(figures, calibration, samples)
