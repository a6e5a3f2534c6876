"""Parquet: one row a line, with the fields that JSON lines have."""

from __future__ import annotations

from io import FileIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mt.errors import concerning

_ROWS = 10_000  # of a row group

_OUTPUT = {
    "translation": pa.string(),
    "score": pa.float64(),
    "confidence": pa.float64(),
    "tokens": pa.list_(pa.string()),
    "log_probs": pa.list_(pa.float64()),
    "token_confidence": pa.list_(pa.float64()),
}
SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "source": pa.string(),
        **_OUTPUT,
        "nbest": pa.list_(pa.struct(_OUTPUT)),
        "unknown": pa.int64(),
        "overlong": pa.bool_(),
        **dict.fromkeys(("quality", "quality_low", "quality_high"), pa.float64()),
    }
)
"""the same whatever was asked for; what a model does not tell is null"""


class ParquetWriter:
    """Writes records, as `mt.bulk.work.LineWriter` does."""

    def __init__(self, stream: FileIO, name: Path) -> None:
        self._table, self._name, self._rows = pq.ParquetWriter(stream, SCHEMA, compression="zstd"), name, list[Any]()

    def write(self, record: dict[str, Any]) -> None:
        """Takes the next record."""
        self._rows.append(record)
        if len(self._rows) == _ROWS:
            self._flush()

    def close(self) -> None:
        """Writes the rest, and what a reader looks for at the end of the file."""
        self._flush()
        with concerning(self._name):
            self._table.close()

    def _flush(self) -> None:
        with concerning(self._name):
            self._table.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._rows.clear()


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
