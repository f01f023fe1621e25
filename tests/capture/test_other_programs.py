"""Captures go back and forth between us and other people's programs: Wireshark's tools, scapy, foreign writers."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest
from scapy.utils import RawPcapNgReader

from vmbus.capture import blocks, encode
from vmbus.capture.reader import CaptureReader, Record, read_records
from vmbus.tap import Direction
from vmbus.wire.capture import NoteKind, RecordKind


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=True)
    assert not done.stderr or "Running as user" in done.stderr, done.stderr
    return done.stdout


def essence(record: Record) -> tuple[object, ...]:
    return (record.time_ns, record.interface.name, record.header, record.body, record.original_length)


def test_scapy_reads_every_record_with_its_time(sample: Path) -> None:
    ours = list(read_records(sample))
    with RawPcapNgReader(str(sample)) as reader:
        theirs = list(reader)
    assert len(theirs) == len(ours)
    for (data, meta), record in zip(theirs, ours, strict=True):
        assert data.endswith(record.body)
        assert (meta.tshigh << 32 | meta.tslow, meta.tsresol) == (record.time_ns, 10**9)
        assert meta.ifname.decode() == record.interface.name


@pytest.mark.tshark
def test_tshark_reads_every_record_with_its_direction_and_interface(sample: Path) -> None:
    ours = list(read_records(sample))
    fields = ("frame.time_epoch", "frame.p2p_dir", "frame.interface_name", "frame.len")
    lines = run("tshark", "-r", sample, "-T", "fields", *(word for field in fields for word in ("-e", field)))
    for line, record in zip(lines.splitlines(), ours, strict=True):
        epoch, direction, name, length = line.split("\t")
        assert int(epoch.replace(".", "")) == record.time_ns
        assert direction == {Direction.HOST_TO_GUEST: "0", Direction.GUEST_TO_HOST: "1"}.get(record.direction, "")
        assert (name, int(length)) == (record.interface.name, record.original_length)


@pytest.mark.tshark
def test_capinfos_knows_the_statistics_of_each_interface(sample: Path) -> None:
    told = run("capinfos", "-M", sample)
    assert "Number of interfaces in file: 2" in told
    assert "Capture application: vmbus" in told
    assert "File timestamp precision:  nanoseconds (9)" in told


@pytest.mark.tshark
@pytest.mark.parametrize("program", ["editcap", "tshark"])
def test_a_capture_rewritten_by_wireshark_holds_the_same_records(sample: Path, tmp_path: Path, program: str) -> None:
    copy = tmp_path / "copy.pcapng"
    command = (
        ["editcap", "-F", "pcapng", sample, copy] if program == "editcap" else ["tshark", "-r", sample, "-w", copy]
    )
    run(*command)
    assert list(map(essence, read_records(copy))) == list(map(essence, read_records(sample)))


def big_endian(resolution: int, ticks: int) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        length = struct.pack(">I", len(body) + 12)
        return struct.pack(">I", kind) + length + body + length

    data = encode.note(0, NoteKind.TEXT, "from the other end")[28:-16]
    data = data[:50]
    packed = struct.pack(">IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data)) + data
    return (
        block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1))
        + block(1, struct.pack(">HHI", 147, 0, 0) + struct.pack(">HHB3xHHqI", 9, 1, resolution, 14, 8, 10, 0))
        + block(6, packed + bytes(-len(packed) & 3))
    )


@pytest.mark.parametrize(
    ("resolution", "ticks", "time_ns"),
    [(9, 123456789012, 123456789012), (6, 1_500_000, 1_500_000_000), (0x8A, 1024, 1_000_000_000), (12, 5000, 5)],
)
def test_big_endian_files_of_any_resolution_are_read(resolution: int, ticks: int, time_ns: int) -> None:
    (record,) = read_records(BytesIO(big_endian(resolution, ticks)))
    assert (record.time_ns, record.body) == (time_ns + 10 * 10**9, b"from the other end")


def test_sections_of_both_byte_orders_follow_each_other(sample: Path) -> None:
    found = list(read_records(BytesIO(big_endian(9, 1) + sample.read_bytes() + big_endian(9, 2))))
    assert [record.body for record in (found[0], found[-1])] == [b"from the other end"] * 2
    assert not [record for record in found if record.problem]


def test_simple_and_old_packet_blocks_are_read() -> None:
    data = encode.note(0, NoteKind.TEXT, "old")[28:-17]
    padded = data + bytes(-len(data) & 3)
    simple = blocks.block(3, struct.pack("<I", len(data)) + padded)
    old = blocks.block(2, struct.pack("<HHIIII", 0, 0, 0, 77, len(data), len(data)) + padded)
    stream = blocks.section_header() + blocks.interface_description("vmbus") + simple + old
    found = list(read_records(BytesIO(stream)))
    assert [(record.time_ns, record.body) for record in found] == [(0, b"old"), (77, b"old")]


def test_comments_and_drops_are_read() -> None:
    packet = blocks.enhanced_packet(
        0, 1, encode.note(0, NoteKind.TEXT, "x")[28:-19], comments=["look", "here"], dropped=5
    )  # fmt: skip
    (record,) = read_records(BytesIO(blocks.section_header() + blocks.interface_description("vmbus") + packet))
    assert (record.comments, record.dropped, record.kind) == (("look", "here"), 5, RecordKind.NOTE)


def test_the_section_says_who_wrote_it_and_what_it_lost(sample: Path) -> None:
    reader = CaptureReader(sample)
    assert len(list(reader)) > 10
    assert (reader.section.application, reader.section.dropped) == ("vmbus", {0: 0, 1: 0})
    assert reader.section.operating_system.startswith("Linux")


def test_a_growing_file_is_followed(sample: Path, tmp_path: Path) -> None:
    data, path = sample.read_bytes(), tmp_path / "growing.pcapng"
    path.write_bytes(data[:1000])
    reader = CaptureReader(path, follow=True)
    found: list[Record] = []
    thread = threading.Thread(target=lambda: found.extend(reader))
    thread.start()
    with path.open("ab") as file:
        for start in range(1000, len(data), 700):
            file.write(data[start : start + 700])
            file.flush()
            time.sleep(0.01)
    reader.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert list(map(essence, found)) == list(map(essence, read_records(sample)))


def test_standard_input_is_read_as_it_comes(sample: Path) -> None:
    read_end, write_end = os.pipe()
    before = os.dup(0)
    os.dup2(read_end, 0)
    try:
        records = read_records("-")
        os.write(write_end, sample.read_bytes()[:2000])
        first = next(records)
        os.close(write_end)
        assert first.kind is RecordKind.REGISTER
        assert len(list(records)) > 3
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(read_end)
