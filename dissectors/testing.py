"""Conversations written by hand, as records: for tests of dialects, filters and rules, ours and other people's.

    script = Script()
    script.connect()
    script.offer(3, guids.SCSI)
    script.open(3)
    script.packet(GUEST, 3, request.build(), transaction=7, wants_completion=True)
    for item in script.decode():
        print(item.summary)

Every method adds what a tap would have recorded; time goes on by a microsecond each, or by ``wait``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from dissectors.engine.decoded import Decoded
from dissectors.engine.session import Session
from vmbus.capture import blocks
from vmbus.wire import control as c
from vmbus.wire.capture import (
    Direction,
    ExternalRecord,
    MessageRecord,
    NoteKind,
    NoteRecord,
    PacketRecord,
    RecordFlags,
    RecordKind,
    RegisterRecord,
    SignalRecord,
)  # fmt: skip
from vmbus.wire.control_values import MessageType, Status, Version
from vmbus.wire.hypervisor import Msr
from vmbus.wire.offer import OfferChannel, OfferFlags
from vmbus.wire.ring import PacketDescriptor, PacketFlags, PacketType
from vmbus.wire.schema import Format

GUEST, HOST = Direction.GUEST_TO_HOST, Direction.HOST_TO_GUEST
"""Who sends."""
START_NS = 1_700_000_000_000_000_000
RING_SIZE = 0xF000


class Script:
    """Builds the records of one connection."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []
        self._now = START_NS
        self._written: dict[tuple[int, int], int] = {}
        self._next_gpadl = 0xE1E10

    # Records

    def add(self, data: bytes) -> int:
        """A record as it is; returns its number."""
        self._now += 1000
        self.records.append((self._now, data))
        return len(self.records)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._now += int(seconds * 1e9)

    def message(self, sender: Direction, number: int, body: Format | bytes = b"", *, snapshot: bool = False) -> int:
        """A control message."""
        flags = RecordFlags.SNAPSHOT if snapshot else RecordFlags(0)
        head = MessageRecord(kind=RecordKind.MESSAGE, direction=sender, flags=flags)
        return self.add(head.build() + c.MessageHeader(message_type=MessageType(number)).build() + bytes(body))

    def signal(self, sender: Direction, channel_id: int, connection_id: int = 0) -> int:
        """An event."""
        flag = channel_id if sender == HOST else 0
        return self.add(
            SignalRecord(
                kind=RecordKind.SIGNAL, direction=sender, channel_id=channel_id, connection_id=connection_id, flag=flag
            ).build()
        )

    def packet(
        self,
        sender: Direction,
        channel_id: int,
        payload: Format | bytes,
        *,
        transaction: int = 0,
        wants_completion: bool = False,
        packet_type: PacketType = PacketType.IN_BAND,
        extension: Format | bytes = b"",
        read_index: int | None = None,
        write_index: int | None = None,
    ) -> int:
        """A ring packet, at the place where the last one of that direction ended."""
        body, extra = bytes(payload), bytes(extension)
        body += bytes(-len(body) % 8)
        descriptor = PacketDescriptor(
            packet_type=packet_type,
            data_offset8=(16 + len(extra)) // 8,
            length8=(16 + len(extra) + len(body)) // 8,
            flags=PacketFlags(int(wants_completion)),
            transaction_id=transaction,
        )
        data = descriptor.build() + extra + body
        place = self._written.get((channel_id, sender), 0)
        after = self._written[channel_id, sender] = (place + len(data) + 8) % RING_SIZE
        head = PacketRecord(
            kind=RecordKind.PACKET,
            direction=sender,
            channel_id=channel_id,
            ring_size=RING_SIZE,
            offset=place,
            read_index=place if read_index is None else read_index,
            write_index=after if write_index is None else write_index,
        )
        return self.add(head.build() + data)

    def rewind(self, sender: Direction, channel_id: int, place: int = 0) -> None:
        """Have the next packet of that direction start somewhere else than it should."""
        self._written[channel_id, sender] = place

    def completion(self, sender: Direction, channel_id: int, payload: Format | bytes, *, transaction: int) -> int:
        """A completion packet."""
        return self.packet(sender, channel_id, payload, transaction=transaction, packet_type=PacketType.COMPLETION)

    def external(
        self,
        sender: Direction,
        channel_id: int,
        data: Format | bytes,
        *,
        transaction: int,
        total: int | None = None,
        offset: int = 0,
    ) -> int:
        """Data outside the ring."""
        body = bytes(data)
        head = ExternalRecord(
            kind=RecordKind.EXTERNAL,
            direction=sender,
            channel_id=channel_id,
            transaction_id=transaction,
            total_length=len(body) + offset if total is None else total,
            data_offset=offset,
        )
        return self.add(head.build() + body)

    def register(self, number: int, value: int, vp: int = 0) -> int:
        """A synthetic register that the guest wrote."""
        head = RegisterRecord(kind=RecordKind.REGISTER, direction=GUEST, vp=vp, number=Msr(number), value=value)
        return self.add(head.build())

    def note(self, text: str, kind: NoteKind = NoteKind.TEXT) -> int:
        """A remark."""
        return self.add(NoteRecord(kind=RecordKind.NOTE, note_kind=kind).build() + text.encode())

    # Conversations

    def connect(self, version: Version = Version.V5_3) -> None:
        """Contact, and the host's yes."""
        self.message(GUEST, MessageType.INITIATE_CONTACT, c.InitiateContact5(version=version))
        self.message(HOST, MessageType.VERSION_RESPONSE, c.VersionResponse(version_supported=1))

    def offer(
        self,
        channel_id: int,
        interface_id: UUID,
        *,
        instance: int = 1,
        subchannel: int = 0,
        flags: int = 0,
        user_defined: bytes = b"",
    ) -> int:
        """The host offers a channel."""
        body = OfferChannel(
            interface_id=interface_id,
            instance_id=UUID(int=instance),
            channel_id=channel_id,
            subchannel_index=subchannel,
            flags=OfferFlags(flags),
            user_defined=user_defined,
            connection_id=0x2000 + channel_id,
        )
        return self.message(HOST, MessageType.OFFER_CHANNEL, body)

    def gpadl(self, channel_id: int, pages: int = 1, *, gpadl_id: int | None = None, created: bool = True) -> int:
        """The guest announces memory; returns the GPADL's id."""
        if gpadl_id is None:
            gpadl_id = self._next_gpadl
            self._next_gpadl += 1
        words = (pages * 4096, *range(0x100, 0x100 + pages))
        self.message(
            GUEST,
            MessageType.GPADL_HEADER,
            c.GpadlHeader(
                channel_id=channel_id, gpadl_id=gpadl_id, range_bytes=8 * len(words), range_count=1, words=words
            ),
        )
        if created:
            self.message(
                HOST,
                MessageType.GPADL_CREATED,
                c.GpadlCreated(channel_id=channel_id, gpadl_id=gpadl_id, status=Status.SUCCESS),
            )
        return gpadl_id

    def open(self, channel_id: int, *, status: int = 0, answered: bool = True) -> int:
        """Rings, the request to open, and its answer; returns the rings' GPADL id."""
        gpadl_id = self.gpadl(channel_id, 8)
        self.message(
            GUEST,
            MessageType.OPEN_CHANNEL,
            c.OpenChannel(channel_id=channel_id, ring_gpadl_id=gpadl_id, downstream_page_offset=4),
        )
        if answered:
            self.message(
                HOST,
                MessageType.OPEN_CHANNEL_RESULT,
                c.OpenResult(channel_id=channel_id, open_id=0, status=Status(status)),
            )
        return gpadl_id

    def close(self, channel_id: int) -> int:
        """The guest closes a channel."""
        return self.message(GUEST, MessageType.CLOSE_CHANNEL, c.CloseChannel(channel_id=channel_id))

    def rescind(self, channel_id: int) -> int:
        """The host takes an offer back."""
        return self.message(HOST, MessageType.RESCIND_CHANNEL_OFFER, c.RescindChannelOffer(channel_id=channel_id))

    def release(self, channel_id: int) -> int:
        """The guest lets go of a channel id."""
        return self.message(GUEST, MessageType.REL_ID_RELEASED, c.RelIdReleased(channel_id=channel_id))

    # Results

    def decode(self, session: Session | None = None) -> list[Decoded]:
        """All records through a session."""
        session = session or Session()
        return [session.feed_bytes(data, time_ns) for time_ns, data in self.records]

    def blocks(self) -> Iterable[bytes]:
        """The records as a pcapng section."""
        yield blocks.section_header()
        yield blocks.interface_description("vmbus")
        for time_ns, data in self.records:
            yield blocks.enhanced_packet(0, time_ns, data, direction=data[4] if len(data) > 4 else 0)

    def write(self, path: Path) -> Path:
        """The records as a capture."""
        path.write_bytes(b"".join(self.blocks()))
        return path
