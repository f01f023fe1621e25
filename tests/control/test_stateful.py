"""Everything in any order: what must hold whatever the two ends and the devices do, and whenever they do it.

Messages lie in queues and are delivered one by one, devices answer when they like, the host restarts, a hostile
end says anything.  ``Devices`` is the host's side of it and holds the host's control plane to its word: nothing
is opened twice, closed without being open, mapped twice or unmapped without being mapped.
"""

from __future__ import annotations

import json
import os
from collections import deque
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vmbus.control import guest_events as gev
from vmbus.control import host_events as hev
from vmbus.control.client import ControlClient
from vmbus.control.errors import Misuse
from vmbus.control.guest_states import GuestChannel, GuestConnection, GuestGpadl
from vmbus.control.host_states import HostChannel, HostConnection
from vmbus.control.messages import MESSAGES, build_message
from vmbus.control.offers import OfferTraits
from vmbus.control.server import ControlServer
from vmbus.control.server_base import ServerConfig
from vmbus.control.server_gpadls import OVERHEAD_WORDS
from vmbus.gpadl import GpaRange
from vmbus.wire import control, guids
from vmbus.wire.control_values import ALL_FEATURES, ALL_VERSIONS, FeatureFlags, Status, Version

DEVICES = 3
CONFIG = ServerConfig(max_gpadl_words=8000)
MOST_PAGES = 60
"""In one GPADL of the guest that keeps the rules."""
SOAK = os.environ.get("VMBUS_SOAK", "0") not in ("", "0")
SETTINGS = settings(
    max_examples=2000 if SOAK else 60,
    stateful_step_count=150 if SOAK else 80,
    derandomize=not SOAK,
    phases=[Phase.generate],  # shrinking a conversation takes minutes and tells little more
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
picks = st.integers(0, 1000)
few = st.integers(1, 5)
mostly = st.sampled_from([True, True, True, False])
versions = st.sampled_from(ALL_VERSIONS)
features = st.integers(0, 255).map(FeatureFlags)


class Devices:
    """The host's own side: devices that answer late, and the memory that they have mapped."""

    def __init__(self) -> None:
        self.server = ControlServer(CONFIG)
        self.offered: dict[int, int] = {}
        self.sockets: set[int] = set()
        """Channels of sockets that the guest asked for."""
        self.open: set[int] = set()
        self.mapped: set[tuple[int, int]] = set()
        self.waiting: deque[hev.HostEvent] = deque()
        self.violations: list[hev.ProtocolViolation] = []
        self.unloaded = False

    def offer(self, number: int) -> None:
        if number not in self.offered:
            self.offered[number] = self.server.offer(guids.SCSI, UUID(int=number), OfferTraits(monitor_latency=1))

    def rescind(self, number: int) -> None:
        channel_id = self.offered.pop(number, None)
        if channel_id is not None:
            self.stop(channel_id)
            self.take(self.server.rescind(channel_id))

    def end_socket(self, pick: int) -> None:
        channel_id = sorted(self.sockets)[pick % len(self.sockets)]
        self.sockets.discard(channel_id)
        self.stop(channel_id)
        self.take(self.server.rescind(channel_id))

    def stop(self, channel_id: int) -> None:
        """A device lets go of everything, without being asked."""
        self.open.discard(channel_id)
        self.mapped = {pair for pair in self.mapped if pair[0] != channel_id}
        self.waiting = deque(event for event in self.waiting if getattr(event, "channel_id", None) != channel_id)

    def take(self, events: list[hev.HostEvent]) -> None:
        for event in events:
            match event:
                case hev.OpenRequested(channel_id):
                    assert channel_id not in self.open
                    assert not any(
                        isinstance(w, hev.OpenRequested) and w.channel_id == channel_id for w in self.waiting
                    )
                    self.waiting.append(event)
                case hev.CloseRequested(channel_id):
                    assert channel_id in self.open
                    self.waiting.append(event)
                case hev.GpadlRequested(channel_id, gpadl_id):
                    assert (channel_id, gpadl_id) not in self.mapped
                    self.waiting.append(event)
                case hev.GpadlTeardownRequested(channel_id, gpadl_id):
                    assert (channel_id, gpadl_id) in self.mapped
                    self.waiting.append(event)
                case hev.ModifyChannelRequested(channel_id):
                    assert channel_id in self.open
                    self.waiting.append(event)
                case hev.TlConnectRequested():
                    if event not in self.waiting:  # a guest that has connected again may ask again
                        self.waiting.append(event)
                case hev.ChannelReleased(channel_id, gone) if gone:
                    assert channel_id not in self.open
                    assert not any(pair[0] == channel_id for pair in self.mapped)
                case hev.ProtocolViolation():
                    self.violations.append(event)
                case hev.Unloaded():
                    self.unloaded = True
                case hev.VersionNegotiated() | hev.ContactRequested():
                    self.unloaded = False

    def answer(self, pick: int, *, yes: bool = True) -> None:
        """One device answers one request."""
        event = self.waiting[pick % len(self.waiting)]
        self.waiting.remove(event)
        server = self.server
        match event:
            case hev.OpenRequested(channel_id):
                if yes:
                    self.open.add(channel_id)
                self.take(server.open_finished(channel_id, Status.SUCCESS if yes else Status.UNSUCCESSFUL))
            case hev.CloseRequested(channel_id):
                self.open.discard(channel_id)
                self.waiting = deque(
                    w for w in self.waiting
                    if not (isinstance(w, hev.ModifyChannelRequested) and w.channel_id == channel_id)
                )  # fmt: skip
                self.take(server.close_finished(channel_id))
            case hev.GpadlRequested(channel_id, gpadl_id):
                if yes:
                    self.mapped.add((channel_id, gpadl_id))
                    self.take(server.gpadl_created(channel_id, gpadl_id))
                else:
                    self.take(server.gpadl_refused(channel_id, gpadl_id))
            case hev.GpadlTeardownRequested(channel_id, gpadl_id):
                self.mapped.discard((channel_id, gpadl_id))
                self.take(server.gpadl_torn_down(channel_id, gpadl_id))
            case hev.ModifyChannelRequested(channel_id):
                self.take(server.modify_finished(channel_id))
            case hev.TlConnectRequested(endpoint, service):
                taken = any(channel.key[:2] == (service, endpoint) for channel in server.offers)
                if yes and not taken:
                    self.sockets.add(server.offer(service, endpoint, OfferTraits.hvsocket(to_guest=False)))
                else:
                    self.take(server.tl_connect_result(endpoint, service, success=False))

    def answer_all(self) -> None:
        while self.waiting:
            self.answer(0)

    def reset(self) -> None:
        # Devices that were opening are stopped: they will not answer (openvmm client_release_channel).
        self.waiting = deque(event for event in self.waiting if not isinstance(event, hev.OpenRequested))
        self.take(self.server.reset())

    def restart(self) -> None:
        """Another process goes on with the saved state."""
        state = json.loads(json.dumps(self.server.save()))
        self.server = ControlServer(CONFIG)
        self.server.restore(state)
        self.waiting.clear()
        for channel_id in self.sockets:
            self.stop(channel_id)  # sockets do not outlive their process
        self.sockets.clear()
        for number, before in self.offered.items():
            assert self.server.offer(guids.SCSI, UUID(int=number), OfferTraits(monitor_latency=1)) == before
        known = self.server.offers.channels
        self.open = {c for c in self.open if not known[c].state.is_released}
        self.mapped = {pair for pair in self.mapped if pair in self.server.gpadls}
        for channel_id in self.offered.values():
            self.take(self.server.channel_restored(channel_id, is_open=channel_id in self.open))
        self.take(self.server.finish_restore())

    def check(self) -> None:
        """What must always hold of a server."""
        server, channels = self.server, self.server.offers.channels
        assert sorted((*self.offered.values(), *self.sockets)) == sorted(
            c for c, ch in channels.items() if ch.state is not HostChannel.RESCINDED
        )
        assert all(channel_id in channels for channel_id, _ in server.gpadls)
        assert server._gpadl_words == sum(gpadl.cost for gpadl in server.gpadls.values()) <= CONFIG.max_gpadl_words
        assert all(server.gpadls[g.channel_id, g.gpadl_id] is g for g in server._in_progress.values())
        assert server.offers.monitors.in_use == sum(
            1 << ch.monitor_id for ch in channels.values() if ch.monitor_id is not None
        )
        assert all((ch.request is not None) == (ch.state in IN_USE) for ch in channels.values())

    def is_idle(self) -> bool:
        channels = self.server.offers.channels.values()
        return not self.server.gpadls and all(ch.state is HostChannel.RELEASED for ch in channels)


IN_USE = {
    HostChannel.OPENING,
    HostChannel.OPEN,
    HostChannel.CLOSING,
    HostChannel.REOPENING,
    HostChannel.OPENING_RELEASED,
    HostChannel.CLOSING_RELEASED,
}
SAID_WITHOUT_A_CONNECTION = (6, 15, 17, 20)
"""Answers about reserved channels, to contacts and to unloads."""


class LawfulEnds(RuleBasedStateMachine):
    """A guest and a host that keep to the rules: no order of events makes either of them see a violation."""

    def __init__(self) -> None:
        super().__init__()
        self.devices = Devices()
        self.to_guest: deque[bytes] = deque()
        self.said_goodbye = False
        self.start_guest()

    def start_guest(self) -> None:
        self.client = ControlClient()
        self.to_host: deque[tuple[bytes, int]] = deque()
        self.noise = True
        """Messages for the kernel before this one may still come."""

    def heard(self, events: list[gev.GuestEvent]) -> None:
        for event in events:
            assert self.noise or not isinstance(event, gev.HostViolation), event
            if isinstance(event, gev.Connected):
                self.noise = False

    def flush(self) -> None:
        self.to_host += self.client.outgoing()
        for message in self.devices.server.outgoing():
            assert not self.said_goodbye or message.payload[0] in SAID_WITHOUT_A_CONNECTION
            self.to_guest.append(message.payload)
        self.said_goodbye = self.devices.unloaded

    # Delivery

    @precondition(lambda self: self.to_host and not self.devices.server.is_resetting)
    @rule(most=few)
    def deliver_to_host(self, most: int) -> None:
        for _ in range(min(most, len(self.to_host))):
            payload, connection_id = self.to_host.popleft()
            self.devices.take(self.devices.server.receive(payload, connection_id=connection_id))
            assert not self.devices.violations, self.devices.violations
            self.flush()

    @precondition(lambda self: self.to_guest)
    @rule(most=few)
    def deliver_to_guest(self, most: int) -> None:
        for _ in range(min(most, len(self.to_guest))):
            self.heard(self.client.receive(self.to_guest.popleft()))
            self.flush()

    @precondition(lambda self: self.devices.waiting)
    @rule(pick=picks, yes=mostly)
    def a_device_answers(self, pick: int, yes: bool) -> None:
        self.devices.answer(pick, yes=yes)
        self.flush()

    @precondition(lambda self: not self.devices.server.is_resetting)
    @rule()
    def all_is_delivered(self) -> None:
        while self.to_host or self.to_guest:
            if self.to_host:
                self.deliver_to_host(1)
            else:
                self.deliver_to_guest(1)

    # The host's own will

    @rule(number=st.integers(1, DEVICES))
    def offer(self, number: int) -> None:
        self.devices.offer(number)
        self.flush()

    @rule(number=st.integers(1, DEVICES))
    def rescind(self, number: int) -> None:
        self.devices.rescind(number)
        self.flush()

    @precondition(lambda self: not self.devices.server.is_resetting)
    @rule()
    def restart_host(self) -> None:
        self.devices.server.put_back([])
        self.devices.restart()
        self.flush()

    # The guest's will

    @rule(what=st.sampled_from(["reset", "another kernel", "unload", "unload", "nothing", "nothing", "nothing"]))
    def something_ends(self, what: str) -> None:
        match what:
            case "reset" if not self.devices.server.is_resetting:
                self.to_guest.clear()
                self.devices.reset()
                self.start_guest()
                self.flush()
            case "another kernel":
                # What the old one posted has arrived, because posting does not wait, and devices are faster than a
                # kernel that starts; then a new one begins, with an empty message slot.
                while self.to_host and not self.devices.server.is_resetting:
                    self.deliver_to_host(1)
                self.devices.answer_all()
                self.flush()
                self.to_guest.clear()
                self.start_guest()
            case "unload" if self.client.connection is not GuestConnection.DISCONNECTING:
                self.unload()

    def unload(self) -> None:
        self.heard(self.client.unload())
        # A host of 0.13 does not say when it has heard, so what it said before may still come.
        self.noise |= self.client.connection is GuestConnection.DISCONNECTED
        self.flush()

    @initialize(version=versions, wish=features)
    def begin(self, version: Version, wish: FeatureFlags) -> None:
        for number in range(1, DEVICES):
            self.devices.offer(number)
        self.connect(version, wish)
        self.all_is_delivered()

    @precondition(lambda self: self.client.connection is GuestConnection.DISCONNECTED)
    @rule(version=versions, wish=features)
    def connect(self, version: Version, wish: FeatureFlags) -> None:
        if self.client.connection is GuestConnection.DISCONNECTED:
            older = [v for v in ALL_VERSIONS if v <= version]
            self.client.connect(versions=older, features=wish & ~FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES)
            self.flush()

    @precondition(lambda self: self.may_share_memory)
    @rule(pick=picks)
    def share_memory(self, pick: int) -> None:
        self.use_a_channel(pick, "gpadl")

    @property
    def may_share_memory(self) -> bool:
        """Whether the host has room for one more GPADL, with all that are under way and all that devices still hold."""
        announced = (MOST_PAGES + 1 + OVERHEAD_WORDS) * (len(self.client.gpadls) + 1)
        return announced + self.devices.server._gpadl_words <= CONFIG.max_gpadl_words

    @rule(pick=picks, what=st.sampled_from(["open", "open", "reserve"]))
    def open_a_channel(self, pick: int, what: str) -> None:
        self.use_a_channel(pick, what)

    @rule(pick=picks, what=st.sampled_from(["close", "modify", "teardown", "release"]))
    def go_on(self, pick: int, what: str) -> None:
        self.use_a_channel(pick, what)

    def use_a_channel(self, pick: int, what: str) -> None:
        client = self.client
        if not client.channels:
            return
        channel = list(client.channels.values())[pick % len(client.channels)]
        outlives = what == "close" and channel.state is GuestChannel.OPEN_RESERVED
        if not client.is_connected and not (outlives and client.connection is GuestConnection.DISCONNECTED):
            return
        channel_id = channel.channel_id
        pages = pick % MOST_PAGES + 1
        try:
            match what:
                case "gpadl":
                    client.create_gpadl(channel_id, [GpaRange(pages * 4096, 0, tuple(range(pages)))])
                case "open":
                    client.open(channel_id, 1, 0)
                case "reserve":
                    client.open_reserved(channel_id, 1, 0, target_vp=0, target_sint=2)
                case "close" if channel.state is GuestChannel.OPEN_RESERVED:
                    client.close_reserved(channel_id, target_vp=0, target_sint=2)
                case "close":
                    client.close(channel_id)
                case "teardown":
                    client.teardown_gpadl(next(iter(channel.gpadls), 0))
                case "release":
                    self.heard(client.release(channel_id))
                case "modify":
                    client.modify_channel(channel_id, 0)
        except Misuse:
            pass  # our own client does not let us
        self.flush()

    @precondition(lambda self: self.client.is_connected)
    @rule(pick=picks)
    def ask_for_a_socket(self, pick: int) -> None:
        try:
            self.client.tl_connect(UUID(int=100 + pick % 3), guids.vsock_service(9))
        except Misuse:
            pass
        self.flush()

    @precondition(lambda self: self.devices.sockets)
    @rule(pick=picks)
    def a_socket_ends(self, pick: int) -> None:
        self.devices.end_socket(pick)
        self.flush()

    @precondition(lambda self: self.client.connection is GuestConnection.CONNECTED)
    @rule()
    def pause_or_resume(self) -> None:
        try:
            if self.client.is_paused:
                self.client.resume()
            else:
                self.client.pause()
        except Misuse:
            pass
        self.flush()

    @precondition(lambda self: self.client.connection is not GuestConnection.CONNECTING)
    @rule()
    def restart_guest(self) -> None:
        state = json.loads(json.dumps(self.client.save()))
        self.client = ControlClient()
        self.client.restore(state)

    @invariant()
    def the_server_is_sound(self) -> None:
        self.devices.check()

    @invariant()
    def no_gpadl_is_lost(self) -> None:
        of_channels = [gpadl for channel in self.client.channels.values() for gpadl in channel.gpadls.values()]
        assert {g.gpadl_id for g in of_channels} == self.client.gpadls.keys()

    def teardown(self) -> None:
        """Let everybody finish: all questions are answered, and after the unload nothing is left."""
        self.settle()
        if self.client.is_paused:
            self.client.resume()
            self.settle()
        if self.client.is_connected:
            for channel in self.client.channels.values():
                assert channel.state in (
                    GuestChannel.OFFERED,
                    GuestChannel.OPEN,
                    GuestChannel.OPEN_RESERVED,
                    GuestChannel.RESCINDED,
                )
                assert all(gpadl.state is GuestGpadl.CREATED for gpadl in channel.gpadls.values())
                assert not channel.modifying
            # Before 4.1 a host cannot say no.
            assert not self.client._tl_requests or self.client.version == Version.V4_0
        if self.client.connection is not GuestConnection.DISCONNECTING:
            self.unload()
        self.settle()
        assert self.client.connection is GuestConnection.DISCONNECTED
        self.devices.reset()
        self.devices.answer_all()
        assert self.devices.is_idle() and self.devices.server.connection is HostConnection.DISCONNECTED
        assert not self.devices.server.outgoing()

    def settle(self) -> None:
        self.flush()
        while self.to_host or self.to_guest or self.devices.waiting:
            if self.devices.waiting:
                self.a_device_answers(0, True)
            elif self.to_host:
                self.deliver_to_host(1)
            else:
                self.deliver_to_guest(1)


small = st.sampled_from([1, 1, 2, 2, 3, 0, 4])
words = st.lists(st.sampled_from([0, 1, 4096, 8192, 1 << 32, 5]), max_size=27).map(tuple)
statuses = st.sampled_from([0, 1, 0x8000FFFF])


def one_page(channel_id, gpadl_id):
    return control.GpadlHeader(channel_id=channel_id, gpadl_id=gpadl_id, range_bytes=16, range_count=1, words=(4096, 1))


BODIES = st.one_of(
    st.builds(control.InitiateContact, version=versions, parent_to_child_monitor_page=st.sampled_from([0, 4096])),
    st.builds(control.InitiateContact5, version=versions, target_vtl=st.sampled_from([0, 2])),
    st.builds(control.InitiateContact6, version=versions, features=features),
    st.just(control.RequestOffers()),
    st.just(control.Unload()),
    st.builds(one_page, small, small),
    st.builds(one_page, small, small),
    st.builds(one_page, small, small),
    st.builds(control.OpenChannel, channel_id=small, ring_gpadl_id=small, downstream_page_offset=small),
    st.builds(control.OpenChannel, channel_id=small, ring_gpadl_id=small, downstream_page_offset=small),
    st.builds(control.OpenChannel2, channel_id=small, ring_gpadl_id=small, downstream_page_offset=small),
    st.builds(control.CloseChannel, channel_id=small),
    st.builds(
        control.GpadlHeader,
        channel_id=small,
        gpadl_id=small,
        range_bytes=st.sampled_from([0, 16, 24, 256]),
        range_count=st.integers(0, 2),
        words=words,
    ),
    st.builds(control.GpadlBody, gpadl_id=small, words=words),
    st.builds(control.GpadlTeardown, channel_id=small, gpadl_id=small),
    st.builds(control.RelIdReleased, channel_id=small),
    st.builds(
        control.OpenReservedChannel,
        channel_id=small,
        target_vp=small,
        target_sint=small,
        ring_gpadl_id=small,
        downstream_page_offset=small,
    ),
    st.builds(control.CloseReservedChannel, channel_id=small, target_vp=small, target_sint=small),
    st.builds(control.ModifyChannel, channel_id=small, target_vp=small),
    st.builds(control.ModifyConnection, child_to_parent_monitor_page=st.sampled_from([0, 4096])),
    st.just(control.Pause()),
    st.just(control.Resume()),
    st.builds(
        control.TlConnectRequest2,
        endpoint_id=small.map(lambda n: UUID(int=n)),
        service_id=st.just(guids.vsock_service(9)),
        silo_id=st.just(UUID(int=0)),
    ),
)
ANYTHING = st.one_of(
    BODIES.map(build_message),
    st.tuples(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=232)).map(
        lambda m: m[0].to_bytes(8, "little") + m[1]
    ),
    st.binary(max_size=240),
)


class HostileGuest(RuleBasedStateMachine):
    """A guest that says anything: the host lives, and its devices are treated as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.devices = Devices()
        for number in range(1, DEVICES + 1):
            self.devices.offer(number)

    @rule(payloads=st.lists(ANYTHING, min_size=1, max_size=4), connection_id=st.sampled_from([1, 4]))
    def the_guest_says_something(self, payloads: list[bytes], connection_id: int) -> None:
        for payload in payloads:
            self.devices.take(self.devices.server.receive(payload, connection_id=connection_id))

    @rule(bodies=st.lists(BODIES, min_size=1, max_size=4), trusted=mostly)
    def the_guest_says_something_sensible(self, bodies: list[control.Format], trusted: bool) -> None:
        for body in bodies:
            self.devices.take(self.devices.server.receive(build_message(body), trusted=trusted))

    @initialize(version=versions, wish=features)
    def the_guest_connects(self, version: Version, wish: FeatureFlags) -> None:
        for body in (control.InitiateContact6(version=version, features=wish), control.RequestOffers()):
            self.devices.take(self.devices.server.receive(build_message(body)))

    @precondition(lambda self: self.devices.waiting)
    @rule(pick=picks, yes=st.booleans())
    def a_device_answers(self, pick: int, yes: bool) -> None:
        self.devices.answer(pick, yes=yes)

    @rule(number=st.integers(1, DEVICES), back=st.booleans())
    def rescind(self, number: int, back: bool) -> None:
        self.devices.rescind(number)
        if back:
            self.devices.offer(number)

    @precondition(lambda self: not self.devices.server.is_resetting)
    @rule(what=st.sampled_from(["reset", "restart", "nothing", "nothing", "nothing"]))
    def reset_or_restart(self, what: str) -> None:
        match what:
            case "restart":
                self.devices.restart()
            case "reset":
                self.devices.reset()

    @rule(version=versions, wish=features, now=mostly)
    def the_guest_connects_again(self, version: Version, wish: FeatureFlags, now: bool) -> None:
        if not now or self.devices.server.version is None:
            self.the_guest_connects(version, wish)

    @invariant()
    def the_server_is_sound(self) -> None:
        self.devices.check()
        for message in self.devices.server.outgoing():
            assert len(message.payload) <= 240

    def teardown(self) -> None:
        self.devices.answer_all()
        if not self.devices.server.is_resetting:
            self.devices.reset()
        self.devices.answer_all()
        assert self.devices.is_idle() and not self.devices.server.is_resetting


HOST_BODIES = st.one_of(
    st.builds(
        control.VersionResponse2,
        version_supported=st.integers(0, 1),
        connection_state=st.integers(0, 2),
        features=features,
    ),
    st.just(control.AllOffersDelivered()),
    st.builds(control.RescindChannelOffer, channel_id=small),
    st.builds(control.OpenResult, channel_id=small, open_id=small, status=statuses),
    st.builds(control.GpadlCreated, channel_id=small, gpadl_id=st.integers(0xE1E10, 0xE1E14), status=statuses),
    st.builds(control.GpadlTorndown, gpadl_id=st.integers(0xE1E10, 0xE1E14)),
    st.just(control.UnloadComplete()),
    st.builds(control.CloseReservedResponse, channel_id=small),
    st.builds(control.ModifyChannelResponse, channel_id=small, status=statuses),
    st.builds(control.ModifyConnectionResponse, connection_state=st.integers(0, 2)),
    st.just(control.PauseResponse()),
).map(build_message)
OFFERS = st.builds(
    lambda channel_id, flags, user: build_message(control_offer(channel_id=channel_id, flags=flags, user_defined=user)),
    small,
    st.sampled_from([0, 0x10, 0x2011]),
    st.binary(max_size=120),
)


def control_offer(**fields):
    from vmbus.wire.offer import OfferChannel

    return OfferChannel(interface_id=guids.SCSI, instance_id=UUID(int=1), connection_id=9, **fields)


class HostileHost(RuleBasedStateMachine):
    """A host that says anything: the guest lives, and refuses to be used wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ControlClient()

    @rule(
        payload=st.one_of(
            HOST_BODIES,
            OFFERS,
            st.tuples(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=232)).map(
                lambda m: m[0].to_bytes(8, "little") + m[1]
            ),
        )
    )
    def the_host_says_something(self, payload: bytes) -> None:
        for event in self.client.receive(payload):
            assert isinstance(event, gev.GuestEvent)

    @rule(version=versions)
    def connect(self, version: Version) -> None:
        if self.client.connection is GuestConnection.DISCONNECTED:
            self.client.connect(versions=[version], features=ALL_FEATURES)
            answer = control.VersionResponse2(version_supported=1, features=ALL_FEATURES & ~FeatureFlags(0x40))
            self.client.receive(build_message(answer))

    @rule(
        pick=small,
        what=st.sampled_from(["gpadl", "open", "close", "teardown", "release", "modify", "unload", "pause", "socket"]),
    )
    def the_guest_does_something(self, pick: int, what: str) -> None:
        client = self.client
        try:
            match what:
                case "gpadl":
                    client.create_gpadl(pick, [GpaRange(4096, 0, (pick,))])
                case "open":
                    client.open(pick, 0xE1E10 + pick, 0)
                case "close":
                    client.close(pick)
                case "teardown":
                    client.teardown_gpadl(0xE1E10 + pick)
                case "release":
                    client.release(pick)
                case "modify":
                    client.modify_channel(pick, 0)
                case "unload":
                    client.unload()
                case "pause":
                    client.pause()
                case "socket":
                    client.tl_connect(UUID(int=1), guids.SCSI)
        except Misuse:
            pass

    @invariant()
    def the_client_is_sound(self) -> None:
        client = self.client
        of_channels = {g.gpadl_id: g for channel in client.channels.values() for g in channel.gpadls.values()}
        assert of_channels == client.gpadls
        assert all(g.state is not GuestGpadl.GONE for g in client.gpadls.values())
        assert all(channel.state is not GuestChannel.GONE for channel in client.channels.values())
        assert len(client.channels) <= 2047
        client.outgoing()


for machine in (LawfulEnds, HostileGuest, HostileHost):
    machine.TestCase.settings = SETTINGS
    machine.TestCase.pytestmark = pytest.mark.soak
TestLawfulEnds = LawfulEnds.TestCase
TestHostileGuest = HostileGuest.TestCase
TestHostileHost = HostileHost.TestCase
