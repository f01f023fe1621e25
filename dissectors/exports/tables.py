"""Records as tables: JSON lines for anything, Parquet (with the ``analysis`` extra) for DuckDB, Spark and notebooks."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from dissectors.engine import Decoded
from dissectors.engine.render import record_json
from vmbus.errors import VmbusError


class NeedsDuckDb(VmbusError):
    """Parquet is written by DuckDB, which is not installed."""


class CannotWriteTable(VmbusError):
    """DuckDB could not write the table."""


def export_json(items: Iterable[Decoded], target: TextIO) -> int:
    """One JSON object a line, with every field of every layer; returns how many."""
    count = 0
    for item in items:
        target.write(json.dumps(record_json(item)) + "\n")
        count += 1
    return count


PARQUET_COLUMNS = {
    "number": "UBIGINT",
    "time_ns": "BIGINT",
    "kind": "VARCHAR",
    "direction": "UTINYINT",
    "channel": "UINTEGER",
    "device": "VARCHAR",
    "protocol": "VARCHAR",
    "transaction": "UBIGINT",
    "request": "UBIGINT",
    "latency_ns": "BIGINT",
    "bytes": "UBIGINT",
    "summary": "VARCHAR",
    "layers": "JSON",
}
"""The columns of the Parquet table, and their types in DuckDB."""


def row_of(item: Decoded) -> dict[str, Any]:
    """A record's row: a value for each of :data:`PARQUET_COLUMNS`."""
    is_answer = item.request is not None
    values = (
        item.number,
        item.time_ns,
        item.kind_name,
        item.direction,
        item.channel_id,
        item.channel.name if item.channel is not None else None,
        item.protocol,
        item.transaction_id if item.packet_type or is_answer else None,
        item.request.number if item.request is not None else None,
        item.latency_ns if is_answer else None,
        item.volume,
        item.summary,
        _by_name(record_json(item)["layers"]),
    )
    return dict(zip(PARQUET_COLUMNS, values, strict=True))


def _by_name(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields of each layer by its format; of a format's second layer, by the name and a number behind it."""
    found: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    for layer in layers:
        for name, fields in layer.items():
            seen[name] += 1
            found[name if seen[name] == 1 else f"{name} {seen[name]}"] = fields
    return found


def write_rows(items: Iterable[Decoded], target: TextIO) -> None:
    """The rows of records, one JSON object a line."""
    for item in items:
        target.write(json.dumps(row_of(item)) + "\n")


def export_parquet(items: Iterable[Decoded], path: Path) -> int:
    """One row for each record; ``layers`` holds its fields as JSON.  Returns how many rows."""
    return write_table(lambda rows: write_rows(items, rows), path)


def write_table(write: Callable[[TextIO], object], path: Path) -> int:
    """Make a Parquet table of the rows that ``write`` writes, which are those of :func:`write_rows`.

    They go through a temporary file of JSON lines, which DuckDB reads much faster than it takes single rows from
    Python, and without keeping them.
    """
    try:
        import duckdb
    except ImportError:
        raise NeedsDuckDb("Parquet needs DuckDB: pip install 'vmbus[analysis]'") from None
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as rows:
        with Path(rows.name).open("w", encoding="utf-8") as lines:
            write(lines)
        columns = ", ".join(f"{name}: '{kind}'" for name, kind in PARQUET_COLUMNS.items())
        source = f"read_json({_quoted(rows.name)}, format = 'newline_delimited', columns = {{{columns}}})"
        try:
            written = duckdb.connect().execute(f"COPY (FROM {source}) TO {_quoted(path)} (FORMAT PARQUET)").fetchone()
        except duckdb.Error as error:
            raise CannotWriteTable(f"cannot write {path}: {str(error).splitlines()[0]}") from error
    return int(written[0]) if written is not None else 0


def _quoted(text: object) -> str:
    return "'" + str(text).replace("'", "''") + "'"
