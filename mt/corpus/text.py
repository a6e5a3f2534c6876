"""Raw parallel text of any form as a stream of (source, target) pairs.

White space at the ends of a side is removed; a line feed inside a field of CSV, JSON or Parquet becomes a space, so
that a side is always one line. A first line that is a header is no text; sides that are exchanged are an error.
"""

from __future__ import annotations

import csv
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from mt.config import CorpusConfig, DataConfig
from mt.corpus.languages import EVERY, SAMPLE, check_sides, header, tell
from mt.corpus.tmx import read_tmx
from mt.errors import UserError
from mt.files.json_file import parse_json, read_json
from mt.files.lines import paired_lines, read_lines
from mt.settings import dotted

_PACKED = (".gz", ".bz2", ".xz")
_LONGEST_FIELD = 1 << 30  # characters of a CSV field
_BATCH = 10_000  # rows of a Parquet file that are read at once
_HUB_SECONDS = 5.0  # to wait for an answer of the hub


class _State(TypedDict):
    _data_files: list[dict[str, str]]


def read_pairs(
    corpus: CorpusConfig, data: DataConfig, lacking: dict[str, Any] | None = None
) -> Iterator[tuple[str, str]]:
    """The pairs of one corpus, streamed; `data` has the languages, and the folder that file names start from.

    `lacking`: see `read_tmx`. Raises UserError for a missing, damaged or badly encoded file, sides of different length,
    a missing column.
    """
    lacking = {"dropped": 0, "examples": []} if lacking is None else lacking
    if corpus.grammar is not None:
        from mt.grammar.grammar import sample_pairs

        languages, grammar = (data.source_language, data.target_language), corpus.grammar
        yield from sample_pairs(languages, grammar.pairs, grammar.seed, split=corpus.split)
        return
    parts = [(corpus.hub, _read_hub(corpus, data))] if corpus.hub else []
    parts += [(name, _read_file(_find(name, data), corpus, data, lacking)) for name in corpus.files]
    for source, target in zip(*([_find(name, data) for name in names] for names in (corpus.source, corpus.target))):
        rows = enumerate(paired_lines(source, target), start=1)
        parts.append((f"{source}, {target}", _read_table(f"{source}, {target}", rows, ["0", "1"], data)))
    for place, pairs in parts:
        stripped = ((source.replace("\n", " ").strip(), target.replace("\n", " ").strip()) for source, target in pairs)
        start = 0
        while block := list(islice(stripped, EVERY)):
            if data.cleaning.languages:
                check_sides(place, start, block[:SAMPLE], _languages(data))
            yield from block
            start += len(block)


def input_files(corpus: CorpusConfig, data: DataConfig) -> list[Path]:
    """The files that a corpus is read from: source files, target files, then others. UserError where one is missing."""
    paths = [_find(name, data) for name in (*corpus.source, *corpus.target, *corpus.files)]
    folder = Path(data.root, corpus.hub)
    if corpus.hub and folder.is_dir():
        paths += sorted(path for path in folder.rglob("*") if path.is_file())
    return paths


def file_form(name: str) -> str:
    """The end of a file's name that says how it is read: ".tsv" of "corpus.v2.tsv.gz"."""
    return Path(name[: -len(Path(name).suffix)] if name.lower().endswith(_PACKED) else name).suffix.lower()


def _find(name: str, data: DataConfig) -> Path:
    path = Path(data.root, name)
    if not path.exists():
        raise UserError(f"{path}: there is no such file; say where the data is with --data.root FOLDER")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a file; one that `datasets` saved is named by `hub`")
    return path


def _languages(data: DataConfig) -> list[str]:
    return [data.source_language, data.target_language]


def _read_file(
    path: Path, corpus: CorpusConfig, data: DataConfig, lacking: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """A file with both sides. Every CSV field is text as it stands: "NA" and "1.50" too."""
    form = file_form(path.name)
    if form in (".tsv", ".txt"):
        rows = enumerate((line.split(corpus.delimiter or "\t") for line in read_lines([path])), start=1)
        yield from _read_table(str(path), rows, corpus.columns, data)
    elif form == ".csv":
        yield from _read_table(str(path), _csv_rows(path, corpus.delimiter or ","), corpus.columns, data, headed=True)
    elif form in (".json", ".jsonl"):
        yield from _pairs_of(_json_rows(path), str(path), corpus, data)
    elif form == ".parquet":
        yield from _pairs_of(_arrow_rows(path, corpus.columns or _languages(data)), str(path), corpus, data)
    elif form == ".tmx":
        yield from read_tmx(path, corpus.columns or _languages(data), lacking)
    else:
        raise UserError(
            f"{path}: its form is not known by its name; it must end in .tsv, .txt (with tabs), .csv, .jsonl, .json, "
            ".parquet or .tmx"
        )


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row that is not blank, with the number of its last line."""
    csv.field_size_limit(_LONGEST_FIELD)
    lines = (line + "\n" for line in read_lines([path]))
    reader, width = csv.reader(lines, delimiter=delimiter, strict=True), 0
    try:
        for fields in filter(None, reader):
            width = width or len(fields)
            if len(fields) != width:
                raise UserError(
                    f"{path}: line {reader.line_num} has {len(fields)} fields between {delimiter!r}, the first line "
                    f"{width}; text with that sign stands in quotation marks; or set `delimiter`"
                )
            yield reader.line_num, fields
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is no CSV ({error}); mend the file") from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """JSON lines, or one list of objects. Every string is text as it stands, dates too."""
    lines = read_lines([path])
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("["):
            yield from parse_json("\n".join([line, *lines]), list[dict[str, Any]], str(path), "mend the file")
        elif line.strip():
            yield parse_json(line, dict[str, Any], f"{path}: line {number}", "mend the line")


def _read_table(
    place: str, rows: Iterable[tuple[int, Sequence[str]]], columns: list[str], data: DataConfig, headed: bool = False
) -> Iterator[tuple[str, str]]:
    """Rows of fields, after a header or without one. Two numbers as `columns` stand for themselves in both cases."""
    wanted, numbers = columns or _languages(data), list[int]()
    for row, fields in rows:
        if not numbers:
            names = [field.strip() for field in fields]
            found = header(names, _languages(data))
            numbers = found or [0, 1]  # no header: the first two columns
            if columns and all(map(str.isdecimal, columns)):
                numbers = [int(column) for column in columns]
            elif set(wanted) <= set(names):
                numbers = [names.index(column) for column in wanted]
                continue
            elif columns or (headed and not found):
                raise _missing_column(place, wanted, names)
            if found:
                tell(f"{place}: the first line ({' | '.join(names)[:100]}) is taken for a header, not for text")
                continue
        if len(fields) <= max(numbers):
            needed = f"columns {numbers[0]} and {numbers[1]} (counted from 0) are needed"
            raise UserError(f"{place}: line {row} has {len(fields)} columns; {needed}; see `columns`, `delimiter`")
        yield fields[numbers[0]], fields[numbers[1]]


def _arrow_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, or of an Arrow stream; of other columns no more than their names where one lacks."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with pyarrow.memory_map(str(path)) as file:
            reader = ParquetFile(file) if file_form(path.name) == ".parquet" else pyarrow.ipc.open_stream(file)
            parquet = isinstance(reader, ParquetFile)
            names = (reader.schema_arrow if parquet else reader.schema).names
            outer = [{name, name.partition(".")[0], "translation"} & {*names} for name in columns]
            chosen = sorted(set().union(*outer)) if all(outer) else names
            for batch in reader.iter_batches(_BATCH, columns=chosen) if parquet else reader:
                yield from batch.select(chosen).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read: {str(error)[:500]}; check its name and its form") from None


def _read_hub(corpus: CorpusConfig, data: DataConfig) -> Iterator[tuple[str, str]]:
    """A data set of the hub, `name` or `name@revision`, or a folder: one that `datasets` saved, or of data files."""
    folder = Path(data.root, corpus.hub)
    if (splits := folder / "dataset_dict.json").is_file():
        if corpus.split not in (there := read_json(splits, dict[str, list[str]]).get("splits", [])):
            raise UserError(f"{folder}: has no split {corpus.split}; `split` must be one of {', '.join(there)}")
        folder /= corpus.split
    if (state := folder / "state.json").is_file():
        files = [folder / Path(file.get("filename", "")).name for file in read_json(state, _State)["_data_files"]]
        rows = (row for file in files for row in _arrow_rows(file, corpus.columns or _languages(data)))
        yield from _pairs_of(rows, str(folder), corpus, data)
        return
    name, _, revision = (str(folder), "", "") if folder.is_dir() else corpus.hub.partition("@")
    yield from _read_dataset(corpus, data, name, revision or None)


def _read_dataset(corpus: CorpusConfig, data: DataConfig, name: str, revision: str | None) -> Iterator[tuple[str, str]]:
    """Pairs that `datasets` streams; nothing is left in its cache, and all it has to say is in the error it raises."""
    import datasets
    from huggingface_hub import HfApi

    datasets.disable_progress_bars()
    for logger in ("datasets", "huggingface_hub"):
        logging.getLogger(logger).setLevel(logging.CRITICAL + 1)
    with tempfile.TemporaryDirectory(prefix="mt-datasets-") as cache:
        options = {"name": corpus.hub_config or None, "split": corpus.split, "revision": revision, "cache_dir": cache}
        problem = "cannot be had from the Hugging Face hub"
        try:
            if not Path(name).is_dir():  # asked once: without a network `datasets` would try for half a minute
                HfApi().dataset_info(name, revision=revision, timeout=_HUB_SECONDS)
            problem = "cannot be read"
            rows = datasets.load_dataset(path=name, streaming=True, trust_remote_code=False, **options)
            yield from _pairs_of(rows, corpus.hub, corpus, data)
        except UserError:
            raise
        except Exception as error:  # whatever a file or the hub may raise: it is said in one line
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = f"{type(cause).__name__}: {str(cause)[:500]}"
            remedy = "check its name and its form" + ", and the network" * (problem != "cannot be read")
            raise UserError(f"{corpus.hub}: {problem}: {reason}; {remedy}") from error


def _pairs_of(
    rows: Iterable[dict[str, Any]], what: str, corpus: CorpusConfig, data: DataConfig
) -> Iterator[tuple[str, str]]:
    columns = corpus.columns or _languages(data)
    for number, row in enumerate(rows, start=1):
        fields, texts = dict(dotted(row)), []
        for column in columns:
            name = column if column in fields else f"translation.{column}"
            if name not in fields:
                raise _missing_column(what if number == 1 else f"{what}: row {number}", columns, fields)
            if not isinstance(fields[name], str | None):
                raise UserError(f"{what}: column {column} of row {number} holds {fields[name]!r}, and text is needed")
            texts.append(fields[name] or "")
        yield texts[0], texts[1]


def _missing_column(what: str, wanted: Sequence[str], found: Iterable[str]) -> UserError:
    there = ", ".join(found)[:300]
    sign = next((each for each in ";\t|" if each in there and "," not in there), "")
    remedy = "name the source and the target column in `columns`, by two numbers from 0 where no line names them"
    remedy = f"set `delimiter: {json.dumps(sign)}`" if sign else remedy
    return UserError(f"{what}: columns {', '.join(wanted)} are needed, and there are {there}; {remedy}")
