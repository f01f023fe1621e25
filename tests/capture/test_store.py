"""The index over a capture says the same as reading it record by record, whatever the capture is like."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vmbus.capture import blocks, encode, gather
from vmbus.capture.columns import BYTES_PER_RECORD, Columns, RecordMark
from vmbus.capture.reader import Damage, NotACapture, Record, read_records
from vmbus.capture.recorder import Recorder, RecordingPlan
from vmbus.capture.store import CaptureStore
from vmbus.wire.capture import NoteKind, PacketRecord, RecordKind
from vmbus.wire.ring import PacketDescriptor

ANY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def indexed(path: Path) -> CaptureStore:
    store = CaptureStore.open(path)
    store.update(final=True)
    return store


def assert_same(store: CaptureStore, path: Path) -> None:
    damage: list[Damage] = []
    records = list(read_records(path, on_damage=damage.append))
    columns = store.columns
    assert columns.offset.tolist() == [record.offset for record in records]
    assert columns.time.tolist() == [min(record.time_ns, 2**63 - 1) for record in records]
    assert columns.kind.tolist() == [int(record.kind or 0) for record in records]
    assert columns.channel.tolist() == [record.channel_id for record in records]
    assert columns.original_length.tolist() == [record.original_length for record in records]
    assert (columns.flags & RecordMark.PROBLEM > 0).tolist() == [bool(record.problem) for record in records]
    for index, record in enumerate(records):
        again = store.record(index)
        assert (again.header, again.body, again.number) == (record.header, record.body, record.number)
        assert store.data(index).endswith(record.body)
    assert [(d.offset, d.skipped) for d in store.damage if "unknown block" not in d.text] == [
        (d.offset, d.skipped) for d in damage if "unknown block" not in d.text
    ]


def test_every_column_is_what_the_record_says(sample: Path) -> None:
    store = indexed(sample)
    assert_same(store, sample)
    for index in range(len(store)):
        record = store.record(index)
        assert store.columns.direction[index] == record.direction
        if isinstance(record.header, PacketRecord):
            descriptor = PacketDescriptor.parse(record.body)
            assert store.columns.transaction_id[index] == descriptor.transaction_id
            assert store.columns.subtype[index] == descriptor.packet_type
            assert bool(store.columns.flags[index] & RecordMark.WANTS_COMPLETION) == bool(descriptor.flags)
    external = store.columns.kind == RecordKind.EXTERNAL
    assert store.columns.transaction_id[external].tolist() == [1000, 1001, 1002, 1003]


def test_a_record_costs_less_than_48_bytes(sample: Path) -> None:
    assert BYTES_PER_RECORD <= 48
    assert len(indexed(sample).columns) == 29


@settings(max_examples=200, deadline=None, suppress_health_check=ANY)
@given(st.data())
def test_a_changed_byte_changes_the_index_as_it_changes_the_records(
    sample: Path, tmp_path: Path, data: st.DataObject
) -> None:
    changed = bytearray(sample.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.pcapng"
    path.write_bytes(changed)
    assert_same(indexed(path), path)


@settings(max_examples=60, deadline=None, suppress_health_check=ANY)
@given(st.lists(st.binary(max_size=50), max_size=6), st.sampled_from([1, 147]))
def test_records_of_any_contents_are_indexed(tmp_path: Path, contents: list[bytes], link_type: int) -> None:
    path = tmp_path / "any.pcapng"
    interfaces = blocks.interface_description("a") + blocks.interface_description("b", link_type=link_type)
    packets = [blocks.enhanced_packet(number % 3, number, data) for number, data in enumerate(contents)]
    path.write_bytes(blocks.section_header() + interfaces + b"".join(packets))
    assert_same(indexed(path), path)


def test_it_grows_with_the_file_and_never_counts_a_record_twice(sample: Path, tmp_path: Path) -> None:
    data, path = sample.read_bytes(), tmp_path / "growing.pcapng"
    path.write_bytes(b"")
    store = CaptureStore.open(path)
    views = []
    with path.open("ab") as file:
        for start in range(0, len(data), 37):
            file.write(data[start : start + 37])
            file.flush()
            store.update()
            views.append((len(store), store.columns.offset))
    assert store.update(final=True) == 0
    assert all(len(view) == count for count, view in views)
    assert store.damage == []
    assert_same(store, path)


def test_sections_of_a_joined_file_keep_their_own_interfaces(sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "joined.pcapng"
    path.write_bytes(sample.read_bytes() * 3)
    store = indexed(path)
    assert [len(section.interfaces) for section in store.sections] == [2, 2, 2]
    assert_same(store, path)


def test_interfaces_may_be_described_among_packets(tmp_path: Path) -> None:
    note = encode.note(1, NoteKind.TEXT, "a note")[28:-12]
    ethernet, ours = blocks.interface_description("eth0", link_type=1), blocks.interface_description("channel 3")
    coarse = blocks.interface_description("coarse").replace(b"\x09\0\x01\0\x09", b"\x09\0\x01\0\x06")
    pieces = [blocks.section_header(), ours]
    for described in (b"", ethernet, ours, coarse):
        pieces += [described, *(blocks.enhanced_packet(number, 7, note, direction=1) for number in range(5))]
    path = tmp_path / "mixed.pcapng"
    path.write_bytes(b"".join(pieces))
    store = indexed(path)
    assert_same(store, path)
    assert np.count_nonzero(store.columns.kind == 0) == 3
    assert np.count_nonzero(store.columns.time == 7000) == 1


def test_a_thousand_interfaces_among_packets_cost_no_more_than_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sizes = tmp_path / "sockets.pcapng", []
    note = encode.note(1, NoteKind.TEXT, "a note")[28:-12]
    pieces = (blocks.interface_description("a socket") + blocks.enhanced_packet(n, n, note) for n in range(1000))
    path.write_bytes(blocks.section_header() + b"".join(pieces))

    def counted(words: gather.Words, index: NDArray[np.int64], *rest: Any) -> Any:
        sizes.append(len(index))
        return gather.gather(words, index, *rest)

    monkeypatch.setattr("vmbus.capture.store.gather", counted)
    assert_same(indexed(path), path)
    assert sizes == [1000]


def test_comments_and_losses_are_marked(tmp_path: Path) -> None:
    path = tmp_path / "marked.pcapng"
    packets = [encode.note(1, NoteKind.TEXT, "plain"), encode.note(2, NoteKind.PROBLEM, "gap", lost=9)]
    path.write_bytes(blocks.section_header() + blocks.interface_description("vmbus") + b"".join(packets))
    store = indexed(path)
    assert (store.columns.flags & RecordMark.HAS_OPTIONS > 0).tolist() == [False, True]
    assert store.record(1).dropped == 9
    assert store.columns.subtype.tolist() == [NoteKind.TEXT, NoteKind.PROBLEM]


def test_a_live_stream_is_indexed_as_it_comes(tmp_path: Path, conversation: dict[str, Callable[..., None]]) -> None:
    path = tmp_path / "stream"
    with Recorder(RecordingPlan(stream=str(path))) as recorder:
        store = CaptureStore.open(f"unix:{path}")
        deadline = time.monotonic() + 60
        while not store.sections and time.monotonic() < deadline:
            store.update()
        conversation["talk"](recorder.tap)
        while len(store) < 29 and time.monotonic() < deadline:
            store.update()
        assert store.is_live
    store.update(final=True)
    assert not store.is_live
    assert np.array_equal(np.sort(store.columns.time), store.columns.time)
    records: list[Record] = [store.record(index) for index in range(len(store))]
    assert [record.body for record in records][-1] == b"Freeing unused kernel memory"
    store.close()


def test_a_pipe_is_indexed_to_its_end(sample: Path) -> None:
    read_end, write_end = os.pipe()
    before = os.dup(0)
    os.dup2(read_end, 0)
    try:
        store = CaptureStore.open("-")
        thread = threading.Thread(target=lambda: (os.write(write_end, sample.read_bytes()), os.close(write_end)))
        thread.start()
        store.update(final=True)
        thread.join()
        assert len(store) == 29
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(read_end)


@pytest.mark.parametrize("data", [b"", b"nothing of the kind, for sure", b"\xd4\xc3\xb2\xa1" + bytes(40)])
def test_what_is_no_capture_is_one_clear_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "none"
    path.write_bytes(data)
    store = CaptureStore.open(path)
    with pytest.raises(NotACapture, match="not a pcapng capture"):
        store.update(final=True)


@pytest.mark.parametrize("resolution", [6, 9, 12, 0x8A])
def test_times_of_any_resolution_are_nanoseconds(tmp_path: Path, resolution: int) -> None:
    path = tmp_path / "times.pcapng"
    described = blocks.interface_description("vmbus").replace(b"\x09\x00\x01\x00\x09", bytes([9, 0, 1, 0, resolution]))
    packets = [encode.note(ticks, NoteKind.TEXT, "x") for ticks in (0, 10**6, 2**63, 2**64 - 1)]
    path.write_bytes(blocks.section_header() + described + b"".join(packets))
    assert_same(indexed(path), path)


def test_columns_grow_without_changing_what_somebody_holds() -> None:
    columns = Columns()
    columns.append(1, {"offset": 7, "kind": 3})
    held = columns.offset
    for _ in range(5):
        columns.append(50_000, {"offset": np.arange(50_000, dtype=np.uint64)})
    assert held.tolist() == [7]
    assert len(columns) == 250_001
    assert columns.offset[-1] == 49_999
    assert columns.kind.sum() == 3
    with pytest.raises(AttributeError):
        _ = columns.nothing
