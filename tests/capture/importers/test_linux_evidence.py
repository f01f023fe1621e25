"""Evidence of a real Linux guest, imported, agrees with what was captured of the same guest."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vmbus.capture.importers import write_capture
from vmbus.capture.importers.memory_image import records_of_rings, rings_by_search, rings_of_capture
from vmbus.capture.importers.physical import open_image
from vmbus.capture.importers.sysfs import read_snapshot, records_of_sysfs
from vmbus.capture.importers.trace_dat import events_of_dat
from vmbus.capture.importers.trace_events import records_of_events
from vmbus.capture.importers.trace_text import events_of_text
from vmbus.capture.reader import Record, read_records
from vmbus.capture.recorder import Recorder, RecordingPlan
from vmbus.devices.catalog import make_devices
from vmbus.linux.launch import LinuxGuest
from vmbus.testing.hosts import RunningHost
from vmbus.testing.linux import StartGuest
from vmbus.wire.capture import RecordKind
from vmbus.wire.control import MessageHeader
from vmbus.wire.control_values import MessageType
from vmbus.wire.offer import OfferChannel

pytestmark = pytest.mark.linux

StartHost = Callable[..., RunningHost]


def disk(directory: Path) -> str:
    path = directory / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return str(path)


def imported(blocks: object, path: Path) -> list[Record]:
    write_capture(path, blocks)  # type: ignore[arg-type]
    found = list(read_records(path))
    assert not [record.problem for record in found if record.problem]
    return found


def offers(records: list[Record]) -> dict[int, OfferChannel]:
    found = [
        OfferChannel.parse(record.body, MessageHeader.SIZE)
        for record in records
        if record.kind is RecordKind.MESSAGE and record.body[:4] == b"\1\0\0\0"
    ]
    return {offer.channel_id: offer for offer in found}


def message_types(records: list[Record]) -> list[int]:
    return sorted(record.body[0] for record in records if record.kind is RecordKind.MESSAGE)


def recorded_session(
    directory: Path, running_host: StartHost, linux_guest: StartGuest, script: list[str], **options: object
) -> tuple[LinuxGuest, list[Record]]:
    """Run a guest to its end with everything captured."""
    capture = directory / "captured.pcapng"
    with Recorder(RecordingPlan(file=str(capture))) as recorder:
        host = running_host(make_devices(disks=[disk(directory)], nics=["embedded"]), tap=recorder.tap)
        guest = linux_guest(host.address, script, **options)
        assert guest.wait(180) == 0
        host.in_host(lambda: None)
    return guest, list(read_records(capture))


def test_trace_events_tell_the_same_messages_as_the_capture(
    tmp_path: Path, running_host: StartHost, linux_guest: StartGuest
) -> None:
    script = [
        "wait-path /dev/sda 60",
        "throughput /dev/sda r 4",
        "sh cat /sys/kernel/tracing/trace",
    ]
    guest, captured = recorded_session(
        tmp_path, running_host, linux_guest, script, append=["trace_event=hyperv:*,netvsc:*", "trace_buf_size=8M"]
    )
    found = imported(records_of_events(events_of_text(guest.lines)), tmp_path / "trace.pcapng")
    # Tracing starts a little after the bus, and stops before the guest's last messages.
    once = [MessageType.OFFER_CHANNEL, MessageType.GPADL_HEADER, MessageType.GPADL_BODY, MessageType.OPEN_CHANNEL]
    for kind in (*once, MessageType.GPADL_CREATED, MessageType.OPEN_CHANNEL_RESULT, MessageType.VERSION_RESPONSE):
        assert message_types(found).count(kind) == message_types(captured).count(kind), kind
    assert {(o.interface_id, o.instance_id, o.connection_id) for o in offers(found).values()} == {
        (o.interface_id, o.instance_id, o.connection_id) for o in offers(captured).values()
    }
    names = {record.interface.name.split()[0] for record in found if record.kind is RecordKind.SIGNAL}
    assert names == {"scsi", "net"}
    nvsp = [r.body[16:20] for r in found if r.kind is RecordKind.PACKET]
    assert nvsp[:2] == [b"\x01\0\0\0", b"\x02\0\0\0"]  # INIT, INIT_COMPLETE


def between(lines: list[str], start: str, end: str) -> list[str]:
    """The console lines between two marks, without what the shell says about a timeout."""
    first = lines.index(start)
    return [line for line in lines[first + 1 : lines.index(end, first)] if line != "Terminated"]


def test_the_raw_trace_says_what_the_text_says(
    tmp_path: Path, running_host: StartHost, linux_guest: StartGuest, trace_dat: Callable[..., bytes]
) -> None:
    commands = ["cd /sys/kernel/tracing", "cat trace", "echo PAGE", "cat events/header_page"]
    for system in ("hyperv", "netvsc"):
        commands += [f"echo {system}", f"for i in events/{system}/*/format; do cat $i; echo ==; done"]
    commands += ["echo RAW", "timeout 1 cat per_cpu/cpu0/trace_pipe_raw | base64", "echo END"]
    script = ["wait-path /dev/sda 60", "throughput /dev/sda r 4", f"sh {'; '.join(commands)}"]
    guest, _ = recorded_session(
        tmp_path, running_host, linux_guest, script, append=["trace_event=hyperv:*,netvsc:*", "trace_buf_size=8M"]
    )
    marks = {"hyperv": "netvsc", "netvsc": "RAW"}
    formats = {
        system: [
            f"{text.strip()}\n" for text in "\n".join(between(guest.lines, system, end)).split("==") if text.strip()
        ]
        for system, end in marks.items()
    }
    raw = base64.b64decode("".join(between(guest.lines, "RAW", "END")))
    header_page = "\n".join(between(guest.lines, "PAGE", "hyperv")) + "\n"
    path = tmp_path / "trace.dat"
    path.write_bytes(trace_dat(formats, [raw], header_page=header_page))
    from_raw, from_text = list(events_of_dat(path)), list(events_of_text(guest.lines))
    assert len(from_raw) > 100
    assert list(records_of_events(from_raw)) == list(records_of_events(from_text[: len(from_raw)]))
    if shutil.which("trace-cmd"):
        told = subprocess.run(["trace-cmd", "report", "-i", path], capture_output=True, text=True, check=True).stdout
        reported = list(events_of_text(told.splitlines()))
        assert [event.name for event in reported] == [event.name for event in from_raw]


def test_sysfs_tells_the_same_channels_as_the_capture(
    tmp_path: Path, running_host: StartHost, linux_guest: StartGuest
) -> None:
    script = ["wait-path /dev/sda 60", "sh grep -r . /sys/bus/vmbus/devices/*/ 2>/dev/null; true"]
    guest, captured = recorded_session(tmp_path, running_host, linux_guest, script)
    (tmp_path / "sysfs.txt").write_text("\n".join(guest.lines))
    found = imported(records_of_sysfs(read_snapshot(tmp_path / "sysfs.txt")), tmp_path / "sysfs.pcapng")
    assert {(o.channel_id, o.interface_id, o.instance_id) for o in offers(found).values()} == {
        (o.channel_id, o.interface_id, o.instance_id) for o in offers(captured).values()
    }
    described = [record.body.decode() for record in found if record.kind is RecordKind.NOTE]
    assert all("state opened; out_read_index" in text for text in described), described


def test_a_dump_of_the_guest_holds_the_last_packets_of_the_capture(
    tmp_path: Path, running_host: StartHost, linux_guest: StartGuest, as_dump: Callable[[bytes], bytes]
) -> None:
    capture, image = tmp_path / "captured.pcapng", tmp_path / "memory.bin"
    with Recorder(RecordingPlan(file=str(capture))) as recorder:
        host = running_host(make_devices(disks=[disk(tmp_path)], nics=["embedded"]), tap=recorder.tap)
        script = [
            "ifup eth0 10.7.0.2/24 10.7.0.1",
            "ping 10.7.0.1 5 56 10",
            "wait-path /dev/sda 60",
            "iops /dev/sda 1 4 4096 r",
        ]
        guest = linux_guest(host.address, [*script, "say READY", "sleep 600"], memory="96M")
        guest.wait_for_line("READY", 180)
        assert host.host.partition is not None
        recorded = -1
        while recorded != (recorded := host.in_host(recorder.counters)["records"]):  # until none came meanwhile
            image.write_bytes(as_dump(Path(f"/proc/self/fd/{host.host.partition.memory.fd}").read_bytes()))
        guest.kill()
        host.in_host(lambda: None)
    captured = list(read_records(capture))[:recorded]
    memory = open_image(image)
    known = rings_of_capture(captured)
    assert len(known) == 2
    searched = rings_by_search(memory)
    assert {(pair.to_host, pair.to_guest) for pair in searched} == {(pair.to_host, pair.to_guest) for pair in known}
    found = imported(records_of_rings(memory, known, 10**18), tmp_path / "rings.pcapng")
    for pair in known:
        for direction in (1, 2):

            def packets(records: list[Record], pair: object = pair, direction: int = direction) -> list[bytes]:
                channel = pair.channel_id  # type: ignore[attr-defined]
                return [
                    record.body
                    for record in records
                    if record.kind is RecordKind.PACKET
                    and (record.channel_id, record.direction) == (channel, direction)
                ]

            mine, theirs = packets(found), packets(captured)
            assert len(mine) > 5
            assert mine == theirs[-len(mine) :]
