"""The messages told from a host's state are those that led to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmbus.capture import encode
from vmbus.capture.in_force import messages_in_force
from vmbus.capture.reader import Interface, Record, packet_record
from vmbus.capture.state import StateKeeper
from vmbus.capture.walk import Block
from vmbus.control.server import ControlServer
from vmbus.devices.catalog import make_devices
from vmbus.drivers.storage import StorageDriver
from vmbus.tap import Bytes, Direction, NullTap
from vmbus.testing.partitions import PartitionPair
from vmbus.wire.capture import LINK_TYPE
from vmbus.wire.control_values import Version


class StateTap(NullTap):
    """Shows every message to a state keeper."""

    def __init__(self) -> None:
        self.keeper = StateKeeper()

    def message(
        self, direction: Direction, vp: int, sint: int, connection_id: int, message_type: int, payload: Bytes
    ) -> None:
        self.keeper.follow(encode.message(1, direction, 0, 0, 0, 1, payload))

    def in_force(self, direction: Direction, payload: Bytes) -> None:
        self.keeper.follow(encode.message(1, direction, 0, 0, 0, 1, payload))


def said(keeper: StateKeeper) -> list[tuple[int, bytes]]:
    interface = Interface(0, LINK_TYPE, resolution=9)
    records: list[Record] = [packet_record(Block(0, 6, block[8:-4], "<"), [interface], 1) for block in keeper.blocks()]
    return sorted((int(record.direction), record.body) for record in records)


def without_interrupt_page(message: bytes, version: Version) -> bytes:
    """A contact names that page up to 4.1, as Linux does, but hosts look at it before 2.4 only, and keep none later."""
    is_contact = message[:4] == b"\x0e\0\0\0"
    is_kept = not Version.V2_4 <= version < Version.V5_0
    return message[:16] + bytes(8) + message[24:] if is_contact and not is_kept else message


@pytest.mark.parametrize("version", [Version.V1_1, Version.V2_4, Version.V4_0, Version.V5_3, Version.V6_0])
def test_the_state_of_an_open_channel_is_told_as_it_was_said(
    partition_pair: Callable[..., PartitionPair], version: Version, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = tmp_path_factory.mktemp("disk") / "disk.img"
    image.write_bytes(bytes(1 << 20))
    tap = StateTap()
    pair = partition_pair(make_devices(disks=[str(image)]), [StorageDriver], tap=tap, versions=[version])
    told = StateTap()
    partition = pair.host.partition
    assert partition is not None
    for direction, payload in pair.in_host(lambda: list(messages_in_force(partition.control))):
        told.in_force(direction, payload)
    assert len(said(told.keeper)) >= 9
    # What the guest asked for is not kept, only what was agreed: from 6.0 on its contact names fewer features.
    skip = b"\x0e" if version >= Version.V6_0 else b"none"
    mine, theirs = ([one for one in said(t.keeper) if not one[1].startswith(skip)] for t in (told, tap))
    assert mine == [(direction, without_interrupt_page(body, version)) for direction, body in theirs]


def test_a_host_without_a_connection_has_nothing_to_tell() -> None:
    assert list(messages_in_force(ControlServer())) == []
