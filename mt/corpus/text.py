"""Raw parallel text of any form as a stream of (source, target) pairs.

White space at the ends of a side (the carriage return of Windows files, for one) is removed; a line feed inside a field
of CSV, JSON or Parquet becomes a space, so that a side is always one line.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from glob import escape
from itertools import chain
from pathlib import Path
from typing import Any

from mt.config import CorpusConfig, DataConfig
from mt.errors import UserError
from mt.files.lines import line_end, paired_lines, read_lines

_BUILDERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def read_pairs(corpus: CorpusConfig, data: DataConfig) -> Iterator[tuple[str, str]]:
    """The pairs of one corpus, streamed; `data` has the languages, and the folder that file names start from.

    Raises UserError for a missing, damaged or badly encoded file, sides of different length, a missing column.
    """
    if corpus.grammar is not None:
        from mt.grammar.grammar import sample_pairs

        languages, grammar = (data.source_language, data.target_language), corpus.grammar
        pairs = sample_pairs(languages, grammar.pairs, grammar.seed, split=corpus.split)
    elif corpus.hub:
        pairs = _read_hub(corpus, data)
    elif corpus.files:
        pairs = chain.from_iterable(_read_file(_find(name, data), corpus, data) for name in corpus.files)
    else:
        sides = [[_find(name, data) for name in names] for names in (corpus.source, corpus.target)]
        pairs = chain.from_iterable(map(paired_lines, *sides))
    for source_text, target_text in pairs:
        yield source_text.strip(), target_text.strip()


def input_files(corpus: CorpusConfig, data: DataConfig) -> list[Path]:
    """The files that a corpus is read from: source files, target files, then others. UserError where one is missing."""
    paths = [_find(name, data) for name in (*corpus.source, *corpus.target, *corpus.files)]
    folder = Path(data.root, corpus.hub)
    if corpus.hub and folder.is_dir():
        paths += sorted(path for path in folder.rglob("*") if path.is_file())
    return paths


def file_form(name: str) -> str:
    """The end of a file's name that says how it is read: ".tsv" of "corpus.v2.tsv.gz"."""
    return Path(name.removesuffix(".gz")).suffix.lower()


def _find(name: str, data: DataConfig) -> Path:
    path = Path(data.root, name)
    if not path.exists():
        raise UserError(f"{path}: there is no such file; say where the data is with --data.root FOLDER")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, and a file is needed")
    return path


def _read_file(path: Path, corpus: CorpusConfig, data: DataConfig) -> Iterator[tuple[str, str]]:
    """A TSV, CSV, JSON or Parquet file. Every CSV field is text as it stands: "NA" and "1.50" too."""
    form = file_form(path.name)
    if form == ".tsv":
        yield from _read_tsv(path, corpus, data)
        return
    if form not in _BUILDERS:
        raise UserError(
            f"{path}: its form is not known by its name; it must end in .tsv, .csv, .jsonl, .json or .parquet"
        )
    options: dict[str, Any] = {"path": _BUILDERS[form], "split": "train", "data_files": escape(str(path.resolve()))}
    if form == ".csv":
        options |= {
            "converters": dict.fromkeys(_columns(corpus, data), str),
            "keep_default_na": False,
            "index_col": False,
            "lineterminator": None if line_end(path) == "\r\n" else "\n",
        }
    try:
        yield from _read_dataset(str(path), corpus, data, **options)
    except UserError:
        if form != ".parquet":
            for _ in read_lines([path]):  # knows the line of a damaged or badly encoded text file
                pass
        raise


def _columns(corpus: CorpusConfig, data: DataConfig) -> list[str]:
    return corpus.columns or [data.source_language, data.target_language]


def _read_tsv(path: Path, corpus: CorpusConfig, data: DataConfig) -> Iterator[tuple[str, str]]:
    """Fields between tabs, nothing quoted. Two numbers in `columns` mean: no header."""
    wanted = _columns(corpus, data)
    numbers = [int(column) for column in corpus.columns] if all(map(str.isdecimal, corpus.columns)) else []
    for row, line in enumerate(read_lines([path]), start=1):
        fields = line.split("\t")
        if not numbers:
            header = [field.strip() for field in fields]
            if set(wanted) <= set(header):
                numbers = [header.index(column) for column in wanted]
                continue
            if corpus.columns:
                raise _missing_column(str(path), wanted, header)
            numbers = [0, 1]  # no header with the language codes: the first two columns
        if len(fields) <= max(numbers):
            raise UserError(
                f"{path}: line {row} has {len(fields)} columns between tabs; columns {numbers[0]} and {numbers[1]} "
                "(counted from 0) are needed"
            )
        yield fields[numbers[0]], fields[numbers[1]]


def _read_hub(corpus: CorpusConfig, data: DataConfig) -> Iterator[tuple[str, str]]:
    """A data set of the hub, `name` or `name@revision`, or a folder."""
    folder = Path(data.root, corpus.hub)
    name, _, revision = corpus.hub.partition("@")
    if folder.is_dir():
        name, revision = str(folder), ""
    options = {"name": corpus.hub_config or None, "split": corpus.split, "revision": revision or None}
    yield from _read_dataset(corpus.hub, corpus, data, path=name, **options)


def _read_dataset(what: str, corpus: CorpusConfig, data: DataConfig, **arguments: Any) -> Iterator[tuple[str, str]]:
    """Pairs that `datasets` streams; nothing is left in its cache, and all it has to say is in the error it raises."""
    import datasets

    columns = _columns(corpus, data)
    datasets.disable_progress_bars()
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with tempfile.TemporaryDirectory(prefix="mt-datasets-") as cache, warnings.catch_warnings():
        # pandas cuts CSV rows that are too long, and only warns of it
        warnings.filterwarnings("error", message="Length of header or names")
        try:
            for number, row in enumerate(datasets.load_dataset(streaming=True, cache_dir=cache, **arguments), start=1):
                source, target = (_field(row, column, columns, number, what) for column in columns)
                yield source, target
        except UserError:
            raise
        except Exception as error:  # whatever a file or the hub may raise: it is said in one line
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = f"{type(cause).__name__}: {str(cause)[:500]}"
            raise UserError(f"{what}: cannot be read: {reason}; check its name and its form") from error


def _field(row: dict[str, Any], column: str, columns: list[str], number: int, what: str) -> str:
    value: Any = row
    if "." not in column and column not in row:
        value = row.get("translation", row)
    for part in [column] if column in row else column.split("."):
        if not isinstance(value, dict) or part not in value:
            raise _missing_column(what, columns, _column_names(row))
        value = value[part]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{what}: column {column} of row {number} holds {value!r}, and text is needed")
    return value.replace("\n", " ")


def _column_names(row: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name, value in row.items():
        names += _column_names(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
    return names


def _missing_column(what: str, wanted: Sequence[str], found: Sequence[str]) -> UserError:
    return UserError(
        f"{what}: columns {', '.join(wanted)} are needed, and there are {', '.join(found)}; name the source and "
        "the target column in `columns`"
    )
