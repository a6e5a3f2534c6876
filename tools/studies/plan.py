"""The study file: corpora, losses, conditions, grid and questions, all written down before any run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from mt.config import Config
from mt.config_file import parse_config
from mt.errors import UserError
from mt.files.lines import read_lines
from mt.files.yaml_file import read_yaml

Settings = dict[str, Any]
"""config options by their dotted names"""
PLAIN = "plain"
"""the condition that changes nothing"""
MAIN = "main"
"""the search as the model's config has it"""


class TestText(Struct, forbid_unknown_fields=True):
    """A text that models are measured on: drawn from the grammar, or two files."""

    pairs: int = 0
    """of the grammar's `test` split, in the languages of the corpus; 0: files"""
    seed: int = 1
    shortest_source: int = 0
    """only sources of at least so many words"""
    source: str = ""
    """file of lines under the root of the corpus; `target` as well"""
    target: str = ""
    lines: int = 0
    """the first lines only; 0: all"""

    def __post_init__(self) -> None:
        if bool(self.pairs) == bool(self.source) or bool(self.source) != bool(self.target):
            raise ValueError("a text needs pairs (of the grammar), or source and target (files)")


class TrainingText(Struct, forbid_unknown_fields=True):
    """Training text of the grammar that the study writes itself."""

    pairs: int
    seed: int = 1
    wrong_targets: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """share of the pairs whose target is that of another pair"""
    longest_source: int = 0
    """only sources of at most so many words; 0: all"""
    translated_by: str = ""
    """variant whose model, of the same seed, writes the targets: sequence-level distillation"""


class Corpus(Struct, forbid_unknown_fields=True):
    """A config, what the study sets in it, and the texts that its models are measured on, the main one first."""

    config: str
    """file name, from the folder of configs"""
    tests: dict[str, TestText]
    settings: Settings = {}
    minutes: float = 5.0
    """about what a cell takes on one core"""


class Condition(Struct, forbid_unknown_fields=True):
    """How the training of a cell differs from the corpus' own, whatever the loss."""

    settings: Settings = {}
    training_text: TrainingText | None = None
    models: dict[str, str] = {}
    """config options that name a model: variant (of condition `plain`, same corpus and seed) whose model they get"""


class Row(Struct, forbid_unknown_fields=True):
    """Cells of the grid: each variant with each seed."""

    corpus: str
    variants: list[str]
    seeds: list[int]
    condition: str = PLAIN
    searches: list[str] = []
    """beside the main one"""


class Comparison(Struct, forbid_unknown_fields=True):
    """The first cells less the second ones, seed by seed, on one text: `corpus/condition/variant`."""

    first: str
    second: str
    outcome: str
    """one of tools.studies.measures.OUTCOMES"""
    claim: Literal["higher", "lower", "same"]
    """what the statement says of the first"""
    test: str = ""
    """name of the text; empty: the main one of the first cells' corpus"""
    search: str = MAIN
    less: str = ""
    """a search whose figure is taken off that of `search`, on both sides"""
    second_outcome: str = ""
    """of the second cells, where it is another measure"""


class Question(Struct, forbid_unknown_fields=True):
    """A statement, and the comparisons that decide it; their p values are adjusted together."""

    statement: str
    comparisons: list[Comparison]


class Study(Struct, forbid_unknown_fields=True):
    """A whole study file."""

    title: str
    corpora: dict[str, Corpus]
    variants: dict[str, Settings]
    grid: list[Row]
    questions: dict[str, Question]
    conditions: dict[str, Condition] = {}
    searches: dict[str, Settings] = {}
    """options of the search by name; `main`, the model's own, is always there"""
    indication: bool = False
    """too small to decide anything: each verdict says so"""


class Cell(NamedTuple):
    """One model of the grid: corpus, condition, variant (its loss) and seed."""

    corpus: str
    condition: str
    variant: str
    seed: int
    searches: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The cell without its seed."""
        return f"{self.corpus}/{self.condition}/{self.variant}"

    @property
    def name(self) -> str:
        """Its folder, from that of all cells."""
        return f"{self.group}/seed-{self.seed}"


def read_study(path: Path) -> Study:
    """Raises UserError where the file is none, or names what is not there."""
    tree = read_yaml("\n".join(read_lines([path])), str(path))
    try:
        study = msgspec.convert(tree, Study)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}; docs/study.md shows what a study file holds") from None
    _check_grid(study, path)
    _check_questions(study, path)
    return study


def _check_grid(study: Study, path: Path) -> None:
    for row in study.grid:
        named = [(row.corpus, study.corpora, "corpora"), (row.condition, {PLAIN, *study.conditions}, "conditions")]
        named += [(variant, study.variants, "variants") for variant in row.variants]
        named += [(search, study.searches, "searches") for search in row.searches]
        for name, known, section in named:
            if name not in known:
                raise UserError(f"{path}: the grid names {name}, which is not among its {section}; add it there")


def _check_questions(study: Study, path: Path) -> None:
    groups = {cell.group for cell in cells_of(study)}
    for name, question in study.questions.items():
        for each in question.comparisons:
            if missing := {each.first, each.second} - groups:
                raise UserError(f"{path}: question {name} compares {missing.pop()}, which the grid has not")
            corpora = [side.partition("/")[0] for side in (each.first, each.second)]
            if corpora[0] != corpora[1]:
                across = f"cells of {' and '.join(corpora)}, whose lines are no pairs"
                raise UserError(f"{path}: question {name} compares {across}; take both sides from one corpus")
            tests = study.corpora[corpora[0]].tests
            unknown = {each.test or next(iter(tests))} - tests.keys()
            if unknown := unknown | {each.search, each.less or MAIN} - {MAIN, *study.searches}:
                raise UserError(f"{path}: question {name} names {unknown.pop()}, which is no text or search; add it")


def work_of(study: Study, only: str = "*", seeds: tuple[int, ...] = ()) -> list[Cell]:
    """What is to be done, in the order of the grid: a cell stands there once for each row that asks for it, with that
    row's searches. Those whose name fits the pattern, and of those seeds if given."""
    cells = [
        Cell(row.corpus, row.condition, variant, seed, tuple(row.searches))
        for row in study.grid
        for seed in row.seeds
        for variant in row.variants
        if not seeds or seed in seeds
    ]
    return [cell for cell in dict.fromkeys(cells) if fnmatch(cell.name, only) or fnmatch(cell.group, only)]


def cells_of(study: Study) -> list[Cell]:
    """All cells of the grid, each once, with the searches of all rows."""
    found: dict[str, Cell] = {}
    for cell in work_of(study):
        searches = (*found.get(cell.name, cell).searches, *cell.searches)
        found[cell.name] = cell._replace(searches=tuple(dict.fromkeys(searches)))
    return list(found.values())


def needed_by(study: Study, cell: Cell) -> Iterator[Cell]:
    """The cells whose models this one is trained with."""
    condition = study.conditions.get(cell.condition, Condition())
    variants = list(condition.models.values())
    if condition.training_text is not None and condition.training_text.translated_by:
        variants.append(condition.training_text.translated_by)
    yield from (Cell(cell.corpus, PLAIN, variant, cell.seed) for variant in variants)


def config_of(study: Study, cell: Cell, configs: Path, options: Settings) -> Config:
    """The config that a cell is trained with; `options` come last. Raises UserError as `parse_config`."""
    corpus, condition = study.corpora[cell.corpus], study.conditions.get(cell.condition, Condition())
    settings = {**corpus.settings, **condition.settings, **study.variants[cell.variant], "seed": cell.seed, **options}
    arguments = [str(configs / corpus.config)]
    for name, value in settings.items():
        arguments += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return parse_config(arguments, "tools/study.py")
