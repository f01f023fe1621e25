"""Statistics over columns agree with what decoding record by record says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dissectors.engine import Session
from dissectors.engine.source import decode_capture
from dissectors.engine.summary import Summary, percentile
from dissectors.statistics.pairs import pair_requests
from dissectors.statistics.report import Report
from dissectors.testing import GUEST, HOST, Script
from vmbus.capture.store import CaptureStore


def report(path: Path) -> dict[str, Any]:
    store = CaptureStore.open(path)
    store.update(final=True)
    found = Report(store).as_dict()
    store.close()
    return found


def test_channels_agree_with_the_summary_of_a_session(recorded: Path) -> None:
    summary = {row.protocol: row.as_dict() for row in Summary().add_all(decode_capture(str(recorded))).rows}
    for row in report(recorded)["channels"]:
        expected = summary[row["protocol"]]
        for key in ("bytes", "requests", "median_us", "p99_us"):
            assert row.get(key) == expected[key]


def test_operations_are_counted_by_their_codes(disk: Script, tmp_path: Path) -> None:
    rows = report(disk.write(tmp_path / "disk.pcapng"))["operations"]
    assert {row["operation"]: row["requests"] for row in rows} == {
        "QUERY_PROTOCOL_VERSION": 1, "READ_10": 1, "INQUIRY": 1, "UNKNOWN_0xee": 1,
    }  # fmt: skip


def test_pairs_are_those_of_a_session(recorded: Path) -> None:
    store = CaptureStore.open(recorded)
    store.update(final=True)
    pairs = pair_requests(store.columns)
    session = Session()
    items = list(decode_capture(str(recorded), session=session))
    expected = [(i.number, i.response.number if i.response else 0) for i in items if i.wants_completion]
    assert list(zip((pairs.requests + 1).tolist(), (pairs.completions + 1).tolist(), strict=True)) == expected


def test_queue_depth_counts_requests_that_wait_at_once(script: Script, tmp_path: Path) -> None:
    for transaction in range(1, 6):
        script.packet(GUEST, 3, b"", transaction=transaction, wants_completion=True)
    for transaction in range(1, 6):
        script.completion(HOST, 3, b"", transaction=transaction)
    (row,) = [row for row in report(script.write(tmp_path / "a.pcapng"))["channels"] if row["requests"]]
    assert row["queue_max"] == 5 and 2 < row["queue_mean"] < 4


def test_throughput_sums_to_all_bytes(recorded: Path) -> None:
    found = report(recorded)
    spoken = sum(row["bytes"] for row in found["channels"] if row["protocol"] != "control")
    assert sum(step["bytes"] for step in found["throughput"]) == spoken
    assert json.dumps(found)


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([], 50) is None
    assert percentile([1, 2, 3, 4], 50) == 2
    assert percentile(list(range(1, 101)), 99) == 99
    assert np.percentile([1, 2, 3, 4], 50, method="inverted_cdf") == 2
