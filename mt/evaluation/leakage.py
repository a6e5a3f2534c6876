"""Leakage check: which text a recalibration was fitted on, so that it is not reported on the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from mt.evaluation.test_set import TestSet, fingerprint

LARGEST_SHARE = 0.1
"""of a test set's pairs that may be among those fitted on: short sentences recur in honest test sets"""
_DIGITS = 8


def text_fitted_on(sources: Sequence[str], reference: Sequence[str]) -> dict[str, Any]:
    """The `fitted_on` block of calibration.json: fingerprints, lines, and a short hash of each pair in one text."""
    return {
        "source": fingerprint(sources),
        "reference": fingerprint(reference),
        "lines": len(sources),
        "pairs": "".join(sorted(set(map(_hash, sources, reference)))),
    }


def overlaps(fitted_on: dict[str, Any], test_set: TestSet) -> bool:
    """Whether more than LARGEST_SHARE of the test set's pairs are among those of a `fitted_on` block."""
    pairs = fitted_on["pairs"]
    known = {pairs[first : first + _DIGITS] for first in range(0, len(pairs), _DIGITS)}
    leaked = [_hash(*pair) in known for pair in zip(test_set.sources, test_set.references[0])]
    return sum(leaked) > LARGEST_SHARE * len(leaked)


def _hash(source: str, reference: str) -> str:
    pair = f"{source}\n{reference}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(pair, digest_size=_DIGITS // 2).hexdigest()
