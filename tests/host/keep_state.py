"""``python tests/host/keep_state.py FILE``: keep what a host of this version leaves behind, for every later version.

A guest of ours with a disk and a card reads a block whose answer never comes, and its host ends there.  FILE is JSON:

- ``document``: the host's state as it is in its file;
- ``journal``: of its file, the first 32 bytes of the header (``head``), the size of a half, and the valid part of the
  active half, in hex;
- ``guest``: what it says in its hello, its synthetic registers (``[processor, number, value]``) and its memory: runs of
  16-byte lines that are not zero, in hex, by address;
- ``owed``: of the request without an answer: its transaction id, the channel, what it reads and where it goes.

``tests/host/test_kept_states.py`` has every later version take these states up.  A file that is there is never made
again: a new version adds its own.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from vmbus.devices.catalog import make_devices
from vmbus.devices.storage.controller import StorageController
from vmbus.devices.storage.faulty import FaultyBackend
from vmbus.drivers.disk import Disk
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.drivers.storage import FIRST_UNIT, GuestBuffer, StorageDriver
from vmbus.guest import Guest
from vmbus.host import Host
from vmbus.host.journal import HEADER_SIZE
from vmbus.host.servicing import Servicing
from vmbus.loop import LoopThread
from vmbus.wire.scsi.block import Transfer16
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.vstor import DataDirection

MAC = "00:15:5d:0a:0b:0c"
DISK_SIZE = 1 << 20
STUCK_FROM = DISK_SIZE // 2
LINE = 16


def lines_of(memory: memoryview) -> dict[str, str]:
    """What is not zero, by address."""
    found: dict[str, str] = {}
    start = None
    for at in range(0, len(memory) + LINE, LINE):
        is_empty = at >= len(memory) or not any(memory[at : at + LINE])
        if start is None and not is_empty:
            start = at
        elif start is not None and is_empty:
            found[hex(start)] = bytes(memory[start:at]).hex()
            start = None
    return found


def keep(directory: Path) -> dict[str, Any]:
    """Run host and guest, and return what is to be kept."""
    disk = f"faulty:memory:{DISK_SIZE},on=read,do=stuck,from={STUCK_FROM}"
    devices = make_devices(disks=[disk], nics=[f"embedded,mac={MAC}"])
    host = Host(devices, servicing=Servicing(directory / "state"))
    thread = LoopThread(host.loop, "vmbus-host")
    thread.start()
    ours, theirs = socket.socketpair()
    thread.call(lambda: host.accept(theirs))
    guest_id = UUID("6b657074-0000-4000-8000-000000000001")
    guest = Guest(ours, drivers=[StorageDriver, NetworkDriver], memory_size=16 << 20, guest_id=guest_id)
    guest.boot()
    link = guest.bus.wait(guest.driver(StorageDriver).ready, 10)
    unit = Disk(link, guest.pages, guest.bus.wait, FIRST_UNIT).open()
    unit.write(0, b"kept" * 128)
    card = guest.driver(NetworkDriver)
    guest.bus.wait(card.ready, 10)
    NetworkCard(guest.bus, card, "10.7.0.2").ping("10.7.0.1")
    buffer = GuestBuffer(guest.pages, 512, scattered=True)
    lba = STUCK_FROM // 512 + 3
    command = Transfer16(opcode=Opcode.READ_16, lba=lba, length=1)
    link.execute(FIRST_UNIT, command, buffer, DataDirection.IN)
    assert guest.loop.run(lambda: bool(stuck_backend(host).faults[0].done), timeout=10)
    time.sleep(0.1)  # the host commits what it has read
    thread.stop()
    assert host.servicing is not None and host.servicing.journal is not None
    (transaction_id,) = host.servicing.journal.debts[link.channels[0].channel_id].owed
    journal = (directory / "state.journal").read_bytes()
    active, *used = (int.from_bytes(journal[at : at + 4], "little") for at in (8, 16, 24))
    half_size = (len(journal) - HEADER_SIZE) // 2
    start = HEADER_SIZE + active * half_size
    assert host.partition is not None
    registers = [[vp.index, number, value] for vp in host.partition.vps for number, value in vp.registers.items()]
    return {
        "document": json.loads((directory / "state").read_text()),
        "journal": {
            "head": journal[:32].hex(),
            "half_size": half_size,
            "active_half": journal[start : start + used[active]].hex(),
        },
        "guest": {
            "guest_id": str(guest_id),
            "memory_size": guest.memory.size,
            "processors": len(host.partition.vps),
            "registers": registers,
            "memory": lines_of(guest.memory.view(0, guest.memory.size)),
        },
        "owed": {
            "transaction_id": transaction_id,
            "channel_id": link.channels[0].channel_id,
            "lba": lba,
            "address": buffer.range.segments()[0][0],
        },
    }


def stuck_backend(host: Host) -> FaultyBackend:
    controller = host.slots[0].device
    assert isinstance(controller, StorageController)
    (unit,) = controller.units.values()
    assert isinstance(unit.backend, FaultyBackend)
    return unit.backend


if __name__ == "__main__":
    target = Path(sys.argv[1])
    assert not target.exists(), "what is kept is never changed"
    with tempfile.TemporaryDirectory() as name:
        target.write_text(json.dumps(keep(Path(name)), indent=1) + "\n")
    os._exit(0)  # a worker waits for an answer that never comes
