"""A grammar whose truth is known: German, French and English sentences with the exact probability of every translation.

`python -m mt.grammar.grammar --samples 200 --seed 7` prints samples in the three languages.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Iterator
from functools import lru_cache

from mt.errors import UserError
from mt.grammar.engine import Abstract, Concrete, Meaning
from mt.grammar.lexicon import LANGUAGES, data_directory, read_grammar
from mt.grammar.oracle import TokenTruth, next_token_distribution
from mt.grammar.parse import Parser

__all__ = [
    "LANGUAGES",
    "Grammar",
    "TokenTruth",
    "data_directory",
    "next_token_distribution",
    "sample_pairs",
    "sample_triple",
]

SHORTEST, LONGEST = 3, 25  # words of a sentence
SPLITS = ("train", "valid", "test")


@lru_cache(maxsize=1)
def _grammar() -> tuple[Abstract, dict[str, Concrete]]:
    return read_grammar()


def _words(text: str) -> int:
    """Words of a sentence; the French space before a mark makes no word."""
    return text.count(" ") + (text[-2:-1] != " ")


class Grammar:
    """The grammar seen as a source of translations from one language into another."""

    def __init__(self, source_language: str, target_language: str) -> None:
        self.source_language, self.target_language = source_language, target_language
        self._abstract, concretes = _grammar()
        self._source, self._target = concretes[source_language], concretes[target_language]
        self._parser: Parser | None = None

    @classmethod
    def load(cls, source_language: str, target_language: str) -> Grammar:
        """The grammar for two different languages of `LANGUAGES`; UserError for any other."""
        for language in (source_language, target_language):
            if language not in LANGUAGES:
                raise UserError(f"the grammar has no language {language!r}; choose from {', '.join(LANGUAGES)}")
        if source_language == target_language:
            raise UserError(f"the grammar needs two different languages, not {source_language!r} twice")
        return cls(source_language, target_language)

    def sample(self, rng: random.Random) -> tuple[str, str]:
        """A random source sentence with a random translation."""
        while True:
            meaning: Meaning = self._abstract.draw("Sentence", "", rng.random)  # type: ignore[assignment]
            source, target = self._source.sentence(meaning, rng), self._target.sentence(meaning, rng)
            lengths = _words(source), _words(target)
            # Wordings of one meaning differ by a few words only, so the others need a look only near the limits.
            if (min(lengths) > SHORTEST + 4 and max(lengths) < LONGEST - 6) or self._fits(meaning):
                return source, target

    def _fits(self, meaning: Meaning) -> bool:
        """Whether every wording in both languages has `SHORTEST` to `LONGEST` words: a property of the meaning."""
        return all(
            SHORTEST <= _words(text) <= LONGEST
            for language in (self._source, self._target)
            for text in language.sentences(meaning)
        )

    def translations(self, source: str) -> dict[str, float]:
        """Every distinct translation of `source` with its exact probability, most probable first.

        P(target | source) = sum over meanings m of P(m) P(source | m) P(target | m), divided by the sum over targets.
        Raises UserError where the grammar cannot have produced `source`.
        """
        if self._parser is None:
            self._parser = Parser(self._abstract, self._source)
        meanings = [(m, weight) for m, weight in self._parser.meanings(source) if self._fits(m)]
        if not meanings:
            raise UserError(f"not a sentence of the {self.source_language} grammar: {source!r}")
        total = sum(weight for _, weight in meanings)
        result: dict[str, float] = {}
        for meaning, weight in meanings:
            for target, probability in self._target.sentences(meaning).items():
                result[target] = result.get(target, 0.0) + probability * weight / total
        return dict(sorted(result.items(), key=lambda item: (-item[1], item[0])))


def split_of(source: str) -> str:
    """The split that a source sentence belongs to, whatever the seed: 1 in 50 valid, 1 in 50 test, else train."""
    number = int.from_bytes(hashlib.blake2b(source.encode(), digest_size=8).digest(), "big") % 50
    return "valid" if number == 0 else "test" if number == 1 else "train"


def sample_pairs(
    languages: tuple[str, str], pairs: int, seed: int, *, split: str = "train"
) -> Iterator[tuple[str, str]]:
    """`pairs` sentence pairs of one split, determined by the arguments; streams, duplicates are kept.

    Splits share no source sentence, whatever the seeds. Raises UserError on an unknown language or split.
    """
    if split not in SPLITS:
        raise UserError(f"the grammar has no split {split!r}; choose from {', '.join(SPLITS)}")
    grammar = Grammar.load(*languages)
    return _stream(grammar, pairs, random.Random(f"{languages[0]}-{languages[1]} {split} {seed}"), split)


def _stream(grammar: Grammar, pairs: int, rng: random.Random, split: str) -> Iterator[tuple[str, str]]:
    count = 0
    while count < pairs:
        source, target = grammar.sample(rng)
        if split_of(source) == split:
            count += 1
            yield source, target


def sample_triple(rng: random.Random) -> dict[str, str]:
    """One meaning said in every language."""
    abstract, concretes = _grammar()
    while True:
        meaning: Meaning = abstract.draw("Sentence", "", rng.random)  # type: ignore[assignment]
        triple = {language: concretes[language].sentence(meaning, rng) for language in LANGUAGES}
        if all(SHORTEST <= _words(text) <= LONGEST for text in triple.values()):
            return triple


def main() -> None:
    """Print samples: one meaning a paragraph, in every language."""
    parser = argparse.ArgumentParser(prog="python -m mt.grammar.grammar", description=main.__doc__)
    parser.add_argument("--samples", type=int, default=20, help="number of meanings")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    for number in range(1, options.samples + 1):
        print("\n".join(f"{number} {language}: {text}" for language, text in sample_triple(rng).items()))


if __name__ == "__main__":
    main()
