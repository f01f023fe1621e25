"""trace.dat files are read: both versions, all kinds of ring-buffer events, and files that are damaged."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmbus.capture.importers import CannotImport
from vmbus.capture.importers.trace_dat import events_of_dat
from vmbus.capture.importers.trace_events import TraceEvent, records_of_events

COMMON = (
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
)
SCHED = f"name: vmbus_chan_sched\nID: 70\nformat:\n{COMMON}\tfield:u32 relid;\toffset:8;\tsize:4;\tsigned:0;\n"
SEND = (
    f"name: rndis_send\nID: 71\nformat:\n{COMMON}\tfield:__data_loc char[] name;\toffset:8;\tsize:4;\tsigned:1;\n"
    "\tfield:u32 msg_len;\toffset:12;\tsize:4;\tsigned:0;\n\tfield:int ret;\toffset:16;\tsize:4;\tsigned:1;\n"
)
OTHER = f"name: sched_switch\nID: 72\nformat:\n{COMMON}"
FORMATS = {"hyperv": [SCHED], "netvsc": [SEND], "sched": [OTHER]}


def event(delta: int, content: bytes) -> bytes:
    words = -(-len(content) // 4)
    return struct.pack("<I", delta << 5 | words) + content.ljust(words * 4, b"\0")


def long_event(delta: int, content: bytes) -> bytes:
    return struct.pack("<II", delta << 5, len(content) + 4) + content


def sched(relid: int) -> bytes:
    return struct.pack("<HxxiI", 70, 1, relid)


def page(start: int, *events: bytes) -> bytes:
    data = b"".join(events)
    return (struct.pack("<QQ", start, len(data) | 1 << 31) + data).ljust(4096, b"\0")


PAGES = [
    page(
        1000,
        event(1, sched(1)),
        struct.pack("<II", 3 << 5 | 30, 1),  # time extended by 3 + (1 << 27)
        event(2, sched(2)),
        struct.pack("<II8x", 5 << 5 | 29, 12),  # 12 bytes of padding
        event(0, struct.pack("<Hxxi", 72, 1)),  # of a system that is not asked for
        struct.pack("<II", 7 << 5 | 31, 2),  # an absolute time, 7 + (2 << 27)
        long_event(1, struct.pack("<HxxiHHIi5s3x", 71, 1, 20, 5, 24, -5, b"eth0\0")),
        struct.pack("<I", 29),  # the rest is padding
    )
    + page(2 << 30, event(9, sched(4))),
    page(1500, event(0, sched(3))),
]


@pytest.mark.parametrize("options", [{}, {"version": 7}, {"version": 7, "compression": "zlib"}])
def test_all_kinds_of_events_are_read_in_the_order_of_time(
    tmp_path: Path, trace_dat: Callable[..., bytes], options: dict[str, object]
) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(trace_dat(FORMATS, PAGES, **options))
    found = [(event.time_ns, event.cpu, event.system, event.name, event.fields) for event in events_of_dat(path)]
    second = 1001 + 3 + (1 << 27) + 2
    assert found == [
        (1001, 0, "hyperv", "vmbus_chan_sched", {"relid": 1}),
        (1500, 1, "hyperv", "vmbus_chan_sched", {"relid": 3}),
        (second, 0, "hyperv", "vmbus_chan_sched", {"relid": 2}),
        (7 + (2 << 27) + 1, 0, "netvsc", "rndis_send", {"name": "eth0", "msg_len": 24, "ret": -5}),
        ((2 << 30) + 9, 0, "hyperv", "vmbus_chan_sched", {"relid": 4}),
    ]


def test_compression_that_is_not_known_is_refused_with_the_command_that_helps(
    tmp_path: Path, trace_dat: Callable[..., bytes]
) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(trace_dat(FORMATS, PAGES, version=7, compression="zstd"))
    with pytest.raises(CannotImport, match="convert it with `trace-cmd convert --file-version 6"):
        list(events_of_dat(path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a trace file at all", "is not a trace.dat"),
        (b"\x17\x08\x44tracing9\0\0\x08\0\x10\0\0", "of version '9'; known are 6 and 7"),
        (b"\x17\x08\x44tracing6\0\x01\x08\0\0\x10\0", "big-endian or 32-bit"),
        (b"\x17\x08\x44trac", "is cut off"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(data)
    with pytest.raises(CannotImport, match=message):
        list(events_of_dat(path))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.integers(6, 7), st.integers(0, 20000), st.integers(0, 255), st.integers(0, 20000))
def test_a_damaged_file_never_ends_in_a_traceback(
    tmp_path: Path, trace_dat: Callable[..., bytes], version: int, at: int, value: int, cut: int
) -> None:
    data = bytearray(trace_dat(FORMATS, PAGES, version=version))
    data[at % len(data)] = value
    path = tmp_path / "trace.dat"
    path.write_bytes(data[: len(data) - cut % len(data) if cut % 3 == 0 else len(data)])
    try:
        events: list[TraceEvent] = list(events_of_dat(path))
    except CannotImport:
        return
    list(records_of_events(events))
