"""What a capture must begin with to decode by itself: the records that led to the state in which it starts.

A snapshot needs no format of its own. It is the control messages that are still in force (contact, offers, GPADLs,
opened channels) and the first packets of each open channel (devices negotiate their versions in them), repeated with
the SNAPSHOT flag and their own time stamps. Whoever decodes a capture reads them like all others, and knows the
state.

:class:`StateKeeper` is shown every record and forgets what is over. Control messages: openvmm
``vmbus_core/src/protocol.rs``, Linux ``include/linux/hyperv.h``; they are declared in ``vmbus.wire.control``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import count

from vmbus.capture.encode import BODY_OFFSET, CHANNEL_OFFSET, FLAGS_OFFSET, KIND_OFFSET
from vmbus.wire.capture import RecordFlags, RecordKind
from vmbus.wire.control import MessageHeader
from vmbus.wire.control_values import MessageType
from vmbus.wire.offer import OfferChannelPre7

FIRST_PACKETS = 32
"""So many packets of an open channel are repeated; VSTOR negotiates in 8, NVSP and RNDIS in about 20."""

MAX_KEPT = 16 << 20
"""Bytes. GPADLs are long, and a hostile guest can make many; more than this is not repeated."""

_WORD = struct.Struct("<I")
_TYPE_AND_IDS = struct.Struct("<I4xII")
_PACKET = int(RecordKind.PACKET)
_OFFER_SIZE = MessageHeader.SIZE + OfferChannelPre7.SIZE
_OFFER_CHANNEL_ID = _OFFER_SIZE - 6
"""Where in an offer the channel id is: it and two more bytes end the oldest variant."""

Kept = list[tuple[int, bytes]]
"""Blocks with the number of their arrival."""


class _Channel:
    """What is kept of one channel."""

    def __init__(self) -> None:
        self.offer: Kept = []
        self.opening: Kept = []
        self.modified: Kept = []
        self.gpadls: dict[int, Kept] = {}
        self.packets: Kept = []

    def all(self) -> Iterator[tuple[int, bytes]]:
        for kept in (self.offer, self.opening, self.modified, self.packets, *self.gpadls.values()):
            yield from kept


class StateKeeper:
    """Keeps the packet blocks that a snapshot repeats.

    ``negotiating`` are the channels whose packets are still wanted; a caller in a hurry need not show packets of
    others.
    """

    def __init__(self) -> None:
        self.negotiating: set[int] = set()
        self.kept_bytes = 0
        self._connection: dict[int, tuple[int, bytes]] = {}
        self._channels: dict[int, _Channel] = {}
        self._gpadl_channels: dict[int, int] = {}
        self._arrival = count()
        self._followers = {
            int(MessageType.RESCIND_CHANNEL_OFFER): self._rescind,
            int(MessageType.OPEN_CHANNEL): self._open,
            int(MessageType.OPEN_RESERVED_CHANNEL): self._open,
            int(MessageType.OPEN_CHANNEL_RESULT): self._open_result,
            int(MessageType.CLOSE_CHANNEL): self._close,
            int(MessageType.CLOSE_RESERVED_CHANNEL): self._close,
            int(MessageType.GPADL_HEADER): self._gpadl_header,
            int(MessageType.GPADL_BODY): self._gpadl_body,
            int(MessageType.GPADL_CREATED): self._gpadl_progress,
            int(MessageType.GPADL_TEARDOWN): self._gpadl_progress,
            int(MessageType.GPADL_TORNDOWN): self._gpadl_torndown,
            int(MessageType.MODIFY_CHANNEL): self._modify,
            int(MessageType.REL_ID_RELEASED): self._released,
        }

    def blocks(self) -> Iterator[bytes]:
        """The blocks of a snapshot, in the order in which they came, marked as such."""
        kept = list(self._connection.values())
        for channel in self._channels.values():
            kept += channel.all()
        for _, block in sorted(kept):
            marked = bytearray(block)
            marked[FLAGS_OFFSET] |= RecordFlags.SNAPSHOT
            yield bytes(marked)

    def follow(self, block: bytes) -> None:
        """Take note of a block made by ``vmbus.capture.encode``; one that changes nothing is ignored."""
        if block[KIND_OFFSET] == _PACKET:
            self._follow_packet(block)
        elif block[KIND_OFFSET] == RecordKind.MESSAGE:
            self._follow_message(block)

    def _follow_packet(self, block: bytes) -> None:
        (channel_id,) = _WORD.unpack_from(block, CHANNEL_OFFSET)
        if channel_id in self.negotiating:
            channel = self._channels[channel_id]
            self._keep(channel.packets, block)
            if len(channel.packets) >= FIRST_PACKETS:
                self.negotiating.discard(channel_id)

    def _follow_message(self, block: bytes) -> None:
        # A message can be shorter than this, a block cannot: what follows the message is then read and not used.
        message_type, first, second = _TYPE_AND_IDS.unpack_from(block, BODY_OFFSET)
        follower = self._followers.get(message_type)
        if follower is not None:
            follower(first, second, block)
        elif message_type == MessageType.OFFER_CHANNEL:
            self._offer(block)
        elif message_type == MessageType.UNLOAD:
            self._forget_connection()
        elif message_type in (
            MessageType.INITIATE_CONTACT,
            MessageType.VERSION_RESPONSE,
            MessageType.REQUEST_OFFERS,
            MessageType.ALL_OFFERS_DELIVERED,
        ):
            if message_type == MessageType.INITIATE_CONTACT:
                self._forget_connection()
            self._connection[message_type] = (next(self._arrival), block)

    def _offer(self, block: bytes) -> None:
        channel_id = offered_channel(block)
        if channel_id is not None:
            self._forget_channel(channel_id)
            self._channels[channel_id] = channel = _Channel()
            self._keep(channel.offer, block)

    def _channel(self, channel_id: int) -> _Channel:
        # A capture can start after the offer: what is known of such a channel is better than nothing.
        return self._channels.setdefault(channel_id, _Channel())

    def _rescind(self, channel_id: int, _: int, block: bytes) -> None:
        self._keep(self._channel(channel_id).offer, block)

    def _released(self, channel_id: int, _: int, block: bytes) -> None:
        self._forget_channel(channel_id)

    def _open(self, channel_id: int, _: int, block: bytes) -> None:
        self._close(channel_id, 0, block)
        self._keep(self._channel(channel_id).opening, block)
        self.negotiating.add(channel_id)

    def _open_result(self, channel_id: int, _: int, block: bytes) -> None:
        self._keep(self._channel(channel_id).opening, block)

    def _close(self, channel_id: int, _: int, block: bytes) -> None:
        channel = self._channel(channel_id)
        self.negotiating.discard(channel_id)
        for kept in (channel.opening, channel.modified, channel.packets):
            self._forget(kept)

    def _modify(self, channel_id: int, _: int, block: bytes) -> None:
        channel = self._channel(channel_id)
        self._forget(channel.modified)
        self._keep(channel.modified, block)

    def _gpadl_header(self, channel_id: int, gpadl_id: int, block: bytes) -> None:
        self._gpadl_channels[gpadl_id] = channel_id
        kept = self._channel(channel_id).gpadls.setdefault(gpadl_id, [])
        self._forget(kept)
        self._keep(kept, block)

    def _gpadl_body(self, _: int, gpadl_id: int, block: bytes) -> None:
        self._gpadl_progress(self._gpadl_channels.get(gpadl_id, 0), gpadl_id, block)

    def _gpadl_progress(self, channel_id: int, gpadl_id: int, block: bytes) -> None:
        channel = self._channels.get(channel_id)
        if channel is not None and gpadl_id in channel.gpadls:
            self._keep(channel.gpadls[gpadl_id], block)

    def _gpadl_torndown(self, gpadl_id: int, _: int, block: bytes) -> None:
        channel = self._channels.get(self._gpadl_channels.pop(gpadl_id, 0))
        if channel is not None:
            self._forget(channel.gpadls.pop(gpadl_id, []))

    def _keep(self, kept: Kept, block: bytes) -> None:
        if self.kept_bytes + len(block) <= MAX_KEPT:
            self.kept_bytes += len(block)
            kept.append((next(self._arrival), block))

    def _forget(self, kept: Kept) -> None:
        self.kept_bytes -= sum(len(block) for _, block in kept)
        kept.clear()

    def _forget_channel(self, channel_id: int) -> None:
        channel = self._channels.pop(channel_id, None)
        if channel is not None:
            self.negotiating.discard(channel_id)
            self.kept_bytes -= sum(len(block) for _, block in channel.all())
            for gpadl_id in channel.gpadls:
                self._gpadl_channels.pop(gpadl_id, None)

    def _forget_connection(self) -> None:
        self._connection.clear()
        self._channels.clear()
        self._gpadl_channels.clear()
        self.negotiating.clear()
        self.kept_bytes = 0


def offered_channel(block: bytes) -> int | None:
    """The id of the channel that an offer's block offers; None if the block is no whole offer."""
    body_length = _WORD.unpack_from(block, 20)[0] - (BODY_OFFSET - 28)
    if body_length < _OFFER_SIZE or _WORD.unpack_from(block, BODY_OFFSET)[0] != MessageType.OFFER_CHANNEL:
        return None
    return int(_WORD.unpack_from(block, BODY_OFFSET + _OFFER_CHANNEL_ID)[0])
