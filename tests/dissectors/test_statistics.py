"""Statistics over columns agree with what decoding record by record says, with and without a filter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dissectors.engine import Decoded, Session
from dissectors.engine.source import decode_capture
from dissectors.engine.summary import Summary, percentile
from dissectors.filters import Filter
from dissectors.reading import Reading
from dissectors.statistics import take_statistics
from dissectors.testing import GUEST, HOST, Script
from vmbus.cli import main


def report(path: Path, text: str = "", *, part_bytes: int = 1 << 20, jobs: int = 1) -> dict[str, Any]:
    wanted = Filter(text) if text else None
    return take_statistics(Reading(str(path), wanted=wanted, jobs=jobs, part_bytes=part_bytes)).as_dict()


def test_channels_agree_with_the_summary_of_a_session(recorded: Path) -> None:
    summary = {row.protocol: row.as_dict() for row in Summary().add_all(decode_capture(str(recorded))).rows}
    for row in report(recorded)["channels"]:
        expected = summary[row["protocol"]]
        for key in ("bytes", "requests", "median_us", "p99_us"):
            assert row.get(key) == expected[key]


@pytest.mark.parametrize("text", ["", "latency > 20us", "vstor.cdb.opcode == READ_10", "direction == to_host"])
def test_every_table_honours_the_filter_whatever_the_parts_and_processes(recorded: Path, text: str) -> None:
    whole = report(recorded, text)
    assert report(recorded, text, part_bytes=1000) == whole
    assert report(recorded, text, part_bytes=5000, jobs=2) == whole
    wanted = [item for item in decode_capture(str(recorded)) if not text or Filter(text)(item)]
    assert whole["records"] == len(wanted)
    assert sum(row["records"] for row in whole["channels"]) == sum(
        bool(item.channel or item.kind == 1) for item in wanted
    )
    assert sum(row["records"] for row in whole["protocols"]) == len(wanted)
    assert sum(step["records"] for step in whole["throughput"]) == len(wanted)
    requests = {id(item if item.wants_completion else item.request) for item in wanted if _is_of_a_request(item)}
    assert sum(row["requests"] for row in whole["channels"]) == len(requests)
    assert sum(row["requests"] for row in whole["operations"]) == len(requests)


def _is_of_a_request(item: Decoded) -> bool:
    return item.kind_name == "packet" and (item.wants_completion or item.request is not None)


def test_a_request_counts_when_its_completion_passes(disk: Script, tmp_path: Path) -> None:
    found = report(disk.write(tmp_path / "disk.pcapng"), "scsi_status == CHECK_CONDITION")
    (row,) = found["operations"]
    assert (row["operation"], row["requests"], row["median_us"]) == ("UNKNOWN_0xee", 1, 1.0)
    assert found["records"] == 1


def test_operations_are_counted_by_their_codes(disk: Script, tmp_path: Path) -> None:
    rows = report(disk.write(tmp_path / "disk.pcapng"))["operations"]
    assert {row["operation"]: row["requests"] for row in rows} == {
        "QUERY_PROTOCOL_VERSION": 1, "READ_10": 1, "INQUIRY": 1, "UNKNOWN_0xee": 1,
    }  # fmt: skip


def test_pairs_are_those_of_a_session(recorded: Path) -> None:
    session = Session()
    items = list(decode_capture(str(recorded), session=session))
    expected = [item.request.number if item.request and item.kind_name == "packet" else 0 for item in items]
    found: list[int] = []
    for part in Reading(str(recorded), part_bytes=3000).parts():
        packets = part.columns.kind == 3
        found += ((part.partners().requests + 1) * packets).tolist()
    assert found == expected


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


@pytest.mark.parametrize("interval", ["inf", "nan", "1e300", "0"])
def test_an_interval_that_is_no_time_is_a_wrong_command_line(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--interval", interval, "nowhere.pcapng"]) == 2
    assert capsys.readouterr().err.startswith("vmbus: Invalid value for '--interval'")
