"""How the outputs of a sentence are searched for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mt.config import DecodeConfig
from mt.decoding.penalties import PENALTIES
from mt.errors import UserError

UTILITIES = ("chrf", "bleu")
STOPPING_RULES = ("exact", "first_beam", "no_gain")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What every engine is told about the search; see `DecodeConfig`."""

    beam: int
    nbest: int = 1
    length_penalty: str
    length_alpha: float
    batch_tokens: int
    token_scores: bool = True
    """whether the log-probability of each token is wanted; an engine that has them at no cost gives them anyway"""

    shortlist: bool = False
    """only pieces of the model's lexical shortlist are written; see `mt.decoding.shortlist`"""
    stop: str = "first_beam"
    """when a sentence is done, one of STOPPING_RULES; see `mt.decoding.beam_search`"""
    min_length: int = 1
    """fewest tokens of an output, end of sentence included"""
    max_output: int = 0
    """most tokens of an output, end of sentence included; 0: only what the config's ratio and extra allow"""
    no_repeat_ngram: int = 0
    """so many tokens in a row never stand twice in an output; 0: they may"""
    rectify: bool = False
    """search in the distribution that the inverse link of the training loss makes of the model's"""
    temperature: float = 1.0
    """log-probabilities are divided by it, behind `rectify`, before the search or the draw"""
    sample: bool = False
    """draw outputs at random in place of the search"""
    top_k: int = 0
    """draw from so many of the likeliest tokens; 0: from all"""
    top_p: float = 1.0
    """draw from the likeliest tokens that together reach this probability"""
    seed: int = 1
    """of the draw; with it equal lines are drawn alike, wherever they stand"""
    minimum_bayes_risk: str = "none"
    """choose by agreement among `candidates` outputs: chrf or bleu, the utility"""
    candidates: int = 0
    """outputs to choose from: samples, or the n-best of so wide a beam; 0: `beam` of them"""

    @property
    def wanted(self) -> int:
        """Outputs of a sentence that the search itself has to find."""
        return (self.candidates or self.beam) if self.minimum_bayes_risk != "none" else self.nbest

    @property
    def rows(self) -> int:
        """Rows of a sentence in a batch."""
        return self.wanted if self.sample else max(self.beam, self.wanted)

    def __post_init__(self) -> None:
        for name in ("beam", "nbest", "batch_tokens", "min_length"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("max_output", "no_repeat_ngram", "top_k", "seed", "candidates"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        choosing = self.minimum_bayes_risk != "none"
        if self.nbest > self.beam and not self.sample and not choosing:
            raise UserError(f"nbest is {self.nbest}; it must be at most beam, {self.beam}: raise beam or lower nbest")
        if choosing and self.nbest > self.wanted:
            raise UserError(f"nbest is {self.nbest}; it must be at most candidates, {self.wanted}")
        for name, values in (
            ("length_penalty", PENALTIES),
            ("stop", STOPPING_RULES),
            ("minimum_bayes_risk", ("none", *UTILITIES)),
        ):
            self._check(name, getattr(self, name) in values, f"one of {', '.join(values)}")
        self._check("length_alpha", 0 <= self.length_alpha < float("inf"), "0 or more")
        self._check("temperature", 0 < self.temperature < float("inf"), "above 0")
        self._check("top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        for name, unused in (("top_k", 0), ("top_p", 1.0)):
            if getattr(self, name) != unused and not self.sample:
                raise UserError(f"{name} is {getattr(self, name)} but only sampling draws; add --sample")
        for name, unused in (("rectify", False), ("temperature", 1.0), ("sample", False)):
            if self.shortlist and getattr(self, name) != unused:
                raise UserError(f"{name}: needs the whole vocabulary; leave out --shortlist")
        if self.candidates and not choosing:
            raise UserError("candidates are what minimum Bayes risk chooses from; add --minimum_bayes_risk chrf")

    def _check(self, name: str, right: bool, allowed: str) -> None:
        if not right:
            raise UserError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")


def search_options(config: DecodeConfig, **given: Any) -> SearchOptions:
    """The fields of SearchOptions that are given and not None; the rest as the model's config says."""
    names = {field.name for field in fields(SearchOptions)}
    configured = {name: getattr(config, name) for name in names if hasattr(config, name)}
    return SearchOptions(**configured | {name: value for name, value in given.items() if value is not None})
