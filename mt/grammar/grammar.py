"""The shipped grammar: German, French and English sentences with the exact probability of every translation."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from functools import lru_cache

from mt.errors import UserError
from mt.grammar.engine import Abstract, Concrete
from mt.grammar.lexicon import LANGUAGES, LexiconReader, data_directory, load_yaml
from mt.grammar.parse import Parser
from mt.grammar.rules import read_rules, read_tables
from mt.grammar.spelling import Spelling
from mt.grammar.structures import Lexeme, Meaning

SHORTEST, LONGEST = 3, 25  # words of a sentence
SPLITS = ("train", "valid", "test")


@lru_cache(maxsize=1)  # reading takes a second
def read_grammar() -> tuple[Abstract, dict[str, Concrete]]:
    """The whole grammar: meanings, and the wording of every language."""
    directory = data_directory() / "grammar"
    lexicon = LexiconReader(directory).read()
    concretes: dict[str, Concrete] = {}
    for language in LANGUAGES:
        settings = load_yaml(directory / f"{language}.yaml")
        tables = {**read_tables(settings), "prep": _prepositions(lexicon, language)}
        concretes[language] = Concrete(language, tables, Spelling(settings["spelling"]))
    return Abstract(read_rules(load_yaml(directory / "rules.yaml"), concretes), lexicon), concretes


def _prepositions(lexicon: dict[str, list[Lexeme]], language: str) -> dict[tuple[str, ...], str]:
    """The prepositions that entries name, as a table: `o` is none."""
    words = {"o", "à", "de"} if language == "fr" else {"o"}
    for lexeme in itertools.chain(lexicon["Verb"], lexicon["PlaceNoun"]):
        for variant in lexeme.variants[language]:
            words.update(variant.features[key] for key in ("prep", "in", "to") if key in variant.features)
    return {(word,): "" if word == "o" else word.replace("_", " ") for word in words}


def _words(text: str) -> int:
    """Words of a sentence; the French space before a mark makes no word."""
    return text.count(" ") + (text[-2:-1] != " ")


class Grammar:
    """The grammar seen as a source of translations from one language into another."""

    def __init__(self, source_language: str, target_language: str) -> None:
        self.source_language, self.target_language = source_language, target_language
        self._abstract, concretes = read_grammar()
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
        return dict(sorted(result.items(), key=lambda item: (-item[1], item[0])))  # ties by text


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
    # Random hashes a string with SHA-512, the same in every process.
    grammar, rng = Grammar.load(*languages), random.Random(f"{languages[0]}-{languages[1]} {split} {seed}")
    endless = iter(lambda: grammar.sample(rng), None)  # a pair is never None: it goes on for ever
    return itertools.islice((pair for pair in endless if split_of(pair[0]) == split), pairs)
