"""What belongs together in a capture, as objects: requests with their data and answers, frames by card, channel lives.

    for command in scsi_commands(session.feed_all(records)):
        print(command.name, command.latency_ns, command.status, command.sense)

Each generator takes decoded records in order and yields an object when it is complete, or at the end when it never was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dissectors.engine import Decoded
from dissectors.engine.commands import blocks_of, command_name
from dissectors.engine.dialect import COMPLETION
from dissectors.engine.dialects.network import COMPLETE, REQUESTS, Network, frames_of, rndis_head
from dissectors.engine.dialects.storage import EXECUTE_SRB, Storage, cdb_of, operation_of
from vmbus.wire.capture import RecordKind
from vmbus.wire.scsi import sense_format
from vmbus.wire.scsi.sense import DescriptorSense, FixedSense
from vmbus.wire.vstor import ScsiCompletion, ScsiCompletionV1, ScsiResultV1, SrbStatus

_PACKET, _EXTERNAL = int(RecordKind.PACKET), int(RecordKind.EXTERNAL)


@dataclass
class Transaction:
    """A ring packet that asks for a completion, the data outside the ring that it points at, and its completion."""

    request: Decoded
    data: list[Decoded] = field(default_factory=list)
    completion: Decoded | None = None

    @property
    def latency_ns(self) -> int | None:
        """From the request to the completion; None while there is none."""
        return None if self.completion is None else self.completion.time_ns - self.request.time_ns


@dataclass
class ScsiCommand(Transaction):
    """A transaction that carries a SCSI command."""

    @property
    def cdb(self) -> bytes:
        return cdb_of(self.request)

    @property
    def name(self) -> str:
        """``READ_10 lba 2048 +8``."""
        return command_name(self.cdb)

    @property
    def blocks(self) -> tuple[int, int] | None:
        """First block and number of blocks, of a command that names some."""
        return blocks_of(self.cdb)

    @property
    def result(self) -> ScsiResultV1 | None:
        """How it ended; None if it has not, or if the completion is too short to say."""
        done = self.completion
        if done is None:
            return None
        for fmt in (ScsiCompletion, ScsiCompletionV1):
            if len(done.data) - done.payload_at >= fmt.SIZE:
                return fmt.parse(done.data, done.payload_at).result
        return None

    @property
    def status(self) -> SrbStatus | None:
        return None if self.result is None else self.result.srb_status

    @property
    def sense(self) -> FixedSense | DescriptorSense | None:
        """The sense data, if the completion says that it has some."""
        result = self.result
        if result is None or not result.autosense_valid:
            return None
        fmt = sense_format(result.sense)
        return None if fmt is None else fmt.parse(result.sense)


@dataclass
class RndisExchange:
    """An RNDIS request (initialize, query, set, reset, keepalive) and its answer, each in a ring packet of its own."""

    request: Decoded
    answer: Decoded | None = None


@dataclass(frozen=True)
class Frame:
    """An Ethernet frame that a card sent or received."""

    item: Decoded
    card: str
    """The channel's id and name."""
    data: bytes
    """As much of it as was recorded."""
    length: int


def transactions(items: Iterable[Decoded]) -> Iterator[Transaction]:
    """Every request with its data and its completion, in the order of completion; at the end those without."""
    waiting: dict[int, Transaction] = {}
    for item in items:
        if item.kind == _PACKET and item.wants_completion:
            waiting[id(item)] = _transaction(item)
        elif item.request is None:
            continue
        elif item.kind == _EXTERNAL and id(item.request) in waiting:
            waiting[id(item.request)].data.append(item)
        elif item.kind == _PACKET and item.packet_type == COMPLETION:
            found = waiting.pop(id(item.request), None)
            if found is not None:
                found.completion = item
                yield found
    yield from waiting.values()


def _transaction(request: Decoded) -> Transaction:
    is_command = isinstance(request.dialect, Storage) and operation_of(request) == EXECUTE_SRB
    return ScsiCommand(request) if is_command else Transaction(request)


def scsi_commands(items: Iterable[Decoded]) -> Iterator[ScsiCommand]:
    """Every SCSI command."""
    return (found for found in transactions(items) if isinstance(found, ScsiCommand))


def rndis_exchanges(items: Iterable[Decoded]) -> Iterator[RndisExchange]:
    """Every RNDIS request with its answer; at the end those without."""
    waiting: dict[int, RndisExchange] = {}
    for item in items:
        if item.kind != _EXTERNAL or not isinstance(item.dialect, Network):
            continue
        number = rndis_head(item)[0]
        if number in REQUESTS:
            waiting[id(item)] = RndisExchange(item)
        elif number & COMPLETE and item.request is not None and id(item.request) in waiting:
            found = waiting.pop(id(item.request))
            found.answer = item
            yield found
    yield from waiting.values()


def frames(items: Iterable[Decoded]) -> Iterator[Frame]:
    """Every Ethernet frame of every card, in order."""
    for item in items:
        if isinstance(item.dialect, Network):
            for frame, length in frames_of(item):
                yield Frame(item, item.channel_name, frame, length)
