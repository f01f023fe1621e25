"""The threads of a slow disk end with the disk, whatever they were doing."""

from __future__ import annotations

import threading

import pytest

from vmbus.devices.storage.controller import StorageController, UnitAddress
from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.faulty import Fault, FaultyBackend
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.drivers.storage import Address, GuestBuffer, StorageDriver
from vmbus.testing.partitions import PartitionPair
from vmbus.testing.storage import StorageBench
from vmbus.testing.waiting import until
from vmbus.wire.scsi.block import Transfer10
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.vstor import DataDirection

READ = Transfer10(opcode=Opcode.READ_10, lba=0, length=1)


class Closed(FaultyBackend):
    """Knows whether it was closed; a request that is stuck stays so for a while although it is told to come back."""

    closed = False
    stays = 0.0

    def interrupt(self) -> None:
        threading.Timer(self.stays, super().interrupt).start()

    def close(self) -> None:
        super().close()
        self.closed = True


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("scsi-disk")}


def stuck() -> Closed:
    return Closed(MemoryBackend(1 << 20), Fault(operations=frozenset({"read"}), is_stuck=True))


def test_a_disk_that_is_removed_takes_its_threads_along() -> None:
    before = threads()
    with StorageBench() as bench:
        bench.wait(bench.link.negotiate())
        backend = FaultyBackend(MemoryBackend(1 << 20))
        bench.controller.add(UnitAddress(0, 0, 0), ScsiDisk(backend, Identity.of("slow")))
        bench.disk().open().read(0, 1)
        assert threads() - before
        bench.controller.remove(UnitAddress(0, 0, 0)).close()
        assert until(lambda: threads() <= before)


@pytest.mark.parametrize("stays", [0.2, 2.0], ids=["for a moment", "for longer than a host waits"])
def test_a_host_that_ends_while_a_request_is_stuck_leaves_neither_thread_nor_file(stays: float) -> None:
    before, backend = threads(), stuck()
    backend.stays = stays
    controller = StorageController()
    controller.add(UnitAddress(0, 0, 0), ScsiDisk(backend, Identity.of("stuck")))
    pair = PartitionPair([controller], [StorageDriver]).start()
    pair.new_guest().boot()
    link = pair.guest.bus.wait(pair.guest.driver(StorageDriver).ready)
    link.execute(Address(), READ, GuestBuffer(pair.guest.pages, 512), DataDirection.IN)

    def is_stuck() -> bool:
        pair.guest.loop.run_once()
        return bool(threads() - before)

    assert until(is_stuck)
    pair.close()
    assert until(lambda: backend.closed and threads() <= before)
