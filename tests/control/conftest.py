"""Conversations as tests: a playbook reads like what it checks.

    host >> InitiateContact5(version=V5_3) << VersionNegotiated << VersionResponse(...)
    host >> (lambda: host.server.rescind(1)) << RescindChannelOffer(channel_id=1)

``>>`` is what the other end says (a message body) or what our own side does (a callable); ``<<`` is what must
come of it, event by event and message by message, in order.  A class stands for any of its kind.  Whatever comes
and is not named fails the next ``>>``, or the end of the test.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from vmbus.control.client import ControlClient
from vmbus.control.messages import build_message, read_message
from vmbus.control.server import ControlServer
from vmbus.control.server_base import ServerConfig
from vmbus.wire import control, guids
from vmbus.wire.control_values import FeatureFlags, Version
from vmbus.wire.schema import Format


def lines(thing: object) -> list[str]:
    if isinstance(thing, type):
        return [f"any {thing.__name__}"]
    return str(repr(thing)).replace(", ", ",\n    ").splitlines()


class Playbook:
    """One end of a connection, and what must happen to it."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.messages: list[Format] = []
        self.said: list[str] = []

    def hear(self, body: Format) -> None:
        """Take a message from the other end."""
        raise NotImplementedError

    def collect(self) -> None:
        """Take the messages for the other end."""
        raise NotImplementedError

    def __rshift__(self, step: Format | Callable[[], Any]) -> Playbook:
        self.nothing_more()
        self.said.append(f">> {step!r}")
        if isinstance(step, Format):
            self.hear(step)
        else:
            result = step()
            self.events += result if isinstance(result, list) else []
        self.collect()
        return self

    def __lshift__(self, expected: Any) -> Playbook:
        of_messages = issubclass(expected if isinstance(expected, type) else type(expected), Format)
        queue: list[Any] = self.messages if of_messages else self.events
        actual = queue.pop(0) if queue else None
        fits = type(actual) is expected if isinstance(expected, type) else actual == expected
        if not fits:
            self.fail(lines(expected), lines(actual) if actual is not None else ["nothing"])
        self.said.append(f"<< {expected!r}")
        return self

    def fail(self, expected: list[str], actual: list[str]) -> None:
        diff = "\n".join(difflib.ndiff(expected, actual))
        rest = "".join(f"\n   also: {thing!r}" for thing in (*self.events, *self.messages))
        pytest.fail("\n".join([*self.said, "this must come next (-), this came (+):", diff]) + rest, pytrace=False)

    def nothing_more(self) -> None:
        if self.events or self.messages:
            self.fail(["nothing"], lines((self.events + self.messages).pop(0)))

    def ignore(self) -> Playbook:
        """What came of the last step is not what this test is about."""
        self.events.clear()
        self.messages.clear()
        return self


class HostPlaybook(Playbook):
    """A ``ControlServer``, spoken to by a scripted guest."""

    def __init__(self, config: ServerConfig | None = None) -> None:
        super().__init__()
        self.server = ControlServer(config)
        self.connection_id = 4
        self.trusted = False

    def hear(self, body: Format) -> None:
        self.events += self.server.receive(build_message(body), connection_id=self.connection_id, trusted=self.trusted)

    def collect(self) -> None:
        self.sent = self.server.outgoing()
        version, features = self.server.version, self.server.features
        self.messages += [read_message(m.payload, version, features).body for m in self.sent]

    def contact(self, version: Version = Version.V5_3, features: int = 0, **fields: Any) -> Format:
        """The INITIATE_CONTACT that a guest of this version sends."""
        if version < Version.V5_0:
            return control.InitiateContact(version=version, **fields)
        if version < Version.V6_0:
            return control.InitiateContact5(version=version, **fields)
        return control.InitiateContact6(version=version, features=FeatureFlags(features), **fields)

    def connect(self, version: Version = Version.V5_3, features: int = 0, **fields: Any) -> HostPlaybook:
        """Negotiate, and take the offers."""
        (self >> self.contact(version, features, **fields)).ignore()
        (self >> control.RequestOffers()).ignore()
        assert self.server.version == version
        return self

    def offer(self, number: int = 1, **traits: Any) -> int:
        """Offer the SCSI controller with this number."""
        from vmbus.control.offers import OfferTraits

        return self.server.offer(guids.SCSI, UUID(int=number), OfferTraits(**traits))

    def share(self, channel_id: int, gpadl_id: int = 10) -> HostPlaybook:
        """Make a GPADL of one page and accept it."""
        (self >> one_page(channel_id, gpadl_id)).ignore()
        (self >> (lambda: self.server.gpadl_created(channel_id, gpadl_id))).ignore()
        return self

    def open(self, channel_id: int, gpadl_id: int = 10, **fields: Any) -> HostPlaybook:
        """Open a channel, with a GPADL for its rings."""
        self.share(channel_id, gpadl_id)
        (self >> open_channel(channel_id, gpadl_id, **fields)).ignore()
        (self >> (lambda: self.server.open_finished(channel_id))).ignore()
        return self


class GuestPlaybook(Playbook):
    """A ``ControlClient``, spoken to by a scripted host."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ControlClient()

    def hear(self, body: Format) -> None:
        self.events += self.client.receive(build_message(body))

    def collect(self) -> None:
        self.sent = self.client.outgoing()
        version, features = self.client.version, self.client.features
        self.messages += [read_message(m.payload, version, features).body for m in self.sent]

    def connect(self, version: Version = Version.V5_3, granted: int = 0, **wishes: Any) -> GuestPlaybook:
        """Negotiate, be granted features, and get no offers."""
        (self >> (lambda: self.client.connect(versions=[version], **wishes))).ignore()
        answer = control.VersionResponse2(
            version_supported=1, version_or_connection_id=4, features=FeatureFlags(granted)
        )
        (self >> answer).ignore()
        (self >> control.AllOffersDelivered()).ignore()
        assert self.client.version == version
        return self

    def offered(self, channel_id: int = 1, **fields: Any) -> int:
        """Hear of a SCSI controller."""
        from vmbus.wire.offer import OfferChannel

        given = {"interface_id": guids.SCSI, "instance_id": UUID(int=channel_id), **fields}
        (self >> OfferChannel(channel_id=channel_id, connection_id=0x2000 + channel_id, **given)).ignore()
        return channel_id

    def opened(self, channel_id: int = 1) -> int:
        """Open a channel; return the id of its GPADL."""
        from vmbus.gpadl import GpaRange

        ids: list[int] = []
        page = GpaRange(4096, 0, (1,))
        (self >> (lambda: ids.append(self.client.create_gpadl(channel_id, [page])))).ignore()
        (self >> control.GpadlCreated(channel_id=channel_id, gpadl_id=ids[0], status=0)).ignore()
        (self >> (lambda: self.client.open(channel_id, ids[0], 0))).ignore()
        open_id = self.client.channels[channel_id].open_id
        (self >> control.OpenResult(channel_id=channel_id, open_id=open_id, status=0)).ignore()
        return ids[0]


def one_page(channel_id: int, gpadl_id: int, pfn: int = 1) -> control.GpadlHeader:
    return control.GpadlHeader(
        channel_id=channel_id, gpadl_id=gpadl_id, range_bytes=16, range_count=1, words=(4096, pfn)
    )


def open_channel(channel_id: int, gpadl_id: int = 10, **fields: Any) -> control.OpenChannel:
    kind = control.OpenChannel2 if {"event_flag", "connection_id", "flags"} & fields.keys() else control.OpenChannel
    return kind(channel_id=channel_id, ring_gpadl_id=gpadl_id, downstream_page_offset=1, **fields)


@pytest.fixture
def make_host() -> Iterator[Callable[..., HostPlaybook]]:
    """Make a host; its conversation must be complete at the end."""
    made: list[HostPlaybook] = []

    def make(**config: Any) -> HostPlaybook:
        made.append(HostPlaybook(ServerConfig(**config)))
        return made[-1]

    yield make
    for host in made:
        host.nothing_more()


@pytest.fixture
def host(make_host: Callable[..., HostPlaybook]) -> HostPlaybook:
    """A host with one channel, number 1."""
    made = make_host()
    made.offer(1)
    return made


@pytest.fixture
def guest() -> Iterator[GuestPlaybook]:
    made = GuestPlaybook()
    yield made
    made.nothing_more()


@pytest.fixture
def page() -> Callable[..., control.GpadlHeader]:
    """Make a GPADL header of one page."""
    return one_page


@pytest.fixture
def opening() -> Callable[..., control.OpenChannel]:
    """Make an open request."""
    return open_channel
