"""A test set: source lines and the references of each, and the leakage check of a recalibration."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt.corpus.tokenizer import comparable
from mt.errors import UserError
from mt.files.lines import check_equally_many, read_lines

_LARGEST_SHARE = 0.1  # of a test set's pairs that are fitted on: short sentences recur in honest test sets
_DIGITS = 8


@dataclass(frozen=True)
class TestSet:
    """What is translated, and what it should come to. All streams are equally long."""

    __test__ = False  # not a test case, whatever pytest thinks of its name

    sources: list[str]
    references: list[list[str]]
    description: dict[str, Any]
    """the `data` block of results.json: file names, number of lines, fingerprints"""


def read_test_set(source: Path | None, references: Sequence[Path], target_language: str | None = None) -> TestSet:
    """Reads a test set: source lines (None: a system's records take their place), and a file for each reference, at
    least one. The language chooses BLEU's tokeniser; None: the model's own, or not known. Raises UserError where a file
    is missing, empty, or not as long as the first; names both files and their numbers of lines."""
    paths = [*([source] if source else []), *references]
    streams = [list(read_lines([path])) for path in paths]
    for path, stream in zip(paths, streams):
        if not stream:
            raise UserError(f"{path}: is empty; evaluation needs at least one line")
        check_equally_many(paths[0], len(streams[0]), path, len(stream))
    description = {
        "source": source.name if source else None,
        "references": [path.name for path in references],
        "lines": len(streams[0]),
        "target_language": target_language,
        "fingerprints": {path.name: fingerprint(stream) for path, stream in zip(paths, streams)},
    }
    return TestSet(streams[0] if source else [], streams[-len(references) :], description)


def fingerprint(lines: Sequence[str]) -> str:
    """Hash of the lines, whatever form their file has."""
    text = "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def text_fitted_on(sources: Sequence[str], reference: Sequence[str]) -> dict[str, Any]:
    """The `fitted_on` block of calibration.json: fingerprints, lines, and a short hash of each pair in one text."""
    return {
        "source": fingerprint(sources),
        "reference": fingerprint(reference),
        "lines": len(sources),
        "pairs": "".join(sorted(set(map(_hash, sources, reference)))),
    }


def overlaps(fitted_on: dict[str, Any], test_set: TestSet) -> bool:
    """Whether more than a tenth of the test set's pairs are among those of a `fitted_on` block."""
    pairs = fitted_on["pairs"]
    known = {pairs[first : first + _DIGITS] for first in range(0, len(pairs), _DIGITS)}
    leaked = [_hash(*pair) in known for pair in zip(test_set.sources, test_set.references[0])]
    return sum(leaked) > _LARGEST_SHARE * len(leaked)


def _hash(source: str, reference: str) -> str:
    pair = "\n".join(comparable([source, reference])).encode()
    return hashlib.blake2b(pair, digest_size=_DIGITS // 2).hexdigest()
