"""The host's control socket: what it shows and does, and what a hostile client can do to it (nothing)."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vmbus.cli import main
from vmbus.cli.ctl import tree_lines
from vmbus.devices.catalog import make_devices
from vmbus.devices.device import Device
from vmbus.drivers.network import NetworkDriver
from vmbus.drivers.storage import StorageDriver
from vmbus.guest import Guest
from vmbus.host.ctl import MAX_CLIENTS, MAX_LINE, CtlSocket
from vmbus.host.ctl_client import CtlClient, CtlFailed
from vmbus.testing.hosts import RunningHost
from vmbus.testing.waiting import until
from vmbus.transport import connect, parse_address

StartHost = Callable[..., RunningHost]


class Watched:
    """A running host with its control socket."""

    def __init__(self, host: RunningHost, **options: Any) -> None:
        self.host = host
        self.address = parse_address(host.address)
        self.socket = host.in_host(lambda: CtlSocket(host.host, self.address, **options))
        self.path = f"{self.address.params}.ctl"

    def ask(self, command: str, **arguments: Any) -> Any:
        with CtlClient(self.address, seconds=60) as client:
            return client.request(command, **arguments)

    def raw(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        connection.settimeout(60)
        return connection


@pytest.fixture
def watch(running_host: StartHost) -> Iterator[Callable[..., Watched]]:
    watched: list[Watched] = []

    def start(devices: list[Device] = [], **options: Any) -> Watched:  # noqa: B006
        watched.append(Watched(running_host(devices), **options))
        return watched[-1]

    yield start
    for one in watched:
        one.host.in_host(one.socket.close)


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return str(path)


@pytest.fixture
def guest_of() -> Iterator[Callable[[Watched], Guest]]:
    guests: list[Guest] = []

    def boot(watched: Watched) -> Guest:
        guest = Guest(connect(watched.address), drivers=(StorageDriver, NetworkDriver))
        guests.append(guest)
        guest.boot()
        for kind in (StorageDriver, NetworkDriver):
            for number in range(sum(isinstance(driver, kind) for driver in guest.drivers)):
                guest.bus.wait(guest.driver(kind, number).ready)
        return guest

    yield boot
    for guest in guests:
        guest.close()


def test_the_tree_shows_connection_channels_rings_and_devices(
    watch: Callable[..., Watched], guest_of: Callable[[Watched], Guest], disk: str
) -> None:
    watched = watch(make_devices(disks=[disk], nics=["embedded"]))
    empty = watched.ask("inspect")
    assert empty["guest"] is None and list(empty["devices"]) == ["scsi", "net"]
    guest_of(watched)
    tree = watched.ask("inspect")
    assert tree["connection"]["state"] == "connected" and tree["connection"]["version"] == "6.0"
    assert tree["guest"]["processors"]["0"]["registers"].keys() >= {"SIMP", "SIEFP", "SCONTROL", "SINT2"}
    scsi = tree["channels"][str(tree["devices"]["scsi"]["channels"]["0"])]
    ring = scsi["open"]["from_guest"]
    assert scsi["state"] == "open" and ring["packets"] == 4 and ring["read_index"] == ring["write_index"] > 0
    assert scsi["open"]["handler"]["outstanding"] == [] and len(scsi["gpadls"]) == 1
    assert tree["devices"]["scsi"]["state"]["units"]["0:0:0"]["blocks"] == 2048
    assert tree["devices"]["net"]["state"]["link_up"] is True


def test_a_path_selects_a_part_and_a_wrong_one_says_what_there_is(watch: Callable[..., Watched], disk: str) -> None:
    watched = watch(make_devices(disks=[disk]))
    assert watched.ask("inspect", path="devices/scsi/state/units/0:0:0/blocks") == 2048
    with pytest.raises(CtlFailed, match="there is no 'net' in devices: there is scsi"):
        watched.ask("inspect", path="devices/net")


def test_devices_come_and_go_under_a_running_guest(
    watch: Callable[..., Watched], guest_of: Callable[[Watched], Guest], disk: str
) -> None:
    watched = watch()
    guest = guest_of(watched)
    assert watched.ask("add-scsi", disks=[disk]) == ["scsi"]
    assert watched.ask("add-nic", nic="embedded") == ["net"]
    assert watched.ask("add-nic", nic="embedded,mac=02:00:00:00:00:07") == ["net2"]
    assert guest.loop.run(lambda: len(guest.drivers) == 3, timeout=60)
    watched.ask("rescind", name="net2")
    assert guest.loop.run(lambda: len(guest.drivers) == 2, timeout=60)
    watched.ask("offer", name="net2")
    assert guest.loop.run(lambda: len(guest.drivers) == 3, timeout=60)
    for label in ("scsi", "net", "net2"):
        watched.ask("remove", name=label)
    assert guest.loop.run(lambda: not guest.drivers, timeout=60)
    assert watched.ask("inspect", path="devices") == {}


def test_a_second_disk_goes_onto_the_controller_that_is_there_and_away_again(
    watch: Callable[..., Watched], disk: str, tmp_path: Path
) -> None:
    watched = watch(make_devices(disks=[disk]))
    other = tmp_path / "other.img"
    other.write_bytes(bytes(4096))
    assert watched.ask("add-scsi", disks=[str(other)]) == []
    assert list(watched.ask("inspect", path="devices/scsi/state/units")) == ["0:0:0", "0:0:1"]
    with pytest.raises(CtlFailed, match="already"):
        watched.ask("add-scsi", disks=["memory:1M,lun=1"])
    watched.ask("remove", name="scsi/0:0:1")
    assert list(watched.ask("inspect", path="devices/scsi/state/units")) == ["0:0:0"]


def test_what_is_offered_or_rescinded_already_is_named(watch: Callable[..., Watched]) -> None:
    watched = watch(make_devices(nics=["embedded"]))
    with pytest.raises(CtlFailed, match="net is offered already"):
        watched.ask("offer", name="net")
    watched.ask("rescind", name="net")
    with pytest.raises(CtlFailed, match="net is rescinded already"):
        watched.ask("rescind", name="net")
    watched.ask("offer", name="net")


def test_a_disk_is_resized_and_a_disc_changed(watch: Callable[..., Watched], disk: str, tmp_path: Path) -> None:
    watched = watch(make_devices(disks=[disk, ",dvd"]))
    assert watched.ask("resize", unit="scsi/0:0:0", size="2M") == {"size": 2 << 20}
    assert os.stat(disk).st_size == 2 << 20
    disc = tmp_path / "disc.iso"
    disc.write_bytes(bytes(2 << 20))
    for command, blocks in (("insert", 1024), ("eject", 0)):
        watched.ask(command, unit="scsi/0:0:1", file=str(disc))
        assert watched.ask("inspect", path="devices/scsi/state/units/0:0:1/blocks") == blocks
    with pytest.raises(CtlFailed, match="not a DVD drive"):
        watched.ask("eject", unit="scsi/0:0:0")
    with pytest.raises(CtlFailed, match="no unit 'scsi': there is scsi/0:0:0, scsi/0:0:1"):
        watched.ask("resize", unit="scsi", size="1M")


def test_notes_and_dumps_reach_whom_they_are_for(watch: Callable[..., Watched], tmp_path: Path) -> None:
    dumped: list[str] = []
    watched = watch(dump=dumped.append)
    with CtlClient(watched.address) as client:
        assert client.tell("note", text="hello", kind="console")
        assert client.request("dump", file="/somewhere") == {"file": "/somewhere"}
    assert watched.host.notes == ["hello"] and dumped == ["/somewhere"]
    with pytest.raises(CtlFailed, match="no flight recorder"):
        watch().ask("dump", file="/x")


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\x00\xff", b"[1]", b"{}", b'{"command": 5}', b'{"command": "fly"}', b'{"command": "add-scsi"}',
        b'{"command": "add-scsi", "disks": [1]}', b'{"command": "add-scsi", "disks": ["/no/such/file"]}',
        b'{"command": "inspect", "path": "channels/x"}', b"[" * 60000, b'{"command": "link", "name": "x", "state": []}',
        b'{"command": "add-device", "device": "os"}', b'{"command": "resize", "unit": "scsi", "size": "-1"}',
    ],
)  # fmt: skip
def test_a_bad_request_is_answered_with_one_line(watch: Callable[..., Watched], line: bytes) -> None:
    watched = watch()
    with watched.raw() as client:
        client.sendall(line + b"\n" + b'{"command": "inspect", "path": "host/guests_served"}\n')
        answers = client.makefile("rb")
        refused, fine = json.loads(answers.readline()), json.loads(answers.readline())
    assert refused["ok"] is False and "\n" not in refused["error"]
    assert fine == {"ok": True, "result": 0}


def test_a_client_that_sends_without_end_or_never_reads_harms_nobody(watch: Callable[..., Watched]) -> None:
    watched = watch(make_devices(nics=["embedded"] * 3))
    with watched.raw() as endless, watched.raw() as deaf:
        endless.sendall(b"x" * (MAX_LINE + 1))
        assert b"bytes" in endless.makefile("rb").read()
        deaf.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                deaf.send(b'{"command": "inspect"}\n' * 100)
        assert watched.ask("inspect", path="host/guests_served") == 0
    crowd = [watched.raw() for _ in range(MAX_CLIENTS + 3)]
    assert crowd[-1].recv(1) == b""
    for client in crowd:
        client.close()
    assert until(lambda: not watched.socket.clients)
    assert watched.ask("inspect", path="host/guests_served") == 0


def test_the_socket_is_its_owners_alone_and_goes_with_the_host(watch: Callable[..., Watched]) -> None:
    watched = watch()
    assert stat.S_IMODE(os.stat(watched.path).st_mode) == 0o600
    watched.host.in_host(watched.socket.close)
    assert not Path(watched.path).exists()


def test_the_command_line_prints_trees_and_says_errors_in_one_line(
    watch: Callable[..., Watched], disk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = watch(make_devices(disks=[disk]))
    assert main(["ctl", watched.host.address, "inspect", "devices/scsi/state/units/0:0:0"]) == 0
    assert "blocks: 2048" in capsys.readouterr().out.splitlines()
    assert main(["ctl", watched.host.address, "inspect", "--json", "host"]) == 0
    assert json.loads(capsys.readouterr().out)["guests_served"] == 0
    assert main(["ctl", watched.host.address, "remove", "nothing"]) == 1
    assert capsys.readouterr().err == "vmbus: there is no device 'nothing': there is scsi\n"
    assert main(["ctl", "unix:/nowhere", "inspect"]) == 1
    assert main(["ctl", watched.host.address, "fly"]) == 2


def test_a_tree_is_shown_indented_with_empty_parts_in_one_line() -> None:
    assert tree_lines({"a": {"b": [1, {"c": True}]}, "d": {}}) == [
        "a", "  b", "    0: 1", "    1", "      c: yes", "d: none",
    ]  # fmt: skip


def test_the_hosts_command_opens_the_socket_and_dumps_its_flight_recorder(tmp_path: Path) -> None:
    address, image = f"unix:{tmp_path / 's'}", tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    command = [sys.executable, "-m", "vmbus", "host", address, "--scsi", str(image), "--flight", "1"]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout is not None and host.stdout.readline().startswith("listening")
        assert main(["ctl", address, "note", "look here"]) == 0
        for name in ("one", "two"):
            assert main(["ctl", address, "dump", str(tmp_path / name)]) == 0
            assert b"look here" in (tmp_path / name).read_bytes()
        assert main(["ctl", address, "dump", str(image)]) == 1
        assert image.read_bytes() == bytes(4096)
    finally:
        host.terminate()
        assert host.wait(60) == 0
    assert not (tmp_path / "s.ctl").exists()
