"""A recording: what the tap is told ends in files and streams, whatever becomes of the host."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from vmbus.capture.queue import HEAD, WRITTEN
from vmbus.capture.reader import Record, read_records
from vmbus.capture.recorder import Recorder, RecordingFailed, RecordingPlan
from vmbus.tap import Direction, NoteKind
from vmbus.testing.waiting import until
from vmbus.wire.capture import PacketRecord, RecordKind
from vmbus.wire.control_values import MessageType
from vmbus.wire.offer import OfferChannel
from vmbus.wire.schema import Format

Talk = dict[str, Callable[..., None]]
SCSI = UUID("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f")


RECORD_AND_DIE = """
import os, signal, sys
from vmbus.capture.recorder import Recorder, RecordingPlan
from vmbus.tap import NoteKind
recorder = Recorder(RecordingPlan(file=sys.argv[1]))
for number in range(20000):
    recorder.tap.note(NoteKind.TEXT, str(number))
os.kill(os.getpid(), signal.SIGKILL)
"""


def records(path: Path) -> list[Record]:
    found = list(read_records(path, on_damage=lambda damage: pytest.fail(str(damage))))
    assert not [record.problem for record in found if record.problem]
    return found


def wait_until_written(recorder: Recorder) -> None:
    """Until the writer has taken what there was, and handed it to its outputs."""
    words = recorder._memory.words
    assert until(lambda: words[WRITTEN] == words[HEAD])


def message_types(found: list[Record]) -> list[int]:
    return [record.body[0] for record in found if record.kind is RecordKind.MESSAGE]


def test_a_file_that_another_recording_writes_stays_that_ones(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcapng"
    with Recorder(RecordingPlan(file=str(path))) as first:
        first.tap.note(NoteKind.TEXT, "the first one's")
        with pytest.raises(RecordingFailed, match=f"cannot record: {path}: in use by another recording or host"):
            Recorder(RecordingPlan(file=str(path)))
    (record,) = records(path)
    assert record.body.endswith(b"the first one's")
    with Recorder(RecordingPlan(file=str(path))):
        pass


def test_a_recording_waits_for_one_that_is_about_to_end(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcapng"
    first = Recorder(RecordingPlan(file=str(path)))

    def close_when_another_waits() -> None:
        until(lambda: [pid for pid in openers(path) if pid != first._process.pid])
        first.close()

    threading.Thread(target=close_when_another_waits).start()
    with Recorder(RecordingPlan(file=str(path))) as second:
        second.tap.note(NoteKind.TEXT, "the second one's")
    assert len(records(path)) == 1


def openers(path: Path) -> list[int]:
    """The processes that have a file open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(link) == str(path):
                found.add(int(link.parts[2]))
    return sorted(found)


def test_recordings_go_to_the_same_place_that_keeps_nothing() -> None:
    plan = RecordingPlan(file=os.devnull)
    with Recorder(plan), Recorder(plan):
        pass


def test_everything_the_tap_is_told_is_in_the_file_in_order(sample: Path) -> None:
    found = records(sample)
    assert [record.kind for record in found[:3]] == [RecordKind.REGISTER, RecordKind.MESSAGE, RecordKind.MESSAGE]
    assert message_types(found) == [14, 15, 1, 8, 10, 5, 6]
    assert sum(record.kind is RecordKind.PACKET for record in found) == 12
    assert found[-1].body == b"Freeing unused kernel memory"
    assert [record.time_ns for record in found] == sorted(record.time_ns for record in found)


def test_a_channel_has_an_interface_named_after_its_device_and_instance(sample: Path) -> None:
    found = records(sample)
    packet = next(record for record in found if record.kind is RecordKind.PACKET)
    assert packet.interface.name == "scsi 11111111-2222-3333-4444-555555555555"
    assert packet.interface.description == "synthetic SCSI controller"
    assert "channel=7 interface=ba6163d9" in packet.interface.comments[0]
    assert found[0].interface.name == "vmbus"


def test_external_data_is_cut_but_its_length_is_kept(sample: Path) -> None:
    external = next(record for record in records(sample) if record.kind is RecordKind.EXTERNAL)
    assert (len(external.body), external.missing) == (256, 600 - 256)


def test_a_file_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingFailed, match=r"cannot record: .*No such file"):
        Recorder(RecordingPlan(file=str(tmp_path / "missing" / "x.pcapng")))


def test_a_tap_whose_recorder_is_closed_does_nothing(tmp_path: Path, conversation: Talk) -> None:
    recorder = Recorder(RecordingPlan(file=str(tmp_path / "x.pcapng")))
    recorder.close()
    conversation["talk"](recorder.tap)
    assert records(tmp_path / "x.pcapng") == []


def test_what_was_recorded_survives_the_killed_host(tmp_path: Path) -> None:
    path = tmp_path / "killed.pcapng"
    host = subprocess.run([sys.executable, "-c", RECORD_AND_DIE, str(path)], timeout=60, check=False)
    assert host.returncode == -signal.SIGKILL

    def is_complete() -> bool:
        return path.exists() and sum(1 for _ in read_records(path)) == 20000

    assert until(is_complete)


def test_full_queue_drops_counts_and_says_so(tmp_path: Path, in_band: Callable[[int], object]) -> None:
    path = tmp_path / "full.pcapng"
    sent = 0
    with Recorder(RecordingPlan(file=str(path), queue_size=65536)) as recorder:
        os.kill(recorder._process.pid, signal.SIGSTOP)
        assert until(
            lambda: Path(f"/proc/{recorder._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        )
        while recorder.counters()["lost"] < 100:
            recorder.tap.packets(7, Direction.GUEST_TO_HOST, [in_band(sent)], 0, 0, 0, 4096)  # type: ignore[list-item]
            sent += 1
        recorder.tap.note(NoteKind.TEXT, "not even this")
        os.kill(recorder._process.pid, signal.SIGCONT)
        wait_until_written(recorder)
        recorder.tap.note(NoteKind.TEXT, "goes on")
    found = records(path)
    assert sum(record.kind is RecordKind.PACKET for record in found) == sent - 100
    assert [record.dropped for record in found if record.dropped] == [101]
    assert [record.body for record in found[-2:]] == [
        b"101 records were dropped: the queue to the capture writer was full",
        b"goes on",
    ]


def test_each_rotated_file_decodes_by_itself(tmp_path: Path, conversation: Talk) -> None:
    plan = RecordingPlan(file=str(tmp_path / "turn.pcapng"), max_bytes=8000, keep=3)
    with Recorder(plan) as recorder:
        conversation["hello"](recorder.tap)
        conversation["open"](recorder.tap)
        for _ in range(12):
            conversation["exchange"](recorder.tap, 7, 8)
            wait_until_written(recorder)
    files = sorted(tmp_path.glob("turn_*.pcapng"))
    assert len(files) == 3
    for path in files:
        found = records(path)
        repeated = [record for record in found if record.is_snapshot]
        assert message_types(repeated) == [14, 15, 1, 8, 10, 5, 6]
        assert all(record.interface.name.startswith("scsi") for record in found if record.channel_id == 7)


def test_a_rotated_file_says_nothing_of_what_is_over(tmp_path: Path, conversation: Talk) -> None:
    plan = RecordingPlan(file=str(tmp_path / "turn.pcapng"), max_bytes=1)
    with Recorder(plan) as recorder:
        for step in ("hello", "open", "exchange", "close"):
            conversation[step](recorder.tap)
        assert until(lambda: len(list(tmp_path.glob("turn_*"))) >= 2)
    found = records(max(tmp_path.glob("turn_*")))
    assert message_types(found) == [14, 15, 1, 8, 10]  # the GPADL is still there, the channel is not open


def test_a_flight_recorder_writes_its_last_records_when_asked(tmp_path: Path, conversation: Talk) -> None:
    path = tmp_path / "flight.pcapng"
    with Recorder(RecordingPlan(flight_bytes=10000)) as recorder:
        conversation["hello"](recorder.tap)
        conversation["open"](recorder.tap)
        for _ in range(20):
            conversation["exchange"](recorder.tap)
            wait_until_written(recorder)
        recorder.tap.note(NoteKind.PROBLEM, "it went wrong here")
        recorder.dump(str(path), "it went wrong")
    found = records(path)
    live = [record for record in found if not record.is_snapshot]
    assert message_types(found)[:3] == [14, 15, 1]
    assert live[-1].body == b"it went wrong here"
    assert sum(72 + len(record.body) for record in live) < 15000


def test_a_host_that_is_already_connected_tells_its_state(
    tmp_path: Path, conversation: Talk, control_message: Callable[[MessageType, Format], bytes]
) -> None:
    offer = control_message(
        MessageType.OFFER_CHANNEL,
        OfferChannel(interface_id=SCSI, instance_id=SCSI, channel_id=7, connection_id=7),
    )
    with Recorder(RecordingPlan(file=str(tmp_path / "late.pcapng"))) as recorder:
        recorder.tap.in_force(Direction.HOST_TO_GUEST, offer)
        conversation["exchange"](recorder.tap)
    found = records(tmp_path / "late.pcapng")
    assert (found[0].is_snapshot, found[0].body) == (True, offer)
    assert found[1].interface.name == f"scsi {SCSI}"


class Attacher:
    """Reads a stream, in a thread of its own, until its end."""

    def __init__(self, path: Path) -> None:
        self.records: list[Record] = []
        self._thread = threading.Thread(target=self._read, args=[f"unix:{path}"])
        self._thread.start()

    def _read(self, stream: str) -> None:
        for record in read_records(stream):
            self.records.append(record)

    def join(self) -> list[Record]:
        """All that came."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.records


def test_two_attachers_each_get_a_capture_that_decodes_by_itself(tmp_path: Path, conversation: Talk) -> None:
    path = tmp_path / "stream"
    with Recorder(RecordingPlan(stream=str(path))) as recorder:
        assert path.stat().st_mode & 0o777 == 0o600
        early = Attacher(path)
        conversation["talk"](recorder.tap)
        assert until(lambda: bool(early.records))
        late = Attacher(path)
        assert until(lambda: bool(late.records))
        conversation["exchange"](recorder.tap, 7, 1)
    first, second = early.join(), late.join()
    assert not path.exists()
    assert message_types(first) == message_types(second) == [14, 15, 1, 8, 10, 5, 6]
    assert all(record.is_snapshot for record in second if record.kind is RecordKind.MESSAGE)
    assert [record.body for record in first[-4:]] == [record.body for record in second[-4:]]


def test_a_slow_attacher_loses_records_and_nobody_else_does(
    tmp_path: Path, conversation: Talk, in_band: Callable[[int], object]
) -> None:
    path, file = tmp_path / "stream", tmp_path / "all.pcapng"
    plan = RecordingPlan(stream=str(path), file=str(file), stream_buffer=200_000)
    total = 60_000
    with socket.socket(socket.AF_UNIX) as slow:
        with Recorder(plan) as recorder:
            slow.settimeout(60)
            slow.connect(str(path))
            received = slow.recv(4)  # it is attached
            conversation["hello"](recorder.tap)
            conversation["open"](recorder.tap)
            for number in range(0, total, 50):
                batch = [in_band(number + index) for index in range(50)]
                recorder.tap.packets(7, Direction.GUEST_TO_HOST, batch, 0, 0, 0, 0)  # type: ignore[arg-type]
                if number % 5000 == 0:
                    wait_until_written(recorder)
            wait_until_written(recorder)
            while b"the reader of this stream was too slow" not in received:
                piece = slow.recv(1 << 20)
                assert piece
                received += piece
            recorder.tap.note(NoteKind.TEXT, "the end")
        while piece := slow.recv(1 << 20):
            received += piece
    assert sum(isinstance(record.header, PacketRecord) for record in records(file)) == total
    (tmp_path / "slow.pcapng").write_bytes(received)
    found = records(tmp_path / "slow.pcapng")
    live = [record for record in found if not record.is_snapshot]
    packets = sum(record.kind is RecordKind.PACKET for record in live)
    assert packets + sum(record.dropped for record in live) == total
    assert live[-1].body == b"the end"
    assert message_types([record for record in found if record.is_snapshot]) == [14, 15, 1, 8, 10, 5, 6]


def test_a_full_disk_stops_the_file_and_not_the_host(tmp_path: Path, conversation: Talk) -> None:
    with Recorder(RecordingPlan(file=str(tmp_path / "x.pcapng"))) as recorder:
        resource.prlimit(recorder._process.pid, resource.RLIMIT_FSIZE, (2000, 2000))
        conversation["talk"](recorder.tap)
        problems: list[str] = []
        assert until(lambda: bool(problems.extend(recorder.problems()) or problems))
        conversation["talk"](recorder.tap)
    assert problems == ["the capture stops: File too large"]


def test_a_device_without_room_is_refused_at_once() -> None:
    with pytest.raises(RecordingFailed, match="No space left"):
        Recorder(RecordingPlan(file="/dev/full"))
