"""Rules about rings, signals and transactions, whatever a channel speaks."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dissectors.engine import Decoded
from dissectors.engine.dialect import COMPLETION
from dissectors.engine.pairing import MAX_PENDING
from dissectors.rules.rule import Memory, Severity, rule
from dissectors.rules.watch import GUEST, SECOND, STUCK, Watch

_RING = struct.Struct("<IIII")
_FOOTER = 8
STORM_SIGNALS = 1000
STORM_RATIO = 10


def _ring(item: Decoded) -> tuple[int, int, int, int]:
    """Ring size, offset, read index and write index of a packet record; ring size 0 if unknown."""
    size, offset, read_index, write_index = _RING.unpack_from(item.data, 16)
    return size, offset, read_index, write_index


@rule(
    "EX-01",
    Severity.WARNING,
    "Look at the guest's interrupt_mask for this ring, and at a poll loop that ended without unmasking and rechecking.",
)
def masked_and_stuck(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A ring stays unread although packets lie in it."""
    if not watch.is_packet or not watch.from_host or item.is_snapshot:
        return
    size, offset, read_index, _ = _ring(item)
    if not size:
        return
    seen_index, since = memory.get(item.channel_id, (None, item.time_ns))
    if read_index != seen_index or read_index == offset:
        memory[item.channel_id] = (read_index, item.time_ns)
    elif item.time_ns - since > SECOND:
        memory[item.channel_id] = (read_index, item.time_ns)
        unread = (offset - read_index) % size
        waited = (item.time_ns - since) / SECOND
        yield f"the guest has not read {unread} bytes of the ring of {watch.name(item)} for {waited:.1f} s"


@rule("EX-02", Severity.WARNING, "Look at the host: it must answer the open request before it uses the rings.")
def data_before_open_result(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """The host writes to a channel before it answered the request to open it."""
    life = item.channel
    if not watch.is_packet or not watch.from_host or life is None or life.opened or not life.open_requested:
        return
    if memory.get(item.channel_id) != life.open_requested:
        memory[item.channel_id] = life.open_requested
        yield f"a packet lies in the ring of {watch.name(item)}, whose open request has no answer yet"


@rule(
    "EX-03", Severity.WARNING, "Look at when the guest may signal: only after the channel's open request was answered."
)
def signal_before_open(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """The guest signals a channel that is not open."""
    life = item.channel
    if not watch.is_signal or not watch.from_guest or life is None or not life.offered:
        return
    if not life.open_requested and not life.closed and not life.rescinded and item.channel_id not in memory:
        memory[item.channel_id] = True
        yield f"the guest signals {watch.name(item)}, which it has not opened: the signal is lost"


@rule(
    "EX-04", Severity.ERROR, "Look at who had to complete it, and whether the packet was taken out of the ring at all."
)
def never_completed(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A request is not completed."""
    if item.lost:
        memory.clear()
    if watch.is_packet and item.wants_completion and not item.is_snapshot:
        if len(memory) >= MAX_PENDING:  # as a session does: of a broken peer's requests there is no end
            del memory[next(iter(memory))]
        memory[id(item)] = item
    elif watch.is_packet and item.request is not None:
        memory.pop(id(item.request), None)
    elif watch.message.name in ("CLOSE_CHANNEL", "REL_ID_RELEASED", "UNLOAD"):
        for key, request in list(memory.items()):
            if item.channel_id in (0, request.channel_id):
                del memory[key]
    yield from ()


@never_completed.at_end
def _still_waiting(watch: Watch, memory: Memory) -> Iterator[tuple[Decoded, str]]:
    for request in memory.values():
        age = watch.now - request.time_ns
        if age > STUCK:
            yield request, f"{request.summary} on {watch.name(request)} is not completed after {age / SECOND:.1f} s"


@rule(
    "EX-07",
    Severity.ERROR,
    "Look at the memory barriers of the reader: it must read the write index before the packet.",
)
def not_where_the_last_one_ended(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A packet does not start where the one before it ended."""
    if item.lost:
        memory.clear()
    if watch.message.name in ("OPEN_CHANNEL", "CLOSE_CHANNEL"):
        for direction in (1, 2):
            memory.pop((item.channel_id, direction), None)
    if not watch.is_packet or item.is_snapshot:
        return
    size, offset, _, _ = _ring(item)
    if not size:
        return
    key = (item.channel_id, item.direction)
    expected = memory.get(key)
    memory[key] = (offset + len(item.data) - item.body_at + _FOOTER) % size
    if expected is not None and expected != offset:
        yield f"a packet on {watch.name(item)} starts at {offset} of its ring; the one before it ended at {expected}"


@rule("EX-24", Severity.ERROR, "Look at what was completed twice, or at a transaction id that was changed on the way.")
def unknown_transaction(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A completion of something that nobody asked for."""
    if not watch.is_packet or item.packet_type != COMPLETION or item.request is not None:
        return
    life = item.channel
    if watch.saw_start and life is not None and life.opened and not watch.lost and item.transaction_id:
        yield f"{watch.name(item)}: no request with transaction id {item.transaction_id:#x} waits for a completion"


@rule("EX-33", Severity.WARNING, "Look at the sender: it may signal only when the ring was empty and the mask is 0.")
def signal_storm(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """Many more signals than packets."""
    if not item.channel_id or not (watch.is_signal or watch.is_packet):
        return
    key = item.channel_id
    start, signals, packets = memory.get(key, (item.time_ns, 0, 0))
    if item.time_ns - start > SECOND:
        start, signals, packets = item.time_ns, 0, 0
    signals, packets = signals + watch.is_signal, packets + watch.is_packet
    if signals >= STORM_SIGNALS and signals > STORM_RATIO * max(packets, 1):
        yield f"{signals} signals and {packets} packets within a second on {watch.name(item)}"
        start, signals, packets = item.time_ns, 0, 0
    memory[key] = (start, signals, packets)


@rule("EX-26", Severity.ERROR, "Look at the sender of this record: the receiver must refuse it.")
def out_of_range(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
    """A length, an offset or a count that does not fit the bytes there are."""
    if item.is_partial or item.kind == 0 or _omits_status_buffer(item):
        return
    for problem in item.problems[len(item.notes) :][:1]:
        sender = "guest" if item.direction == GUEST else "host"
        yield f"what the {sender} sent on {watch.name(item)} is malformed: {problem}"


def _omits_status_buffer(item: Decoded) -> bool:
    """Whether it is what rule EX-34 is about."""
    from dissectors.rules.network import omits_status_buffer

    return omits_status_buffer(item)
