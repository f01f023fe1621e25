"""Rules about the control plane: offers, opening and closing, rescinds, contact, pausing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from uuid import UUID

from dissectors.engine import Decoded
from dissectors.rules.rule import Memory, Severity, rule
from dissectors.rules.watch import SECOND, STUCK, Watch
from vmbus.wire import control as c
from vmbus.wire.capture import RecordKind
from vmbus.wire.control_values import (
    EVENT_CONNECTION_ID,
    MESSAGE_CONNECTION_ID,
    MULTICLIENT_CONNECTION_ID,
    NO_MONITOR,
    REDIRECT_MESSAGE_CONNECTION_ID,
    FeatureFlags,
    MessageType,
)  # fmt: skip
from vmbus.wire.hypervisor import Msr
from vmbus.wire.offer import OfferChannel

_VALUE = struct.Struct("<IIQ")
_FIRST = struct.Struct("<I")
_ID_AT = 24
"""Where a message record holds the connection id."""
STORM_OFFERS = 16


@rule(
    "EX-16",
    Severity.ERROR,
    "Look at the guest's open: it waits for an answer that will never come, so it must give up.",
)
def rescind_while_opening(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A channel is rescinded while its open request waits."""
    life = item.channel
    if watch.message != MessageType.RESCIND_CHANNEL_OFFER or life is None:
        return
    request = life.open_requested
    if request and not life.opened and life.open_status is None:
        yield f"{watch.name(item)} was rescinded before its open request (record {request}) was answered"


@rule(
    "EX-17",
    Severity.WARNING,
    "Look at the guest's suspend or remove path: it may handle the rescind on a channel that is gone.",
)
def rescind_during_unload(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A rescind while the guest unloads."""
    if watch.message == MessageType.UNLOAD:
        memory["unloading"] = item.number
    elif watch.message in (MessageType.UNLOAD_COMPLETE, MessageType.INITIATE_CONTACT):
        memory.clear()
    elif watch.message == MessageType.RESCIND_CHANNEL_OFFER and memory:
        yield f"{watch.name(item)} was rescinded after the guest's unload in record {memory['unloading']}"


@rule("EX-18", Severity.WARNING, "Look at who changes the device so often, and at whether the guest keeps up.")
def offer_storm(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """The same device is offered and rescinded many times within a second."""
    if watch.message not in (MessageType.OFFER_CHANNEL, MessageType.RESCIND_CHANNEL_OFFER) or item.channel is None:
        return
    if item.is_snapshot:
        return
    key: UUID = item.channel.instance_id
    times = [time for time in memory.get(key, ()) if item.time_ns - time <= SECOND] + [item.time_ns]
    memory[key] = times
    if len(times) >= STORM_OFFERS:
        memory[key] = []
        yield f"{len(times)} offers and rescinds of {item.channel.name} {key} within a second"


@rule(
    "EX-19",
    Severity.ERROR,
    "Look at the guest: it must say that it released the channel id; and at the host: it must wait for that.",
)
def released_too_late(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A channel id is used again before it was released, or never released after a rescind."""
    if watch.message == MessageType.RESCIND_CHANNEL_OFFER:
        memory[item.channel_id] = item
    elif watch.message == MessageType.REL_ID_RELEASED:
        memory.pop(item.channel_id, None)
    elif watch.message in (MessageType.UNLOAD_COMPLETE, MessageType.INITIATE_CONTACT):
        memory.clear()
    elif watch.message == MessageType.OFFER_CHANNEL and item.channel_id in memory:
        rescind = memory.pop(item.channel_id)
        yield f"channel id {item.channel_id}, rescinded in record {rescind.number}, is offered again before its release"


@released_too_late.at_end
def _never_released(watch: Watch, memory: Memory) -> Iterator[tuple[Decoded, str]]:
    for item in memory.values():
        if watch.now - item.time_ns > STUCK:
            yield item, f"channel id {item.channel_id} was rescinded and not released in {STUCK // SECOND} s"


@rule(
    "EX-20",
    Severity.ERROR,
    "Look at the order in which the guest sets up its message page, and at hosts that do not check it.",
)
def message_without_a_page(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A message for a processor whose message page is disabled."""
    if item.kind == RecordKind.REGISTER and len(item.data) >= 32:
        vp, number, value = _VALUE.unpack_from(item.data, 16)
        if number == Msr.SIMP:
            memory[vp] = bool(value & 1)
    elif item.kind == RecordKind.MESSAGE and watch.from_host and not item.is_snapshot:
        vp = _FIRST.unpack_from(item.data, 16)[0]
        if memory.get(vp) is False:
            yield f"the host sent a message to VP {vp}, whose message page (SIMP) is disabled"


@rule(
    "EX-21",
    Severity.ERROR,
    "Look at the connection id: the offer says which to signal, the version response which to post to.",
)
def unknown_connection(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """The guest posts or signals on a connection that does not exist."""
    posts: set[int] = memory.setdefault(
        "posts", {0, MESSAGE_CONNECTION_ID, MULTICLIENT_CONNECTION_ID, REDIRECT_MESSAGE_CONNECTION_ID}
    )
    events: set[int] = memory.setdefault("events", {0, EVENT_CONNECTION_ID})
    if isinstance(watch.body, c.VersionResponse):
        posts.add(int(watch.body.version_or_connection_id))
    elif isinstance(watch.body, (OfferChannel, c.OpenChannel2)):
        events.add(watch.body.connection_id)
    if not watch.from_guest or item.is_snapshot or not watch.saw_start:
        return
    if item.kind == RecordKind.MESSAGE and watch.message != MessageType.INITIATE_CONTACT:
        connection_id = _FIRST.unpack_from(item.data, _ID_AT)[0]
        if connection_id not in posts:
            yield f"the guest posted {watch.message} on connection {connection_id:#x}, which nobody gave it"
    elif watch.is_signal:
        connection_id = _FIRST.unpack_from(item.data, 16)[0]
        if connection_id not in events:
            yield f"the guest signalled connection {connection_id:#x}, which belongs to no offer: the signal is lost"


@rule(
    "EX-22",
    Severity.ERROR,
    "Look at the monitor pages in the contact message: without them the guest cannot use a monitor id.",
)
def monitor_without_pages(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """An offer has a monitor id although there are no monitor pages."""
    body = watch.body
    if isinstance(body, (c.InitiateContact, c.InitiateContact5)):
        memory["pages"] = bool(body.parent_to_child_monitor_page and body.child_to_parent_monitor_page)
    elif isinstance(body, c.VersionResponse3):
        given = body.features & FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES and body.child_to_parent_monitor_page
        memory["pages"] = memory.get("pages", True) or bool(given)
    elif isinstance(body, c.ModifyConnection):
        memory["pages"] = bool(body.child_to_parent_monitor_page)
    has_monitor = isinstance(body, OfferChannel) and body.monitor_allocated & 1 and body.monitor_id != NO_MONITOR
    if isinstance(body, OfferChannel) and has_monitor and memory.get("pages") is False:
        yield f"{watch.name(item)} has monitor id {body.monitor_id}, and the guest gave no monitor pages"


_ANSWERS = {
    MessageType.INITIATE_CONTACT: MessageType.VERSION_RESPONSE,
    MessageType.REQUEST_OFFERS: MessageType.ALL_OFFERS_DELIVERED,
    MessageType.OPEN_CHANNEL: MessageType.OPEN_CHANNEL_RESULT,
    MessageType.GPADL_HEADER: MessageType.GPADL_CREATED,
    MessageType.GPADL_TEARDOWN: MessageType.GPADL_TORNDOWN,
    MessageType.UNLOAD: MessageType.UNLOAD_COMPLETE,
    MessageType.MODIFY_CONNECTION: MessageType.MODIFY_CONNECTION_RESPONSE,
    MessageType.PAUSE: MessageType.PAUSE_RESPONSE,
}
_ANSWERED = {answer: request for request, answer in _ANSWERS.items()}


@rule("EX-23", Severity.ERROR, "Look at the host's log for this message; guests wait for it without a limit.")
def unanswered_message(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A control message is not answered."""
    if item.lost:
        memory.clear()
    which = getattr(watch.body, "gpadl_id", 0) or getattr(watch.body, "channel_id", 0)
    if item.is_snapshot:
        return
    if watch.message in _ANSWERS:
        memory[watch.message, which] = item
    elif watch.message in _ANSWERED:
        memory.pop((_ANSWERED[watch.message], which), None)
        if watch.message == MessageType.UNLOAD_COMPLETE:
            memory.clear()
    elif watch.message == MessageType.RESCIND_CHANNEL_OFFER:
        for key in [key for key, waiting in memory.items() if waiting.channel_id == item.channel_id]:
            del memory[key]
    yield from ()


@unanswered_message.at_end
def _still_unanswered(watch: Watch, memory: Memory) -> Iterator[tuple[Decoded, str]]:
    for item in memory.values():
        if watch.now - item.time_ns > STUCK:
            yield item, f"{item.summary} has no answer after {(watch.now - item.time_ns) / SECOND:.1f} s"


@rule(
    "EX-28",
    Severity.ERROR,
    "Look at the guest: from version 5.3 on it must wait for the response before it moves a channel again.",
)
def two_modifications(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A channel is moved again before the response to the first move."""
    if watch.message == MessageType.MODIFY_CHANNEL_RESPONSE:
        memory.pop(item.channel_id, None)
    elif watch.message == MessageType.MODIFY_CHANNEL and (watch.session.plane.version or 0) >= 0x50003:
        earlier = memory.get(item.channel_id)
        memory[item.channel_id] = item.number
        if earlier is not None:
            yield f"{watch.name(item)} is moved again; record {earlier} has no response yet"


@rule("EX-29", Severity.ERROR, "Look at who did not keep the silence between Pause and Resume.")
def message_while_paused(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A message between Pause and Resume."""
    if watch.message in (MessageType.RESUME, MessageType.INITIATE_CONTACT, MessageType.UNLOAD):
        memory.clear()
    elif watch.message == MessageType.PAUSE:
        memory["guest"] = item.number
    elif watch.message == MessageType.PAUSE_RESPONSE:
        memory["host"] = item.number
    elif watch.message and watch.from_guest and "guest" in memory:
        yield f"the guest sent {watch.message} while the connection is paused since record {memory['guest']}"
    elif watch.message and watch.from_host and "host" in memory:
        yield f"the host sent {watch.message} after it answered the pause in record {memory['host']}"


@rule(
    "EX-30",
    Severity.ERROR,
    "Look at the guest's memory: rings of many pages in one piece are hard to get once it is fragmented.",
)
def not_opened(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """Opening a channel fails, or a subchannel is never opened."""
    if isinstance(watch.body, c.OpenResult) and not watch.body.status.succeeded:
        yield f"opening {watch.name(item)} failed with {watch.body.status}"
    if watch.message == MessageType.OFFER_CHANNEL and item.channel is not None and item.channel.subchannel_index:
        memory[item.channel_id] = item
    elif watch.message in (MessageType.OPEN_CHANNEL, MessageType.RESCIND_CHANNEL_OFFER):
        memory.pop(item.channel_id, None)
    elif watch.message == MessageType.UNLOAD:
        memory.clear()


@not_opened.at_end
def _offered_in_vain(watch: Watch, memory: Memory) -> Iterator[tuple[Decoded, str]]:
    for item in memory.values():
        if watch.now - item.time_ns > STUCK:
            yield item, f"the guest asked for {watch.name(item)} and has not opened it in {STUCK // SECOND} s"


@rule("EX-35", Severity.WARNING, "Look for a listener on that service, and at how the connecting end waits.")
def socket_refused(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A socket's connect request is refused or not answered."""
    body = watch.body
    if isinstance(body, c.TlConnectRequest):
        memory[body.service_id, body.endpoint_id] = item
    elif isinstance(body, c.TlConnectResult):
        memory.pop((body.service_id, body.endpoint_id), None)
        if not body.status.succeeded:
            yield f"the connection to service {body.service_id} was refused with {body.status}"
    elif isinstance(body, OfferChannel):
        memory.pop((body.interface_id, body.instance_id), None)


@socket_refused.at_end
def _socket_unanswered(watch: Watch, memory: Memory) -> Iterator[tuple[Decoded, str]]:
    for item in memory.values():
        if watch.now - item.time_ns > STUCK:
            yield item, f"{item.summary} has no answer after {(watch.now - item.time_ns) / SECOND:.1f} s"
