"""A host that goes on with a guest after a restart begins its new capture with the state."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vmbus.capture.reader import Record, read_records
from vmbus.testing.linux import StartGuest
from vmbus.testing.waiting import until
from vmbus.wire.capture import RecordKind

pytestmark = pytest.mark.linux


def start_host(directory: Path, capture: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "vmbus",
        "host",
        f"unix:{directory / 'bus'}",
        "--scsi",
        str(directory / "disk.img"),
    ]
    command += ["--state", str(directory / "state"), "--capture", str(capture)]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    assert host.stdout.readline().startswith("listening")
    return host


def stop(host: subprocess.Popen[str], number: signal.Signals) -> None:
    host.send_signal(number)
    host.communicate(timeout=60)


def message_types(records: list[Record]) -> list[int]:
    return [record.body[0] for record in records if record.kind is RecordKind.MESSAGE]


def test_the_second_capture_decodes_by_itself(tmp_path: Path, linux_guest: StartGuest) -> None:
    first, second = tmp_path / "first.pcapng", tmp_path / "second.pcapng"
    (tmp_path / "disk.img").write_bytes(bytes(16 << 20))
    host = start_host(tmp_path, first)
    script = ["wait-path /dev/sda 60", "say ready", "@restarted sh read line", "throughput /dev/sda r 8"]
    guest = linux_guest(tmp_path.joinpath("bus").as_uri().replace("file://", "unix:"), script, reconnect=60)
    guest.wait_for_line("ready", 240)
    stop(host, signal.SIGKILL)
    host = start_host(tmp_path, second)
    guest.write_line("")
    assert guest.wait(240) == 0
    stop(host, signal.SIGTERM)
    after = list(read_records(second))
    told = [record for record in after if record.is_snapshot]
    assert message_types(told) == [14, 15, 3, 1, 4, 8, 9, 9, 10, 5, 6]
    in_force = {kind for kind in message_types(told) if kind < 13}
    # The first capture is written to its end by a process that the host's death does not end.
    assert until(lambda: {kind for kind in message_types(list(read_records(first))) if kind < 13} == in_force)
    packets = [record for record in after if record.kind is RecordKind.PACKET]
    assert len(packets) > 16
    assert all(record.interface.name.startswith("scsi ") for record in packets)
