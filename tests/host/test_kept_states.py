"""States that older versions left behind are taken up, for ever: each file in ``states`` (see ``keep_state.py``)."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from vmbus.devices.catalog import make_devices, stand_in
from vmbus.host import Host
from vmbus.host.journal import HEADER_SIZE
from vmbus.host.servicing import Servicing
from vmbus.host.state_document import DOCUMENT
from vmbus.loop import LoopThread
from vmbus.memory import GuestMemory
from vmbus.testing.waiting import until
from vmbus.transport.client import HostConnection, new_interrupts

STATES = sorted((Path(__file__).parent / "states").glob("*.json"))
BLOCK = bytes(range(256)) * 2


class TakenUp:
    """A host of the present version, with the state, memory and registers of a guest that is not running."""

    def __init__(self, directory: Path, kept: dict[str, Any]) -> None:
        self.kept, guest = kept, kept["guest"]
        (directory / "state").write_text(json.dumps(kept["document"]))
        self._write_journal(directory / "state.journal", kept["journal"])
        disk = directory / "disk"
        disk.write_bytes(bytes(512) * kept["owed"]["lba"] + BLOCK + bytes(1 << 19))
        devices = make_devices(disks=[str(disk)], nics=["embedded,mac=00:15:5d:0a:0b:0c"])
        self.host = Host(devices, servicing=Servicing(directory / "state", stand_in))
        self._thread = LoopThread(self.host.loop, "vmbus-host")
        self._thread.start()
        self.memory = GuestMemory.create(guest["memory_size"])
        for address, content in guest["memory"].items():
            self.memory.write(int(address, 16), bytes.fromhex(content))
        ours, theirs = socket.socketpair()
        self.in_host(lambda: self.host.accept(theirs))
        self._interrupts = new_interrupts(guest["processors"])
        self._connection = HostConnection(ours)
        self._connection.hello(self.memory, self._interrupts, UUID(guest["guest_id"]))
        for vp, number, value in guest["registers"]:
            self._connection.set_register(vp, number, value)

    @staticmethod
    def _write_journal(path: Path, kept: dict[str, Any]) -> None:
        head, half = bytes.fromhex(kept["head"]), bytes.fromhex(kept["active_half"])
        with path.open("wb") as file:
            file.write(head)
            file.truncate(HEADER_SIZE + 2 * kept["half_size"])
            file.seek(HEADER_SIZE + kept["half_size"] * (head[8] & 1))
            file.write(half)

    def in_host(self, work: Callable[[], Any]) -> Any:
        return self._thread.call(work)

    def close(self) -> None:
        self._connection.close()
        self._thread.stop()
        self.host.close()
        for fd in self._interrupts:
            os.close(fd)


@pytest.fixture(params=STATES, ids=[path.stem for path in STATES])
def taken_up(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TakenUp]:
    found = TakenUp(tmp_path, json.loads(request.param.read_text()))
    yield found
    found.close()


def test_the_present_version_is_among_those_that_are_kept() -> None:
    versions = {json.loads(path.read_text())["document"]["version"] for path in STATES}
    assert versions == set(range(DOCUMENT.oldest, DOCUMENT.version + 1))


def test_a_request_that_an_older_version_owed_is_answered_once(taken_up: TakenUp) -> None:
    owed, partition, servicing = taken_up.kept["owed"], taken_up.host.partition, taken_up.host.servicing
    assert partition is not None and servicing is not None and servicing.journal is not None
    journal, channel = servicing.journal, partition.channels[owed["channel_id"]]
    assert until(lambda: channel.counters.packets_out)
    assert taken_up.memory.read(owed["address"], 512) == BLOCK
    assert taken_up.in_host(lambda: channel.counters.packets_out) == 1
    assert taken_up.in_host(lambda: journal.debts[owed["channel_id"]].owed) == {}


def test_devices_of_an_older_version_go_on(taken_up: TakenUp) -> None:
    disk, card = taken_up.in_host(lambda: [slot.device.inspect() for slot in taken_up.host.slots])
    assert disk["stage"] == "ready" and disk["version"] == "6.2"
    assert card["session"]["nvsp_version"] == "V61"
