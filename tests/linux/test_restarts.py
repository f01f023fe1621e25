"""What monitor pages and sockets do when the host is killed and started again under a running guest."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbus.host.ctl_client import CtlClient
from vmbus.linux.launch import ExitStatus, LinuxGuest
from vmbus.testing.linux import StartGuest
from vmbus.testing.restarts import LOAD, RELEASE, RestartableHost
from vmbus.testing.waiting import until
from vmbus.transport import parse_address

pytestmark = pytest.mark.linux


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RestartableHost]:
    killable = RestartableHost(tmp_path, "--scsi", str(tmp_path / "disk.img"), "--vsock", str(tmp_path / "v"))
    yield killable
    killable.end(signal.SIGKILL)


def signals_to(host: RestartableHost) -> int:
    """How many signals of the guest this host has found in the monitor page."""
    with CtlClient(parse_address(host.address)) as client:
        return int(client.request("inspect", path="connection/monitor_pages/signals_to_host"))


def wait_for_more(guest: LinuxGuest, text: str, times: int) -> None:
    """Wait until the guest has printed a text once more, so many times in all."""
    after = 0
    for _ in range(times):
        after = guest.wait_for_line(text, 120, after=after) + 1


@pytest.mark.parametrize("later", [["--monitor-latency", "100"], []], ids=["kept", "no longer asked for"])
def test_a_guest_that_signals_through_monitor_pages_is_heard_by_the_next_host(
    host: RestartableHost, linux_guest: StartGuest, later: list[str]
) -> None:
    without = host.options
    host.options = [*without, "--monitor-latency", "100"]
    host.start()
    script = [
        "wait-path /dev/sda 120",
        *["disk-load /dev/sda 1 2 1 16M"] * 3,
        LOAD.replace("/mnt/load", "/dev/sda"),
        RELEASE,
        "wait",
    ]
    guest = linux_guest(host.address, script, reconnect=240)
    for loads in (1, 2):
        wait_for_more(guest, "TEST disk-load ok", loads)
        host.end(signal.SIGKILL)
        host.options = [*without, *later]
        host.start()
    wait_for_more(guest, "TEST disk-load ok", 3)
    assert until(lambda: signals_to(host) > 10, 120)
    guest.write_line("")
    assert guest.wait(240) == ExitStatus.DONE


def test_a_socket_ends_with_its_host_and_the_guest_can_make_another(
    host: RestartableHost, linux_guest: StartGuest, tmp_path: Path
) -> None:
    host.start()
    guest = linux_guest(
        host.address, ["@first stream-serve vsock:any:2000 1", "@second stream-serve vsock:any:2001 1"], reconnect=240
    )

    def connect(port: int) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(240)
        connection.connect(str(tmp_path / "v"))
        connection.sendall(f"CONNECT {port}\n".encode())
        assert connection.recv(3) == b"OK "
        return connection

    guest.wait_for_line("LISTENING vsock:any:2000", 120)
    with connect(2000) as connection:
        sender = threading.Thread(target=lambda: send_until_it_breaks(connection), daemon=True)
        sender.start()
        host.end(signal.SIGKILL)
        sender.join(240)
    host.start()
    guest.wait_for_line("LISTENING vsock:any:2001", 120)
    with connect(2001) as connection:
        connection.sendall(b"alive")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(4096):
            answer += data
        assert answer.endswith(b"\nalive")
    assert guest.wait(240) in (ExitStatus.DONE, ExitStatus.FAILED)
    assert any(line.startswith("TEST second ok") for line in guest.lines)


def send_until_it_breaks(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(bytes(4096))
            connection.recv(4096)
