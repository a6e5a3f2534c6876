"""Which training pairs are dropped, and the account of it.

Every dropped pair is counted under exactly one rule, the first that holds, in the order of `RULES`. What looks at one
pair alone (`examine`) can be done for many pieces of a corpus at once, in any process; what compares pairs (`Cleaner`)
goes through the pieces in order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import compress
from typing import Any, TypeAlias

import numpy as np

from mt.config import CleaningConfig
from mt.corpus.tokenizer import comparable

RULES = ("missing_language", "empty", "too_long", "ratio", "identical", "overlap", "duplicate", "too_many_tokens")
"""In the order in which they are tried. `missing_language`: units of a TMX file that lack one of the two and become no
pair; `too_many_tokens` comes after tokenisation (`train.max_length`)."""

_KEPT = len(RULES)
Sides: TypeAlias = tuple[Sequence[str], Sequence[str]]  # sources and targets of some pairs


def examine(texts: Sides, config: CleaningConfig, fold_case: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """What each pair of a piece of a corpus tells alone.

    Returns:
        (pairs,) uint8, index into `RULES` of the rule that drops a pair, or `len(RULES)`; and (pairs,) uint64, 8 bytes
        of BLAKE2b over both sides, the same for pairs that are `comparable`. Among a hundred million pairs, the chance
        that any two different ones share a hash is 0.03 %.
    """
    seen = [comparable(side, fold_case) for side in texts]
    rules = [_shape_rule(pair, shown, config) for pair, shown in zip(zip(*texts), zip(*seen))]
    sides = ([text.encode() for text in side] for side in seen)
    # the length keeps ("ab", "c") apart from ("a", "bc")
    pairs = (b"%d:%b%b" % (len(source), source, target) for source, target in zip(*sides))
    digests = b"".join(hashlib.blake2b(pair, digest_size=8).digest() for pair in pairs)
    hashes = np.frombuffer(digests, dtype="<u8").astype(np.uint64, copy=False)  # the same on every machine
    return np.array(rules, dtype=np.uint8), hashes


class Cleaner:
    """Keeps the pairs that no rule drops; give it the pieces of all corpora in order.

    Args:
        config: the rules; a rule that is off drops nothing.
        held_out: (pairs,) uint64, hashes (`examine`) of the validation and test pairs.

    Attributes:
        read, kept: pairs so far; read = kept + the sum of dropped, always.
        rules: {rule: {"dropped", "examples": [[source, target], ...]}}.
    """

    def __init__(self, config: CleaningConfig, held_out: np.ndarray) -> None:
        self.read = self.kept = 0
        self.rules: dict[str, dict[str, Any]] = {rule: {"dropped": 0, "examples": []} for rule in RULES}
        self._config = config
        self._held_out = np.unique(held_out)
        self._seen = SeenHashes()

    @property
    def counts(self) -> Counter[str]:
        """Pairs so far: "read", "kept", and those that each rule has dropped."""
        dropped = {rule: found["dropped"] for rule, found in self.rules.items()}
        return Counter({"read": self.read, "kept": self.kept, **dropped})

    def leave_out(self, lacking: dict[str, Any]) -> None:
        """Counts units that lack a language, as `read_tmx` does."""
        rule = self.rules["missing_language"]
        self.read += lacking["dropped"]
        rule["dropped"] += lacking["dropped"]
        rule["examples"] = (rule["examples"] + lacking["examples"])[: self._config.examples]

    def keep(self, texts: Sides, examined: tuple[np.ndarray, np.ndarray]) -> tuple[list[str], list[str]]:
        """Sources and targets of the pairs of a piece that no rule drops; `examined` as `examine` returns it."""
        rules, hashes = examined
        if self._config.overlap:
            rules[(rules == _KEPT) & _isin_sorted(hashes, self._held_out)] = RULES.index("overlap")
        if self._config.duplicate:
            left = np.flatnonzero(rules == _KEPT)
            rules[left[~self._seen.add(hashes[left])]] = RULES.index("duplicate")
        for index in np.flatnonzero(rules != _KEPT).tolist():
            rule = self.rules[RULES[rules[index]]]
            rule["dropped"] += 1
            if len(rule["examples"]) < self._config.examples:
                rule["examples"].append([side[index][:300] for side in texts])
        kept = (rules == _KEPT).tolist()
        self.read += len(kept)
        self.kept += sum(kept)
        return list(compress(texts[0], kept)), list(compress(texts[1], kept))


class SeenHashes:
    """A set of 64-bit numbers in 8 bytes each (three times that for a moment, when runs are merged).

    Kept as sorted runs, each more than twice as long as the next, so that there are few.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """(n,) bool: which of the n numbers are here for the first time, of equal ones the first."""
        values, first = np.unique(hashes, return_index=True)
        known = np.zeros(len(values), dtype=bool)
        for run in self._runs:
            known |= _isin_sorted(values, run)
        run = values[~known]
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # merges the two in linear time
        if len(run):
            self._runs.append(run)
        new = np.zeros(len(hashes), dtype=bool)
        new[first[~known]] = True
        return new


def _isin_sorted(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """(n,) bool: which values stand in a sorted array."""
    return np.searchsorted(ordered, values, "left") < np.searchsorted(ordered, values, "right")


def _shape_rule(pair: tuple[str, str], seen: tuple[str, str], config: CleaningConfig) -> int:
    """The first of the rules that look at one pair alone, as an index into `RULES`; `seen`: the pair as compared."""
    source, target = pair
    if config.empty and not all(seen):
        return RULES.index("empty")
    if 0 < config.max_characters < max(len(source), len(target)):
        return RULES.index("too_long")
    if config.max_words or config.max_ratio:
        fewer, more = sorted((len(source.split()), len(target.split())))
        if 0 < config.max_words < more:
            return RULES.index("too_long")
        if config.max_ratio and more > config.max_ratio * fewer:
            return RULES.index("ratio")
    if config.identical and seen[0] == seen[1]:
        return RULES.index("identical")
    return _KEPT
