"""The writer, run in a thread of the test: what it does with the queue, commands, files and attachers."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dissectors.testing import GUEST, Script
from vmbus.capture import blocks, outputs
from vmbus.capture.assembly import Assembler
from vmbus.capture.outputs import FileOutput
from vmbus.capture.queue import HEAD, SLEEPING, WRITTEN, Producer, QueueMemory
from vmbus.capture.reader import Record, read_records
from vmbus.capture.recorder import RecorderTap
from vmbus.capture.writer_process import Writer, main
from vmbus.tap import Direction, NoteKind
from vmbus.testing.waiting import until
from vmbus.wire import guids
from vmbus.wire.capture import RecordKind
from vmbus.wire.offer import OfferFlags

Talk = dict[str, Callable[..., None]]


class Session:
    """A writer in a thread, with the tap that feeds it and the host's end of the control socket."""

    def __init__(self, **plan: Any) -> None:
        self.memory = QueueMemory.create(1 << 20)
        self.doorbell = os.eventfd(0, os.EFD_NONBLOCK)
        self.control, theirs = socket.socketpair()
        self.tap = RecorderTap(Producer(self.memory, self.doorbell), 256)
        writer = Writer(self.memory, self.doorbell, theirs, plan)
        self.thread = threading.Thread(target=writer.run)
        self.thread.start()
        self.answers = self.control.makefile("rb")
        assert self.answer() == {"ready": True}

    def answer(self) -> dict[str, Any]:
        self.control.settimeout(60)
        found: dict[str, Any] = json.loads(self.answers.readline())
        return found

    def command(self, **command: str) -> None:
        self.control.sendall(json.dumps(command).encode() + b"\n")

    def wait_until_written(self) -> None:
        """Until the writer has taken what there was, and handed it to its outputs."""
        assert until(lambda: self.memory.words[WRITTEN] == self.memory.words[HEAD])

    def close(self) -> None:
        self.answers.close()
        self.control.close()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def start() -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def begin(**plan: Any) -> Session:
        sessions.append(Session(**plan))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()
        os.close(session.doorbell)


def test_it_writes_what_comes_while_it_sleeps_and_what_is_left_at_the_end(
    tmp_path: Path, conversation: Talk, start: Callable[..., Session]
) -> None:
    session = start(file=str(tmp_path / "x.pcapng"))
    conversation["talk"](session.tap)
    session.wait_until_written()
    assert until(lambda: session.memory.words[SLEEPING])
    session.tap.note(NoteKind.TEXT, "wake up")
    session.close()
    assert [record.body for record in read_records(tmp_path / "x.pcapng")][-1] == b"wake up"


def test_a_flight_recorder_is_dumped_or_says_why_not(
    tmp_path: Path, conversation: Talk, start: Callable[..., Session]
) -> None:
    session = start(flight_bytes=2000)
    conversation["hello"](session.tap)
    conversation["open"](session.tap)
    for _ in range(20):
        conversation["exchange"](session.tap)
        session.wait_until_written()
    session.command(dump=str(tmp_path / "flight.pcapng"), why="because")
    assert session.answer() == {"dumped": str(tmp_path / "flight.pcapng")}
    found = list(read_records(tmp_path / "flight.pcapng"))
    assert [record.body[0] for record in found[:7]] == [14, 15, 1, 8, 10, 5, 6]
    assert sum(not record.is_snapshot for record in found) < 60
    session.command(dump=str(tmp_path / "none" / "flight.pcapng"))
    assert "cannot write the flight recorder: " in session.answer()["error"]


def test_a_flight_recorder_is_written_when_a_problem_is_noticed(
    tmp_path: Path, conversation: Talk, start: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "DUMP_INTERVAL", 1000.0)
    session = start(flight_bytes=100_000, flight_file=str(tmp_path / "problem.pcapng"))
    conversation["talk"](session.tap)
    session.tap.note(NoteKind.PROBLEM, "channel 7 fails")
    session.wait_until_written()
    for _ in range(20):
        session.tap.note(NoteKind.PROBLEM, "again and again")
        session.wait_until_written()
    session.close()
    found = list(read_records(tmp_path / "problem_00001.pcapng"))
    assert (len(found), found[-1].body) == (30, b"channel 7 fails")
    assert len(list(tmp_path.glob("problem_*"))) == 1


def test_a_command_that_cannot_be_obeyed_is_answered(start: Callable[..., Session]) -> None:
    session = start()
    session.command(dump="x")
    assert session.answer() == {"error": "there is no flight recorder to dump"}
    session.command(nonsense="x")
    session.command(dump="y")
    assert session.answer() == {"error": "there is no flight recorder to dump"}


def test_attachers_come_go_and_fall_behind(
    tmp_path: Path, conversation: Talk, start: Callable[..., Session], in_band: Callable[[int], Any]
) -> None:
    path = tmp_path / "stream"
    session = start(stream=str(path), stream_buffer=20_000)
    with socket.socket(socket.AF_UNIX) as gone:
        gone.connect(str(path))
    found: list[Record] = []
    reader = threading.Thread(target=lambda: found.extend(read_records(f"unix:{path}")))
    reader.start()
    slow = socket.socket(socket.AF_UNIX)
    slow.settimeout(60)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(str(path))
    received = slow.recv(4)  # it is attached
    assert until(lambda: found or session.tap.note(NoteKind.TEXT, "is anybody there?"))
    for number in range(0, 20_000, 50):
        batch = [in_band(number + index) for index in range(50)]
        session.tap.packets(7, Direction.GUEST_TO_HOST, batch, 0, 0, 0, 0)
        if not number % 1000:
            session.wait_until_written()  # some of it at a time: all of it has no room
    session.wait_until_written()
    while b"the reader of this stream was too slow" not in received:
        piece = slow.recv(1 << 20)
        assert piece
        received += piece
    session.close()
    while piece := slow.recv(1 << 20):
        received += piece
    slow.close()
    reader.join(60)
    assert not reader.is_alive()
    assert sum(record.kind is RecordKind.PACKET for record in found) + sum(r.dropped for r in found) == 20_000
    (tmp_path / "slow.pcapng").write_bytes(received)
    mine = list(read_records(tmp_path / "slow.pcapng"))
    assert sum(record.kind is RecordKind.PACKET for record in mine) + sum(r.dropped for r in mine) == 20_000
    assert any(record.dropped for record in mine)


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(tmp_path: Path, start: Callable[..., Session]) -> None:
    path = tmp_path / "stream"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    start(stream=str(path))
    memory = QueueMemory.create(65536)
    doorbell = os.eventfd(0)
    ours, theirs = socket.socketpair()
    plan = json.dumps({"stream": str(path)})
    assert main([str(memory.fd), str(doorbell), str(theirs.detach()), plan]) == 1
    assert "cannot record: " in json.loads(ours.recv(1000))["error"]
    ours.close()
    os.close(doorbell)


def test_sockets_of_a_service_share_an_interface_however_many_there_are() -> None:
    assembler, script = Assembler(), Script()
    for channel in range(10, 60):
        script.offer(
            channel, guids.vsock_service(5000 + channel % 2), instance=channel, flags=OfferFlags.TLNPI_PROVIDER
        )
        script.packet(GUEST, channel, bytes(8))
    for time_ns, data in script.records:
        block = bytearray(blocks.enhanced_packet(int.from_bytes(data[8:12], "little"), time_ns, data))
        packets = assembler.assemble(block).packets
    assert assembler.interface_count == 3 and packets[8] == 2
    assert b"vsock:5001" in assembler.prologue() and len(assembler.interfaces()) < 500


def test_files_rotate_by_time_and_only_the_last_ones_stay(tmp_path: Path) -> None:
    assembler = Assembler()
    output = FileOutput(assembler, tmp_path / "t.pcapng", max_seconds=0.01, keep=2)
    for _ in range(5):
        time.sleep(0.02)
        output.write(assembler.assemble(bytearray()))
    output.finish(0)
    assert [path.name[:7] for path in sorted(tmp_path.iterdir())] == ["t_00005", "t_00006"]
