"""The host's side of a recording: starts the writer process, and is the tap that feeds it.

::

    with Recorder(RecordingPlan(file="traffic.pcapng")) as recorder:
        host = Host(..., tap=recorder.tap)

The tap costs the host's loop a ``pack``, a ``join`` and a copy into shared memory for each record, and a system call
only when the writer sleeps. What finds no room there is dropped and counted: recording never blocks the host.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vmbus.capture import encode
from vmbus.capture.queue import DEFAULT_SIZE, LOST, RECORDS, WRITTEN, Producer, QueueMemory
from vmbus.closing import Closing
from vmbus.errors import VmbusError
from vmbus.ring.packet import OutgoingPacket, RingPacket
from vmbus.tap import Bytes, Direction, NoteKind
from vmbus.wire.capture import RecordFlags
from vmbus.wire.control_values import MESSAGE_CONNECTION_ID, SYNIC_MESSAGE_TYPE, VMBUS_SINT

DEFAULT_SNAP_LENGTH = 256
"""Bytes of external data that a record holds: captures contain people's disk and network data."""


class RecordingFailed(VmbusError):
    """The recording could not be started, or could not be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPlan:
    """What is recorded, and where to. A plan with nowhere to go records nothing."""

    file: str = ""
    """The capture file; with ``max_bytes`` or ``max_seconds`` the first name of a series."""
    max_bytes: int = 0
    max_seconds: float = 0.0
    keep: int = 0
    """How many files of a series stay; 0 for all."""
    flight_bytes: int = 0
    """So much of the latest traffic is kept in memory for :meth:`Recorder.dump`."""
    flight_file: str = ""
    """Each note of a problem writes that to a file named after this one."""
    stream: str = ""
    """Path of a Unix socket for attachers."""
    stream_buffer: int = 0
    """Bytes that may wait for one attacher; 0 for the default."""
    snap_length: int = DEFAULT_SNAP_LENGTH
    queue_size: int = DEFAULT_SIZE


_TIME = struct.Struct("<II")


class RecorderTap:
    """The tap (``vmbus.tap.Tap``) that puts records into the queue of a recorder."""

    def __init__(self, producer: Producer, snap_length: int) -> None:
        self.snap_length = snap_length
        self._producer = producer
        self._lost = 0

    def message(
        self, direction: Direction, vp: int, sint: int, connection_id: int, message_type: int, payload: Bytes
    ) -> None:
        self._put_control(encode.message(time.time_ns(), direction, vp, sint, connection_id, message_type, payload))

    def in_force(self, direction: Direction, payload: Bytes) -> None:
        sint, connection_id = (0, MESSAGE_CONNECTION_ID) if direction == Direction.GUEST_TO_HOST else (VMBUS_SINT, 0)
        self._put_control(
            encode.message(
                time.time_ns(), direction, 0, sint, connection_id, SYNIC_MESSAGE_TYPE, payload, RecordFlags.SNAPSHOT
            )
        )

    def signal(self, direction: Direction, channel_id: int, connection_id: int, flag: int) -> None:
        self._put(encode.quick_signal(time.time_ns(), direction, channel_id, connection_id, flag), 1)

    def packets(
        self,
        channel_id: int,
        direction: Direction,
        batch: Sequence[RingPacket] | Sequence[OutgoingPacket],
        offset: int,
        read_index: int,
        write_index: int,
        ring_size: int,
    ) -> None:
        self._put(
            encode.quick_packets(
                time.time_ns(), direction, channel_id, batch, offset, read_index, write_index, ring_size
            ),
            len(batch),
        )  # fmt: skip

    def external(
        self,
        channel_id: int,
        direction: Direction,
        transaction_id: int,
        total_length: int,
        data: Iterable[Bytes],
        offset: int = 0,
    ) -> None:
        self._put(
            encode.quick_external(time.time_ns(), direction, channel_id, transaction_id, total_length, offset, data), 1
        )

    def register(self, vp: int, number: int, value: int) -> None:
        self._put_control(encode.register(time.time_ns(), vp, number, value))

    def note(self, kind: NoteKind, text: str) -> None:
        self._put_control(encode.note(time.time_ns(), kind, text))

    def _put(self, blocks: bytes, records: int) -> None:
        """Put blocks; before the first of them after a loss, a note that says how many are missing."""
        ready = not self._lost or self._tell_loss(blocks)
        if not (ready and self._producer.put(blocks, records)):
            self._lose(records)

    def _put_control(self, block: bytes) -> None:
        """Put a block of the control plane, for which some room is kept."""
        ready = not self._lost or self._tell_loss(block)
        if not (ready and self._producer.put(block, 1, reserve=False)):
            self._lose(1)

    def _lose(self, records: int) -> None:
        self._lost += records
        self._producer.lose(records)

    def _tell_loss(self, following: bytes) -> bool:
        """Say how many records were lost before ``following``; False while the queue is still too full for it."""
        if not self._producer.has_room(self._producer.size // 2):
            return False  # one long gap is easier to understand than a thousand short ones
        high, low = _TIME.unpack_from(following, 12)
        text = f"{self._lost} records were dropped: the queue to the capture writer was full"
        block = encode.note(high << 32 | low, NoteKind.PROBLEM, text, self._lost)
        if not self._producer.put(block, 1, reserve=False):
            return False
        self._lost = 0
        return True


class Recorder(Closing):
    """A recording under way: ``tap`` is its input. Close it, or let the process die: what was recorded is written."""

    def __init__(self, plan: RecordingPlan) -> None:
        """Start the writer process and wait until its files are open; :class:`RecordingFailed` if they cannot be."""
        self.plan = plan
        self._memory = QueueMemory.create(plan.queue_size)
        self._doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._control, theirs = socket.socketpair()
        self._answers = b""
        try:
            self._process = _start_writer(self._memory.fd, self._doorbell, theirs.fileno(), plan)
        finally:
            theirs.close()
        self._producer = Producer(self._memory, self._doorbell)
        self.tap = RecorderTap(self._producer, plan.snap_length)
        self._closed = False
        try:
            self._expect("ready", 30.0)
        except BaseException:
            self._release()
            raise

    @property
    def control_fd(self) -> int:
        """Readable when the writer has something to say; then call :meth:`problems`."""
        return self._control.fileno()

    def counters(self) -> dict[str, int]:
        """How much was recorded, lost and written so far."""
        words = self._memory.words
        return {"records": words[RECORDS], "lost": words[LOST], "written_bytes": words[WRITTEN]}

    def problems(self) -> list[str]:
        """What the writer could not do, as far as it has said so; does not block."""
        self._control.setblocking(False)
        try:
            received = self._control.recv(65536)
        except BlockingIOError:
            return []
        finally:
            self._control.setblocking(True)
        if not received:
            return ["the capture writer has ended"]
        *lines, self._answers = (self._answers + received).split(b"\n")
        return [answer["error"] for answer in map(json.loads, lines) if "error" in answer]

    def dump(self, path: str, why: str = "", timeout: float = 30.0) -> None:
        """Write the flight recorder's contents to a file; blocks until it is written."""
        self._control.sendall(json.dumps({"dump": path, "why": why}).encode() + b"\n")
        self._expect("dumped", timeout)

    def close(self, timeout: float = 30.0) -> None:
        """End the recording and wait until the files are complete."""
        if self._closed:
            return
        self._release(timeout)
        if self._process.returncode:
            raise RecordingFailed(f"the capture writer ended with status {self._process.returncode}")

    def _release(self, timeout: float = 30.0) -> None:
        self._closed = True
        self._control.close()
        self._producer.retire()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise RecordingFailed("the capture writer did not finish in time and was stopped") from error
        finally:
            os.close(self._doorbell)
            self._memory.close()

    def _expect(self, key: str, timeout: float) -> None:
        self._control.settimeout(timeout)
        try:
            while True:
                while b"\n" in self._answers:
                    line, self._answers = self._answers.split(b"\n", 1)
                    answer: dict[str, Any] = json.loads(line)
                    if "error" in answer:
                        raise RecordingFailed(answer["error"])
                    if key in answer:
                        return
                received = self._control.recv(65536)
                if not received:
                    raise RecordingFailed("the capture writer ended before it was ready")
                self._answers += received
        except TimeoutError as error:
            raise RecordingFailed("the capture writer does not answer") from error
        finally:
            self._control.settimeout(None)


def _start_writer(queue: int, doorbell: int, control: int, plan: RecordingPlan) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vmbus.capture.writer_process"]
    command += [str(queue), str(doorbell), str(control), json.dumps(asdict(plan))]
    # A session of its own: an interrupt typed at the terminal ends the host, which ends the writer in good order.
    return subprocess.Popen(
        command, pass_fds=(queue, doorbell, control), stdin=subprocess.DEVNULL, start_new_session=True
    )
