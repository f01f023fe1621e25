"""A guest of several processors: channels spread over them, moved between them under load, and nothing lost."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from vmbus.channel import Channel
from vmbus.devices.catalog import make_devices
from vmbus.drivers.disk import Disk
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network import NetworkDriver
from vmbus.drivers.network.card import NetworkCard
from vmbus.drivers.promise import Promise
from vmbus.drivers.storage import Address, GuestBuffer, StorageDriver, StorageLink
from vmbus.inet.pattern import pattern
from vmbus.testing.partitions import PartitionPair
from vmbus.wire.control_values import ALL_VERSIONS, INTERRUPTS_DISABLED, Version
from vmbus.wire.scsi.block import Transfer10
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.vstor import DataDirection

PROCESSORS = 4
MODIFIES = [version for version in ALL_VERSIONS if version >= Version.V4_1]


class FourChannels(StorageDriver):
    def __init__(self) -> None:
        super().__init__(subchannels=3)


class FourQueues(NetworkDriver):
    def __init__(self) -> None:
        super().__init__(queues=4)


class Pair(PartitionPair):
    """A guest of four processors, with a disk and a card on four channels each."""

    def __init__(self, version: Version = ALL_VERSIONS[-1], *, monitor_latency: int | None = None) -> None:
        devices = make_devices(disks=["memory:8M"], nics=["embedded,queues=4"], monitor_latency=monitor_latency)
        super().__init__(devices, [FourChannels, FourQueues], vp_count=PROCESSORS, versions=[version])

    def link(self) -> StorageLink:
        link: StorageLink = self.guest.bus.wait(self.guest.driver(FourChannels).ready)
        assert self.guest.loop.run(lambda: len(link.channels) == 4, timeout=60)
        return link

    def card(self) -> NetworkCard:
        driver: FourQueues = self.guest.driver(FourQueues)
        self.guest.bus.wait(driver.ready)
        assert self.guest.loop.run(lambda: len(driver.queues) == 4, timeout=60)
        return NetworkCard(self.guest.bus, driver, "10.7.0.2")

    def targets(self) -> dict[int, int | None]:
        """The processor that the host interrupts, by channel id."""
        partition = self.host.partition
        assert partition is not None
        return self.in_host(lambda: {number: channel.target_vp for number, channel in partition.channels.items()})

    def channels(self) -> list[Channel]:
        return [*self.link().channels, *(queue.channel for queue in self.guest.driver(FourQueues).queues)]


def write_and_compare(pair: Pair, seed: int, between: Callable[[], object] = lambda: None) -> None:
    """A hundred writes at a time over all channels, ``between`` called while they are under way; then read them all."""
    chance, link, guest = random.Random(seed), pair.link(), pair.guest
    written: dict[int, bytes] = {}
    finished = 0

    def count(_: object) -> None:
        nonlocal finished
        finished += 1

    for _ in range(10):
        batch = []
        for lba in chance.sample(range(0, 16384, 8), 100):
            buffer = GuestBuffer(guest.pages, 4096)
            written[lba] = chance.randbytes(4096)
            buffer.write(written[lba])
            promise = link.execute(
                Address(), Transfer10(opcode=Opcode.WRITE_10, lba=lba, length=8), buffer, DataDirection.OUT
            )
            promise.then(count)
            batch.append((promise, buffer))
        between()
        for promise, buffer in batch:
            assert guest.bus.wait(promise).is_good
            buffer.release()
    assert finished == 1000, "every request is completed exactly once"
    disk = Disk(link, guest.pages, guest.bus.wait).open()
    for lba in chance.sample(sorted(written), 200):
        assert disk.read(lba, 8) == written[lba]


def test_every_processor_gets_its_channels_and_the_interrupts_for_them() -> None:
    with Pair() as pair:
        pair.card()
        channels = pair.channels()
        assert sorted(pair.targets().values(), key=str) == [0, 0, 1, 1, 2, 2, 3, 3]
        write_and_compare(pair, 1)
        for channel in channels[:4]:
            vp = channel.target_vp
            assert vp == channel.subchannel_index
            seen = {one for one, number in pair.guest.flags_seen if number == channel.channel_id}
            assert seen == {vp}, "a channel interrupts its own processor only"


@pytest.mark.parametrize("message_vp", range(PROCESSORS))
def test_control_messages_come_to_the_processor_that_was_named(message_vp: int) -> None:
    devices = make_devices(disks=["memory:1M"])
    with PartitionPair(devices, [StorageDriver], vp_count=PROCESSORS, message_vp=message_vp) as pair:
        pair.guest.bus.wait(pair.guest.driver(StorageDriver).ready)
        partition = pair.host.partition
        assert partition is not None and partition.control.info is not None
        assert partition.control.info.target_message_vp == message_vp


@pytest.mark.parametrize("version", MODIFIES)
@pytest.mark.parametrize("monitor_latency", [None, 1000])
def test_channels_moved_between_processors_under_load_lose_nothing(
    version: Version, monitor_latency: int | None
) -> None:
    chance = random.Random(int(version))
    with Pair(version, monitor_latency=monitor_latency) as pair:
        card = pair.card()
        channels = pair.channels()
        moves: list[Promise[None]] = []

        def move() -> None:
            for channel in channels:
                moves.append(pair.guest.bus.modify(channel, chance.randrange(PROCESSORS)))
            pair.guest.loop.run(lambda: all(one.done for one in moves), timeout=60)
            assert card.connect("10.7.0.1", 7).exchange(pattern(len(moves), 50_000)) == pattern(len(moves), 50_000)

        write_and_compare(pair, 2, move)
        for one in moves:
            one.result()
        assert pair.targets() == {channel.channel_id: channel.target_vp for channel in channels}


def test_a_processor_that_a_channel_has_left_hears_no_more_of_it() -> None:
    with Pair() as pair:
        link = pair.link()
        numbers = {channel.channel_id for channel in link.channels}
        for target in (3, 1, 2, 0):
            for channel in link.channels:
                pair.guest.bus.wait(pair.guest.bus.modify(channel, target))
            pair.in_host(lambda: None)
            pair.guest.loop.run_once()  # what was signalled before the move arrives now
            before = dict(pair.guest.flags_seen)
            write_and_compare(pair, target)
            grown = {key for key, count in pair.guest.flags_seen.items() if count > before.get(key, 0)}
            assert {vp for vp, number in grown if number in numbers} == {target}


def test_a_move_to_a_processor_that_does_not_exist_is_refused_and_the_channel_goes_on() -> None:
    with Pair() as pair:
        channel = pair.link().channels[0]
        for target in (PROCESSORS, 1000, INTERRUPTS_DISABLED):
            with pytest.raises(DriverError, match="did not modify"):
                pair.guest.bus.wait(pair.guest.bus.modify(channel, target))
        assert channel.target_vp == 0 == pair.targets()[channel.channel_id]
        write_and_compare(pair, 7)


def test_a_channel_cannot_be_moved_again_before_it_has_arrived() -> None:
    with Pair() as pair:
        channel = pair.link().channels[1]
        first = pair.guest.bus.modify(channel, 3)
        with pytest.raises(Exception, match="being modified already"):
            pair.guest.bus.modify(channel, 2)
        pair.guest.bus.wait(first)
        assert channel.target_vp == 3
