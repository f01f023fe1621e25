"""Subchannels go with their primary channel, and come anew when the guest that opened it again asks for them."""

from __future__ import annotations

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.drivers.disk import Disk
from vmbus.drivers.promise import Promise
from vmbus.drivers.storage import StorageDriver, StorageLink
from vmbus.testing.partitions import PartitionPair

SUBCHANNELS = 3


class FourChannels(StorageDriver):
    def __init__(self) -> None:
        super().__init__(subchannels=SUBCHANNELS)


class Pair(PartitionPair):
    """A guest of four processors with one disk."""

    def __init__(self) -> None:
        super().__init__(make_devices(disks=["memory:1M"]), [FourChannels], vp_count=SUBCHANNELS + 1)

    def link(self) -> StorageLink:
        """The driver's channels, all of them."""
        link: StorageLink = self.guest.bus.wait(self.guest.driver(FourChannels).ready)
        assert self.guest.loop.run(lambda: len(link.channels) == SUBCHANNELS + 1, timeout=60)
        return link

    def offered(self) -> list[int]:
        """The subchannel indices that the host offers."""
        partition = self.host.partition
        assert partition is not None
        return self.in_host(lambda: sorted(channel.key.subchannel_index for channel in partition.control.offers))


@pytest.mark.parametrize("closes_all", [True, False], ids=["every channel", "the primary alone"])
def test_a_guest_that_closes_the_primary_channel_and_opens_it_again_gets_new_subchannels(closes_all: bool) -> None:
    with Pair() as pair:
        guest, driver = pair.guest, pair.guest.driver(FourChannels)
        for generation in range(3):
            link = pair.link()
            assert pair.offered() == [0, 1, 2, 3]
            primary, *subchannels = link.channels
            disk = Disk(link, guest.pages, guest.bus.wait).open()
            disk.write(generation, bytes([generation]) * 512)
            for channel in [*subchannels, primary] if closes_all else [primary]:
                guest.bus.close(channel)
            assert guest.loop.run(lambda: len(guest.offers) == 1, timeout=60), "the subchannels are rescinded"
            assert pair.offered() == [0]
            driver.ready = Promise()
            driver.attach(guest.bus, guest.offers[primary.channel_id])
        assert Disk(pair.link(), guest.pages, guest.bus.wait).open().read(2, 1) == bytes([2]) * 512


def test_a_guest_that_unloads_leaves_the_primary_channel_alone() -> None:
    with Pair() as pair:
        pair.link()
        pair.guest.unload()
        assert pair.offered() == [0], "a kernel that follows has to ask for its own"


def test_a_device_that_is_taken_away_takes_its_subchannels_back_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pair() as pair:
        pair.link()
        gone: list[int] = []
        rescinded = pair.guest.bus.rescinded

        def noted(channel_id: int) -> None:
            gone.append(channel_id)
            rescinded(channel_id)

        monkeypatch.setattr(pair.guest.bus, "rescinded", noted)
        index = {channel_id: offer.subchannel_index for channel_id, offer in pair.guest.offers.items()}
        pair.in_host(lambda: pair.host.slots[0].rescind())
        assert pair.guest.loop.run(lambda: not pair.guest.offers, timeout=60)
        assert [index[channel_id] for channel_id in gone] == [3, 2, 1, 0]
