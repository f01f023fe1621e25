"""One channel goes on where an earlier process stopped: what is owed is handled again, what waited is sent.

docs/state-format.md has the order of things that makes each request complete exactly once.
"""

from __future__ import annotations

from collections import Counter

from vmbus.channel import Channel
from vmbus.host.journal import ChannelDebt
from vmbus.host.journal_reader import Indices
from vmbus.host.state_document import packet_from_json
from vmbus.ring import RingPacket
from vmbus.ring.packet import COMPLETION, TRANSFER_PAGES, OutgoingPacket
from vmbus.state_format import State


class TakeOver:
    """What a channel has to do before it goes on: handle again what was not answered, send what was not sent."""

    def __init__(self, channel: Channel, owed: list[RingPacket]) -> None:
        self.channel = channel
        self.owed = owed

    def run(self) -> None:
        self.channel.take_over(self.owed)
        self.channel.service()


def take_over(channel: Channel, saved: State | None, debt: ChannelDebt | None) -> TakeOver:
    """Give a channel what an earlier process left of it; what is left to do, when the guest can be signalled again."""
    debt = debt or ChannelDebt()
    unsent: list[OutgoingPacket] = []
    if saved is not None:
        channel.target_vp = saved["target_vp"]
        skip = max(debt.sent_total - saved["sent_total"], 0)
        unsent = [packet_from_json(packet) for packet in saved["unsent"]][skip:]
    loans = {packet[2]: bytes(packet[3]) for packet in unsent if packet[0] == TRANSFER_PAGES}
    channel.adopt(unsent, debt.lent | loans, debt.to_skip)
    debt.to_skip = 0
    answered = Counter(packet[2] for packet in unsent if packet[0] == COMPLETION)
    return TakeOver(channel, _without(debt.packets(), answered))


def _without(owed: list[RingPacket], answered: Counter[int]) -> list[RingPacket]:
    """What has no answer yet; of packets with the same transaction id the first ones were answered first."""
    left = []
    for packet in owed:
        if answered[packet.transaction_id]:
            answered[packet.transaction_id] -= 1
        else:
            left.append(packet)
    return left


def indices_of(channels: dict[int, Channel]) -> Indices:
    """The rings of open channels as they stand, before anything of them is used."""

    def indices(channel_id: int) -> tuple[int, int] | None:
        channel = channels.get(channel_id)
        return None if channel is None else (channel.incoming.position, channel.outgoing.position)

    return indices
