"""A storage controller and the guest's driver on the two ends of one channel, in one thread: for tests of either.

with StorageBench() as bench:
    bench.controller.add(UnitAddress(0, 0, 0), my_disk)
    bench.wait(bench.link.negotiate())
    disk = bench.disk().open()
    disk.write(0, b"x" * 512)
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vmbus.closing import Closing
from vmbus.devices.storage.controller import StorageController
from vmbus.drivers.disk import Disk
from vmbus.drivers.promise import Promise
from vmbus.drivers.storage import Address, StorageLink
from vmbus.testing.channels import ChannelPair


class StorageBench(Closing):
    """``notes`` are what the controller noted, ``subchannels`` the number that the guest asked for last."""

    def __init__(self, controller: StorageController | None = None, **pair_options: Any) -> None:
        self.controller = controller or StorageController()
        self.pair = ChannelPair(**pair_options)
        self.notes: list[str] = []
        self.subchannels = 0
        bus: Any = SimpleNamespace(
            loop=self.pair.loop, memory=self.pair.memory, note=self.notes.append, offer_subchannels=self._offer
        )
        self.controller.attach(bus)
        self.handler = self.pair.host.handler = self.controller.open(self.pair.host)
        self.link = StorageLink(self.pair.guest)

    def _offer(self, count: int) -> None:
        self.subchannels = count

    def wait(self, promise: Promise[Any], timeout: float = 60.0) -> Any:
        """Run both ends until the promise is settled; an assertion error if it takes longer."""
        assert self.pair.loop.run(until=lambda: promise.done, timeout=timeout), "the host did not answer"
        return promise.result()

    def disk(self, lun: int = 0, *, path: int = 0, target: int = 0) -> Disk:
        """The guest's view of a unit."""
        return Disk(self.link, self.pair.pages, self.wait, Address(path, target, lun))

    def close(self) -> None:
        """Close both ends and the controller; an error if somebody still holds the guest's memory."""
        self.pair.guest.close()
        self.pair.host.close()
        self.controller.close()
        self.pair.loop.run(lambda: self.controller.is_at_rest, timeout=60)
        self.pair.close()
