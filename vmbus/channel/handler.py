"""What others attach to a channel: the handler of its packets, and a journal that outlives the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vmbus.ring import RingPacket
from vmbus.ring.packet import OutgoingPacket


class ChannelHandler:
    """What acts on a channel's packets; a device or a driver derives from it and overrides what it needs."""

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        """Act on up to 64 packets, in the order in which they were sent."""

    def on_writable(self) -> None:
        """The ring had no room for all that was sent, and now the backlog is empty again."""

    def on_rest(self) -> None:
        """No more packets have come, and the peer will signal the next one: time for answers that were held back."""

    def on_loans(self, loans: Mapping[int, bytes]) -> None:
        """The channel was another process's before: what that one lent to the peer by transfer-page packets, and has
        not back; the packets' ranges (``parse_transfer_pages``) by transaction id.
        """

    def on_close(self) -> None:
        """The channel ends: drop requests in flight, and release every view of the guest's memory."""

    def inspect(self) -> dict[str, Any]:
        """Live state for ``vmbus ctl inspect``: requests under way and their ages, above all."""
        return {}


class ChannelJournal(Protocol):
    """Remembers, in a place that outlives the process, what was taken out of the ring and not answered yet."""

    def taken(self, before: int, after: int, packets: Sequence[RingPacket]) -> None:
        """A batch is about to be handled; the read index goes from ``before`` to ``after`` when it has been."""

    def handled(self) -> None:
        """The batch has been handled; its answers wait to be sent."""

    def sent(self, before: int, after: int, packets: Sequence[OutgoingPacket]) -> None:
        """Packets are in the ring, and about to be shown to the peer: the write index goes to ``after``."""
