"""Parquet: one row a line, with the fields that JSON lines have."""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mt.errors import concerning

_ROWS = 10_000  # of a row group
_NUMBERS = pa.list_(pa.float64())
_OUTPUT = {"translation": pa.string(), "score": pa.float64(), "confidence": pa.float64()}
_OUTPUT |= {"tokens": pa.list_(pa.string()), "log_probs": _NUMBERS, "token_confidence": _NUMBERS}
_LINE = {"unknown": pa.int64(), "overlong": pa.bool_(), "nbest": pa.list_(pa.struct(_OUTPUT))}
_QUALITY = dict.fromkeys(("quality", "quality_low", "quality_high"), pa.float64())
SCHEMA = pa.schema({"line": pa.int64(), "source": pa.string(), **_OUTPUT, **_LINE, **_QUALITY})
"""the same whatever was asked for; what a model does not tell is null"""


def write_table(records: Iterator[dict[str, Any]], stream: FileIO, name: Path) -> None:
    """Writes the records; an error while writing names `name`."""
    with concerning(name), pq.ParquetWriter(stream, SCHEMA, compression="zstd") as writer:
        while rows := list(islice(records, _ROWS)):
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


def count_rows(path: Path) -> int:
    """As the file's end says."""
    return int(pq.read_metadata(path).num_rows)


def join_tables(paths: list[Path], target: Path) -> None:
    """Writes the rows of these files, one after the other, to one."""
    with pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer:
        for path in paths:
            with pq.ParquetFile(path) as table:
                for group in range(table.num_row_groups):
                    writer.write_table(table.read_row_group(group))
