"""``vmbus ctl inspect`` shows all that a host knows of a guest with a disk, a card and a socket; as tree and JSON."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from vmbus.cli.ctl import tree_lines
from vmbus.devices.catalog import make_devices
from vmbus.devices.hvsocket import VsockRelay
from vmbus.drivers.disk import Disk
from vmbus.drivers.hvsocket import GuestSockets
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.drivers.storage import FIRST_UNIT, GuestBuffer, StorageDriver
from vmbus.host.inspection import Tree, inspect_host
from vmbus.testing.partitions import PartitionPair
from vmbus.wire.scsi.block import Transfer16
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.vstor import DataDirection

RING = {
    "size", "read_index", "write_index", "used_bytes", "interrupts_masked", "pending_send_size", "features", "packets",
    "bytes", "signals",
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """What is shown while a read is stuck, a frame is the guest's, and a socket is connected."""
    path = tmp_path_factory.mktemp("inspect") / "v"
    disk = "faulty:memory:1M,on=read,do=stuck,from=512K"
    sockets = GuestSockets()
    pair = PartitionPair(make_devices(disks=[disk], nics=["embedded"]), [StorageDriver, NetworkDriver, sockets.driver])

    def serve_sockets() -> VsockRelay:
        pair.host.sockets = relay = VsockRelay(pair.host, path)
        return relay

    with pair, socket.socket(socket.AF_UNIX) as service:
        relay, guest = pair.in_host(serve_sockets), pair.guest
        link = guest.bus.wait(guest.driver(StorageDriver).ready, 60)
        Disk(link, guest.pages, guest.bus.wait, FIRST_UNIT).open()
        buffer = GuestBuffer(guest.pages, 512, scattered=True)
        link.execute(FIRST_UNIT, Transfer16(opcode=Opcode.READ_16, lba=1030, length=1), buffer, DataDirection.IN)
        card = guest.driver(NetworkDriver)
        guest.bus.wait(card.ready, 60)
        NetworkCard(guest.bus, card, "10.7.0.2").ping("10.7.0.1")
        service.bind(f"{path}_77")
        service.listen(1)
        sockets.connect(guest.bus, 77).send(b"hello")
        time.sleep(0.05)  # the age of what is stuck
        card_device = pair.host.slots[1].device

        def outstanding() -> int:
            return int(card_device.inspect()["session"]["receive_buffer"]["outstanding_packets"])

        assert guest.loop.run(lambda: pair.in_host(outstanding) == 0, timeout=60)
        # The guest does not run meanwhile: what it is lent stays lent.
        pair.in_host(lambda: card_device.set_link(False))  # type: ignore[attr-defined]
        yield pair.in_host(lambda: inspect_host(pair.host))
        pair.in_host(relay.close)


def channel_of(tree: Tree, device: str) -> Tree:
    found: Tree = tree["channels"][str(tree["devices"][device]["channels"]["0"])]
    return found


def socket_of(tree: Tree) -> str:
    return next(name for name in tree["devices"] if name not in ("scsi", "net"))


def test_the_connection_is_shown_with_version_and_features(tree: Tree) -> None:
    connection = tree["connection"]
    assert connection["state"] == "connected" and connection["version"] == "6.0" and connection["features"]
    assert connection["monitor_pages"]["provided_by_host"] is True
    assert tree["guest"]["memory"]["size"] == 128 << 20


def test_every_channel_is_shown_with_state_gpadls_and_both_rings(tree: Tree) -> None:
    for device in ("scsi", "net", socket_of(tree)):
        channel = channel_of(tree, device)
        assert channel["state"] == "open" and channel["device"] == device
        assert all(gpadl["pages"] > 0 for gpadl in channel["gpadls"].values())
        opened = channel["open"]
        assert opened["from_guest"].keys() >= RING and opened["to_guest"].keys() >= RING | {"times_full"}
        assert (
            opened["counters"].keys() >= {"packets_in", "packets_out", "signals_in"} and opened["target_processor"] == 0
        )
    assert len(channel_of(tree, "net")["gpadls"]) == 3


def test_a_stuck_request_is_shown_with_its_transaction_id_and_age(tree: Tree) -> None:
    (request,) = channel_of(tree, "scsi")["open"]["handler"]["outstanding"]
    assert request["transaction_id"] > 0 and request["opcode"] == "READ_16" and request["unit"] == "0:0:0"
    assert 0.05 <= request["age_seconds"] < 30
    assert tree["devices"]["scsi"]["state"]["units"]["0:0:0"]["outstanding"] == 1


def test_a_packet_that_the_guest_has_not_given_back_is_shown_with_its_age(tree: Tree) -> None:
    buffer = tree["devices"]["net"]["state"]["session"]["receive_buffer"]
    assert buffer["outstanding_packets"] == len(buffer["outstanding"]) == 1
    assert buffer["outstanding"][0]["transaction_id"] > 0 and 0 <= buffer["outstanding"][0]["age_seconds"] < 30


def test_a_socket_is_shown_with_what_went_through_it(tree: Tree) -> None:
    state = tree["devices"][socket_of(tree)]["state"]
    assert state.keys() >= {"bytes_from_guest", "bytes_to_guest", "guest_ended", "host_ended", "waiting_for_the_socket"}


def test_the_tree_is_the_same_as_json_and_as_lines(tree: Tree) -> None:
    text = json.dumps(tree)
    assert json.dumps(json.loads(text)) == text
    lines = "\n".join(tree_lines(tree))
    for name in RING | {"age_seconds", "transaction_id", "gpadls", "times_full", "version", "features"}:
        assert f"{name}:" in lines or f"{name}\n" in lines
