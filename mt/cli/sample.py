"""`tools/sample.py`: writes sentence pairs of the shipped grammar to two text files."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

from mt.cli.main import DONE, CommandParser, positive, seed, suggest
from mt.files.atomic import atomic_file
from mt.files.output import check_apart
from mt.grammar.grammar import SPLITS, sample_pairs
from mt.grammar.lexicon import LANGUAGES
from mt.progress import progress_bar, say


def main(arguments: list[str] | None = None) -> int:
    """Draws pairs of a split and writes PREFIX.<source language> and PREFIX.<target language>."""
    parser = CommandParser(
        description="Writes sentence pairs of the shipped grammar to PREFIX.de and PREFIX.en (or other languages).",
        example="--languages de,en --split test --pairs 1000 --output runs/demo-de-en/test",
    )
    add = parser.add_argument
    both = [",".join(pair) for pair in permutations(LANGUAGES, 2)]
    words = "source and target: two of de, en, fr (default: de,en)"
    add("--languages", choices=both, default="de,en", metavar="A,B", help=words)
    add("--split", choices=SPLITS, default="test", help="default: test")
    add("--pairs", type=positive, default=1000, metavar="N", help="how many (default: 1000)")
    add("--seed", type=seed, default=1, metavar="N", help="seed of the draw (default: 1)")
    add("--output", metavar="PREFIX", required=True, help="the files' names without the language")
    given = parser.parse_args(arguments)
    languages = tuple(given.languages.split(","))
    paths = [Path(f"{given.output}.{language}") for language in languages]
    check_apart([], *(("--output", path) for path in paths))
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_file(paths[0]) as source_path,
        atomic_file(paths[1]) as target_path,
        source_path.open("w", encoding="utf-8", newline="\n") as source_file,
        target_path.open("w", encoding="utf-8", newline="\n") as target_file,
        progress_bar(given.pairs, "sample", "pair", leave=False) as bar,
    ):
        for source, target in sample_pairs(languages, given.pairs, given.seed, split=given.split):
            source_file.write(source + "\n")
            target_file.write(target + "\n")
            bar.update(1)
    say(*paths)
    suggest("evaluate", "MODEL --source", paths[0], "--reference", paths[1], "--truth --output DIR")
    return DONE
