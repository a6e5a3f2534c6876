"""Which training pairs are dropped, and the account of it.

Every dropped pair is counted under exactly one rule, the first that holds, in the order of `RULES`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mt.config import CleaningConfig

RULES = ("empty", "too_long", "ratio", "identical", "overlap", "duplicate", "too_many_tokens")
"""In the order in which they are tried. `too_many_tokens` comes after tokenisation (`train.max_length`)."""

_EXAMPLE_CHARACTERS = 300

Pair = tuple[str, str]


@dataclass
class CleaningReport:
    """How many pairs were read and kept, how many each rule dropped, and some of those.

    read = kept + the sum of dropped, always.
    """

    examples: int = 5
    """how many dropped pairs to keep for each rule"""
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    shown: dict[str, list[Pair]] = field(default_factory=lambda: {rule: [] for rule in RULES})

    def drop(self, rule: str, source: str, target: str) -> None:
        """Counts one pair under a rule."""
        self.dropped[rule] += 1
        if len(self.shown[rule]) < self.examples:
            self.shown[rule].append((source[:_EXAMPLE_CHARACTERS], target[:_EXAMPLE_CHARACTERS]))

    def to_json(self) -> dict[str, Any]:
        """{"read", "kept", "rules": {rule: {"dropped", "examples": [[source, target], ...]}}}."""
        rules = {
            rule: {"dropped": self.dropped[rule], "examples": [list(pair) for pair in self.shown[rule]]}
            for rule in RULES
        }
        return {"read": self.read, "kept": self.kept, "rules": rules}


def clean(
    pairs: Iterable[Pair],
    config: CleaningConfig,
    held_out: Container[bytes],
    report: CleaningReport,
    seen: set[bytes] | None = None,
) -> Iterator[Pair]:
    """The pairs that no rule drops.

    Args:
        pairs: source and target text.
        config: the rules; a rule that is off drops nothing.
        held_out: hashes (`pair_hash`) of the validation and test pairs.
        report: counts what is read, kept and dropped.
        seen: hashes of the pairs so far, for the rule `duplicate`; give the same set for several corpora.
            It takes about 90 bytes a pair.
    """
    seen = set() if seen is None else seen
    for source, target in pairs:
        report.read += 1
        rule = _shape_rule(source, target, config)
        if rule is None and (config.overlap or config.duplicate):
            digest = pair_hash(source, target)
            if config.overlap and digest in held_out:
                rule = "overlap"
            elif config.duplicate and digest in seen:
                rule = "duplicate"
            elif config.duplicate:
                seen.add(digest)
        if rule is None:
            report.kept += 1
            yield source, target
        else:
            report.drop(rule, source, target)


def pair_hash(source: str, target: str) -> bytes:
    """8 bytes of BLAKE2b over both sides, white space at their ends left out.

    Among a hundred million pairs, the chance that any two different ones share a hash is 0.03 %.
    """
    first = source.strip().encode(errors="surrogatepass")
    second = target.strip().encode(errors="surrogatepass")
    # the length keeps ("ab", "c") apart from ("a", "bc")
    return hashlib.blake2b(b"%d:%b%b" % (len(first), first, second), digest_size=8).digest()


def _shape_rule(source: str, target: str, config: CleaningConfig) -> str | None:
    """The first of the rules that look at one pair alone."""
    if config.empty and not (source.strip() and target.strip()):
        return "empty"
    if 0 < config.max_characters < max(len(source), len(target)):
        return "too_long"
    if config.max_words or config.max_ratio:
        fewer, more = sorted((len(source.split()), len(target.split())))
        if 0 < config.max_words < more:
            return "too_long"
        if config.max_ratio and more > config.max_ratio * fewer:
            return "ratio"
    if config.identical and source.strip() == target.strip():
        return "identical"
    return None
