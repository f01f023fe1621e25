"""Our guest against our host, in every version and with every set of features."""

from __future__ import annotations

from collections import deque
from uuid import UUID

import pytest

from vmbus.control import guest_events as gev
from vmbus.control import host_events as hev
from vmbus.control.client import ControlClient
from vmbus.control.events import MonitorPages
from vmbus.control.offers import OfferTraits
from vmbus.control.server import ControlServer
from vmbus.control.server_base import ServerConfig
from vmbus.gpadl import GpaRange
from vmbus.wire import guids
from vmbus.wire.control_values import ALL_VERSIONS, ConnectionState, FeatureFlags, Status, Version

PAGES, OWN_PAGES = MonitorPages(0x1000, 0x2000), MonitorPages(0x8000, 0x9000)
COMBINATIONS = [(version, 0) for version in ALL_VERSIONS] + [(Version.V6_0, flags) for flags in range(1, 256)]


class Pair:
    """Both ends, and a host side that says yes to everything."""

    def __init__(self, version: Version, features: int) -> None:
        self.features = FeatureFlags(features)
        self.server = ControlServer(ServerConfig(max_version=version, features=self.features, monitor_pages=OWN_PAGES))
        self.client = ControlClient()
        self.host_saw: list[hev.HostEvent] = []
        self.guest_saw: list[gev.GuestEvent] = []
        self.scsi = self.server.offer(guids.SCSI, UUID(int=1), OfferTraits(monitor_latency=100))
        self.net = self.server.offer(guids.NETWORK, UUID(int=2))

    def run(self) -> Pair:
        """Carry messages and answer requests until nothing is left to say."""
        moved = True
        while moved:
            moved = False
            for posted in self.client.outgoing():
                moved = True
                happened = self.server.receive(posted.payload, connection_id=posted.connection_id, trusted=True)
                self.answer(happened)
            for message in self.server.outgoing():
                moved = True
                self.guest_saw += self.client.receive(message.payload)
        return self

    def answer(self, happened: list[hev.HostEvent]) -> None:
        server, queue = self.server, deque(happened)
        while queue:
            event = queue.popleft()
            self.host_saw.append(event)
            match event:
                case hev.OpenRequested():
                    queue += server.open_finished(event.channel_id)
                case hev.CloseRequested():
                    queue += server.close_finished(event.channel_id)
                case hev.GpadlRequested():
                    queue += server.gpadl_created(event.channel_id, event.gpadl_id)
                case hev.GpadlTeardownRequested():
                    queue += server.gpadl_torn_down(event.channel_id, event.gpadl_id)
                case hev.ModifyChannelRequested():
                    queue += server.modify_finished(event.channel_id)

    def seen(self, kind: type) -> list:
        return [event for event in (*self.host_saw, *self.guest_saw) if type(event) is kind]

    def forget(self) -> None:
        self.host_saw.clear()
        self.guest_saw.clear()


@pytest.fixture(params=COMBINATIONS, ids=lambda c: f"{c[0].number}-{c[1]:02x}")
def pair(request):
    version, features = request.param
    made = Pair(version, features)
    made.client.connect(monitor_pages=PAGES)
    made.run()
    assert made.client.version == made.server.version == version
    yield made
    assert not made.seen(hev.ProtocolViolation) and not made.seen(gev.HostViolation)
    assert not made.seen(hev.StrayReply)


def test_a_whole_life(pair):
    """Offer, memory, open, modify, pause, socket, close, rescind, release, unload."""
    client, version, features = pair.client, pair.client.version, pair.client.features
    assert features == pair.server.features == (pair.features if version == Version.V6_0 else FeatureFlags(0))
    assert client.host_monitor_pages == bool(features & FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES)
    assert client.monitor_pages == (OWN_PAGES if client.host_monitor_pages else PAGES)
    assert [e.offer.monitor_allocated for e in pair.seen(gev.ChannelOffered)] == [1, 0]

    gpadl_id = client.create_gpadl(pair.scsi, [GpaRange(4096 * 200, 0, tuple(range(200)))])
    pair.run()
    client.open(pair.scsi, gpadl_id, 100, target_vp=1)
    pair.run()
    assert pair.seen(gev.OpenFinished) == [gev.OpenFinished(pair.scsi, Status.SUCCESS)]
    assert pair.seen(hev.OpenRequested)[0].params.event_flag == pair.scsi

    if version >= Version.V4_1:
        client.modify_channel(pair.scsi, 2)
        pair.run()
        assert len(pair.seen(gev.ChannelModified)) == (version >= Version.V5_3)
    if features & FeatureFlags.PAUSE_RESUME:
        client.pause()
        pair.run()
        pair.server.offer(guids.MOUSE, UUID(int=3))
        pair.run()
        assert len(pair.seen(gev.ChannelOffered)) == 2
        client.resume()
        pair.run()
        assert len(pair.seen(gev.ChannelOffered)) == 3
    if features & FeatureFlags.MODIFY_CONNECTION and not client.host_monitor_pages:
        client.modify_connection(None)
        pair.run()
        assert pair.seen(gev.ConnectionModified) == [gev.ConnectionModified(ConnectionState.SUCCESSFUL)]

    client.close(pair.scsi)
    client.teardown_gpadl(gpadl_id)
    pair.run()
    assert pair.seen(gev.GpadlTornDown) == [gev.GpadlTornDown(pair.scsi, gpadl_id)]
    pair.answer(pair.server.rescind(pair.net))
    pair.run()
    client.release(pair.net)
    pair.guest_saw += client.unload()
    pair.run()
    assert pair.seen(gev.UnloadFinished) and pair.seen(hev.Unloaded)
    assert not client.channels and not client.gpadls and not pair.server.gpadls


def test_unload_with_everything_in_use(pair):
    client = pair.client
    for channel_id in (pair.scsi, pair.net):
        gpadl_id = client.create_gpadl(channel_id, [GpaRange(8192, 0, (1, 2))])
        pair.run()
        client.open(channel_id, gpadl_id, 1)
        pair.run()
    pair.guest_saw += client.unload()
    pair.run()
    assert pair.seen(gev.UnloadFinished)
    assert not pair.server.gpadls
    client.connect()
    pair.run()
    assert len(pair.seen(gev.OffersDelivered)) == 2


def test_a_socket_from_the_guest(pair):
    if pair.client.version < Version.V4_0:
        return
    endpoint, service = UUID(int=8), guids.vsock_service(5000)
    pair.client.tl_connect(endpoint, service)
    pair.run()
    (asked,) = pair.seen(hev.TlConnectRequested)
    channel_id = pair.server.offer(asked.service_id, asked.endpoint_id, OfferTraits.hvsocket(to_guest=False))
    pair.run()
    (answer,) = pair.seen(gev.TlConnectFinished)
    assert (answer.channel_id, answer.status) == (channel_id, Status.SUCCESS)
    pair.client.tl_connect(UUID(int=9), service)
    pair.run()
    pair.server.tl_connect_result(UUID(int=9), service, success=False)
    pair.run()
    assert len(pair.seen(gev.TlConnectFinished)) == (2 if pair.client.version >= Version.V4_1 else 1)


def test_a_reserved_channel_through_an_unload(pair):
    client = pair.client
    if client.version < Version.V4_0:
        return
    gpadl_id = client.create_gpadl(pair.scsi, [GpaRange(8192, 0, (1, 2))])
    pair.run()
    client.open_reserved(pair.scsi, gpadl_id, 1, target_vp=0, target_sint=2)
    pair.guest_saw += client.unload()
    pair.run()
    assert pair.seen(gev.OpenFinished) and pair.seen(gev.UnloadFinished)
    client.close_reserved(pair.scsi, target_vp=0, target_sint=2)
    pair.run()
    assert pair.seen(gev.ReservedClosed)
    assert not client.channels and not pair.server.gpadls
