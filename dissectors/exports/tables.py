"""Records as tables: JSON lines for anything, Parquet (with the ``analysis`` extra) for DuckDB, Spark and notebooks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from dissectors.engine import Decoded
from dissectors.engine.render import record_json
from vmbus.errors import VmbusError


class NeedsDuckDb(VmbusError):
    """Parquet is written by DuckDB, which is not installed."""


def export_json(items: Iterable[Decoded], target: TextIO) -> int:
    """One JSON object a line, with every field of every layer; returns how many."""
    count = 0
    for item in items:
        target.write(json.dumps(record_json(item)) + "\n")
        count += 1
    return count


def row_of(item: Decoded) -> tuple[Any, ...]:
    """The columns of a record in the Parquet table: see :data:`PARQUET_COLUMNS`."""
    latency = item.latency_ns
    return (
        item.number,
        item.time_ns,
        item.kind_name,
        item.direction,
        item.channel_id,
        item.channel.name if item.channel is not None else None,
        item.protocol,
        item.transaction_id if item.packet_type or item.request is not None else None,
        item.request.number if item.request is not None else None,
        latency if item.request is not None else None,
        item.volume,
        item.summary,
        json.dumps({k: v for layer in record_json(item)["layers"] for k, v in layer.items()}),
    )


PARQUET_COLUMNS = (
    "number UBIGINT, time_ns BIGINT, kind VARCHAR, direction UTINYINT, channel UINTEGER, device VARCHAR, "
    "protocol VARCHAR, transaction UBIGINT, request UBIGINT, latency_ns BIGINT, bytes UBIGINT, summary VARCHAR, "
    "layers JSON"
)
_BATCH = 2000


def export_parquet(items: Iterable[Decoded], path: Path) -> int:
    """One row for each record; ``layers`` holds its fields as JSON.  Returns how many rows."""
    try:
        import duckdb
    except ImportError:
        raise NeedsDuckDb("Parquet needs DuckDB: pip install 'vmbus[analysis]'") from None
    database = duckdb.connect()
    database.execute(f"CREATE TABLE records ({PARQUET_COLUMNS})")
    marks = ", ".join("?" * len(PARQUET_COLUMNS.split(",")))
    count = 0
    batch: list[tuple[Any, ...]] = []
    for item in items:
        batch.append(row_of(item))
        count += 1
        if len(batch) == _BATCH:
            database.executemany(f"INSERT INTO records VALUES ({marks})", batch)  # noqa: S608 - only question marks
            batch.clear()
    if batch:
        database.executemany(f"INSERT INTO records VALUES ({marks})", batch)  # noqa: S608 - only question marks
    quoted = str(path).replace("'", "''")
    database.execute(f"COPY records TO '{quoted}' (FORMAT PARQUET)")
    return count
