"""How outputs are searched for: the decode section of a config, and all that a call may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from mt.settings import AboveZero, Count, Section, Whole, within

# Far beyond what is of use, and near enough that memory, lengths and float32 hold it.
Many: TypeAlias = Annotated[int, within(1, 100_000)]


@dataclass(frozen=True, kw_only=True)
class DecodeConfig(Section):
    """How sentences are translated, in validation and by `translate`, unless told otherwise."""

    beam: Annotated[int, within(1, 2_000)] = 5
    """hypotheses kept at each position"""
    length_penalty: Literal["none", "average", "gnmt", "reward"] = "average"
    """divide the score by nothing, by length ** alpha, or by GNMT's ((5 + length) / 6) ** alpha; reward:
    add alpha a token"""
    length_alpha: Annotated[float, within(0, 5)] = 1.0
    """exponent of the length penalty, or the reward"""
    stop: Literal["exact", "first_beam", "no_gain"] = "first_beam"
    """a sentence is done: when nothing better can come; when `beam` outputs are finished; or then, but only if the
    best unfinished one would not beat the worst of them"""
    min_length: Count = 1
    """fewest tokens of an output, end of sentence included"""
    no_repeat_ngram: Whole = 0
    """so many tokens in a row never stand twice in an output; 0: they may"""
    max_length: Annotated[int, within(2, 100_000)] = 256
    """longest source, in tokens, that is translated at once: a longer one is divided into sentences, and said to be"""
    max_length_ratio: Annotated[float, within(0, 100)] = 2.0
    """longest output: this times the source length, plus max_length_extra"""
    max_length_extra: Many = 20
    """tokens added to the longest output"""
    batch_tokens: Annotated[int, within(1, 10**9)] = 8192
    """most positions of a batch, beams included"""


@dataclass(frozen=True, kw_only=True)
class SearchConfig(DecodeConfig):
    """The decode section, and what a call can ask for beside it; every engine is told all of it."""

    nbest: Many = 1
    """up to so many different translations of each line, best first"""
    max_output: Whole = 0
    """most tokens of an output, end of sentence included; 0: only what max_length_ratio and max_length_extra allow"""
    temperature: Annotated[float, within(0.01, 100)] = 1.0
    """log-probabilities are divided by it before the search or the draw: below 1 they are sharpened"""
    sample: bool = False
    """draw outputs at random in place of the search; equal lines are drawn alike, whatever stands around them"""
    top_k: Annotated[int, within(0, 10**9)] = 0
    """sample: draw from the K likeliest tokens; 0: from all"""
    top_p: AboveZero = 1.0
    """sample: draw from the likeliest tokens that together reach this probability"""
    epsilon: Annotated[float, within(0, 1)] = 0.0
    """sample: draw from the tokens of at least this probability, or the likeliest where none has it; 0: from all"""
    seed: Annotated[int, within(0, 10**18)] = 1
    """sample: seed of the draw"""
    minimum_bayes_risk: Literal["none", "chrf"] = "none"
    """of the candidates take the one that agrees most with the others, by sentence chrF"""
    candidates: Annotated[int, within(0, 10_000)] = 0
    """minimum_bayes_risk: how many candidates, samples or the best of a beam of N; 0: as many as the beam"""
    shortlist: bool = False
    """write only what the command shortlist has found for the words of a line: faster with a large vocabulary"""
    token_scores: bool = True
    """whether the log-probability of each token is wanted; an engine that has them at no cost gives them anyway"""

    @property
    def wanted(self) -> int:
        """Outputs of a sentence that the search itself has to find."""
        return (self.candidates or self.beam) if self.minimum_bayes_risk != "none" else self.nbest

    @property
    def rows(self) -> int:
        """Rows of a sentence in a batch."""
        return self.wanted if self.sample else max(self.beam, self.wanted)

    def longest_output(self, source_length: int) -> int:
        """Most tokens of the output for a source of so many, end of sentence included on both sides."""
        longest = int(self.max_length_ratio * source_length) + self.max_length_extra
        return min(longest, self.max_output) if self.max_output else longest

    def _check(self) -> None:
        choosing = self.minimum_bayes_risk != "none"
        name, most = ("candidates", self.wanted) if choosing else ("beam", self.beam)
        if choosing or not self.sample:
            self._require(self.nbest <= most, "nbest", f"at most {name}, {most}: raise {name} or lower nbest")
        for name, unused in (("top_k", 0), ("top_p", 1.0), ("epsilon", 0.0)):
            if getattr(self, name) != unused and not self.sample:
                raise ValueError(f"{name} is {getattr(self, name)} but only sampling draws; add --sample")
        for name, unused in (("temperature", 1.0), ("sample", False)):
            if self.shortlist and getattr(self, name) != unused:
                raise ValueError(f"{name}: needs the whole vocabulary; leave out --shortlist")
        if self.candidates and not choosing:
            raise ValueError("candidates are what minimum Bayes risk chooses from; add --minimum_bayes_risk chrf")
