"""The guest end of a storage controller: negotiation, requests on all channels, and disks to read and write.

:class:`StorageLink` is the event-driven core over open channels. :class:`StorageDriver` opens them on a
:class:`~vmbus.drivers.driver.DriverBus`; :class:`Disk` is the synchronous face for tests and tools.

Sources: Linux 6.12 ``drivers/scsi/storvsc_drv.c`` (``storvsc_channel_init``, ``storvsc_do_io``); mu_msvm
``MsvmPkg/StorvscDxe/StorvscDxe.c``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from vmbus.channel import Channel, ChannelHandler
from vmbus.drivers.driver import ChannelOffer, Driver, DriverBus
from vmbus.drivers.errors import DriverError
from vmbus.drivers.promise import Promise
from vmbus.errors import VmbusError
from vmbus.gpadl import GpaRange
from vmbus.memory import PAGE_SHIFT, PAGE_SIZE
from vmbus.ring.packet import COMPLETION
from vmbus.wire.schema import Format, WireError
from vmbus.wire.scsi.opcodes import Cdb
from vmbus.wire.scsi.sense import FixedSense, sense_format
from vmbus.wire.vstor import (
    IDE_INTERFACE_ID,
    MAX_REQUEST,
    SCSI_INTERFACE_ID,
    ChannelProperties,
    DataDirection,
    NoBody,
    PropertiesCompletion,
    ProtocolVersion,
    ScsiCompletion,
    ScsiCompletionV1,
    ScsiRequest,
    ScsiRequestV1,
    ScsiStatus,
    SrbStatus,
    SubchannelCount,
    VersionCompletion,
    VstorFlags,
    VstorHeader,
    VstorOperation,
    VstorRequest,
    VstorStatus,
    VstorVersion,
    request_size,
)  # fmt: skip

if TYPE_CHECKING:
    from vmbus.pages import PageAllocator
    from vmbus.ring import RingPacket

VERSIONS = (VstorVersion.WIN10, VstorVersion.WIN8_1, VstorVersion.WIN8, VstorVersion.WIN7, VstorVersion.WIN6)
"""What this driver proposes, the best first."""


class Address(NamedTuple):
    """Where a unit is on its controller."""

    path: int = 0
    target: int = 0
    lun: int = 0


FIRST_UNIT = Address()


class ScsiError(DriverError):
    """A SCSI command failed; ``completion`` says how."""

    def __init__(self, completion: Completion) -> None:
        text = f"SCSI status {completion.scsi_status}, SRB status {completion.srb_status}"
        sense = completion.sense_data
        if sense is not None:
            text = f"{sense.key}: {sense.additional}"
        super().__init__(text)
        self.completion = completion


class Completion(NamedTuple):
    """How a command ended."""

    status: VstorStatus
    srb_status: SrbStatus
    scsi_status: ScsiStatus
    transferred: int
    sense: bytes

    @property
    def is_good(self) -> bool:
        return self.scsi_status == ScsiStatus.GOOD and self.srb_status == SrbStatus.SUCCESS

    @property
    def sense_data(self) -> FixedSense | None:
        """Sense data in the fixed layout, if there is any."""
        return FixedSense.parse(self.sense) if self.sense and sense_format(self.sense) is FixedSense else None


class GuestBuffer:
    """Pages of the guest for a request's data; ``scattered`` pages are no neighbours of each other."""

    def __init__(self, pages: PageAllocator, size: int, *, offset: int = 0, scattered: bool = False) -> None:
        """``offset`` is where in the first page the data starts."""
        self.size = size
        self._pages = pages
        count = max((offset + size + PAGE_SIZE - 1) >> PAGE_SHIFT, 1)
        self.range = GpaRange(size, offset, pages.allocate(count, scattered=scattered, zero=False))

    @property
    def views(self) -> list[memoryview]:
        return self.range.views(self._pages.memory)

    def read(self, size: int | None = None) -> bytes:
        """A copy of what is in it."""
        return b"".join(self.views)[:size]

    def write(self, data: bytes) -> None:
        """Fill it from the start."""
        rest = memoryview(data)
        for view in self.views:
            view[: len(rest)] = rest[: len(view)]
            rest = rest[len(view) :]

    def release(self) -> None:
        """Give the pages back."""
        self._pages.free(self.range.pfns)


class StorageLink:
    """A controller as the guest sees it: what was negotiated, its channels, its requests under way."""

    def __init__(self, primary: Channel) -> None:
        self.version = VERSIONS[0]
        self.properties = ChannelProperties()
        self.channels: list[Channel] = []
        self.on_rescan: Callable[[], object] = lambda: None
        """The host asks to look at all units again."""
        self.error: DriverError | None = None
        self._next_id = 1
        self._pending: dict[int, Promise[Any]] = {}
        self._parsers: dict[int, Callable[[bytes], Any]] = {}
        self._turn = 0
        self.add_channel(primary)

    def add_channel(self, channel: Channel) -> None:
        """Use another channel: the primary one first, then subchannels."""
        channel.handler = _LinkHandler(self)
        self.channels.append(channel)

    @property
    def outstanding(self) -> int:
        """Requests that the host has not completed."""
        return len(self._pending)

    # Operations

    def operate(self, operation: VstorOperation, body: Format | None = None) -> Promise[tuple[VstorStatus, bytes]]:
        """Send an operation on the primary channel; the promise is of its status and of the whole answer."""
        request = VstorRequest(operation=operation, flags=VstorFlags.REQUEST_COMPLETION, body=body or NoBody())
        payload = request.build().ljust(VstorHeader.SIZE + MAX_REQUEST, b"\0")

        def parse(answer: bytes) -> tuple[VstorStatus, bytes]:
            return VstorHeader.parse(answer).status, answer

        return self._send(self.channels[0], payload, None, parse)

    def negotiate(self, versions: Sequence[VstorVersion] = VERSIONS) -> Promise[ChannelProperties]:
        """Do the initialization; the promise is of the controller's properties."""
        return _Negotiation(self, versions).done

    def create_subchannels(self, count: int) -> Promise[tuple[VstorStatus, bytes]]:
        """Ask for subchannels; the host offers them, and :meth:`add_channel` takes each when it is open."""
        return self.operate(VstorOperation.CREATE_SUB_CHANNELS, SubchannelCount(count=count))

    def reset(self, operation: VstorOperation, address: Address = FIRST_UNIT) -> Promise[tuple[VstorStatus, bytes]]:
        """RESET_LUN, RESET_BUS or RESET_ADAPTER."""
        body = ScsiRequest(path=address.path, target=address.target, lun=address.lun, cdb=b"")
        return self.operate(operation, body)

    # Commands

    def execute(
        self, address: Address, cdb: bytes | Cdb, buffer: GuestBuffer | None, direction: DataDirection
    ) -> Promise[Completion]:
        """Send a command on the next channel in turn. The buffer must live until the promise is settled."""
        fmt = ScsiRequest if self.version >= VstorVersion.WIN8 else ScsiRequestV1
        srb = fmt(
            length=request_size(self.version),
            path=address.path,
            target=address.target,
            lun=address.lun,
            direction=direction if buffer is not None else DataDirection.NONE,
            data_length=buffer.size if buffer is not None else 0,
            cdb=cdb if isinstance(cdb, bytes) else cdb.build(),
        )
        head = VstorHeader(operation=VstorOperation.EXECUTE_SRB, flags=VstorFlags.REQUEST_COMPLETION)
        self._turn += 1
        channel = self.channels[self._turn % len(self.channels)]
        return self._send(channel, head.build() + srb.build(), buffer, self._parse_completion)

    def _parse_completion(self, answer: bytes) -> Completion:
        fmt = ScsiCompletion if len(answer) >= ScsiCompletion.SIZE else ScsiCompletionV1
        completion = fmt.parse(answer)
        result = completion.result
        sense = result.sense if result.autosense_valid else b""
        return Completion(completion.status, result.srb_status, result.scsi_status, result.data_length, sense)

    def _send(
        self, channel: Channel, payload: bytes, buffer: GuestBuffer | None, parse: Callable[[bytes], Any]
    ) -> Promise[Any]:
        promise: Promise[Any] = Promise()
        if self.error is not None:
            promise.reject(self.error)
            return promise
        transaction_id, self._next_id = self._next_id, self._next_id + 1
        self._pending[transaction_id] = promise
        self._parsers[transaction_id] = parse
        if buffer is None:
            channel.send_in_band(payload, transaction_id=transaction_id, completion_requested=True)
        else:
            channel.send_gpa_direct([buffer.range], payload, transaction_id=transaction_id)
        return promise

    # Answers

    def completed(self, packet: RingPacket) -> None:
        """A completion packet came. One that answers nothing is an error of the host's, and is left out."""
        promise = self._pending.pop(packet.transaction_id, None)
        if promise is None:
            return
        try:
            promise.resolve(self._parsers.pop(packet.transaction_id)(packet.payload))
        except WireError as error:
            promise.reject(DriverError(f"the host completed a storage request with {error}"))

    def fail(self, error: DriverError) -> None:
        """The controller is gone: every request under way fails, and every later one."""
        self.error = error
        pending, self._pending = self._pending, {}
        self._parsers.clear()
        for promise in pending.values():
            promise.reject(error)


class _LinkHandler(ChannelHandler):
    def __init__(self, link: StorageLink) -> None:
        self._link = link

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        for packet in packets:
            if packet.packet_type == COMPLETION:
                self._link.completed(packet)
            elif len(packet.payload) >= VstorHeader.SIZE:
                operation = VstorHeader.parse(packet.payload).operation
                if operation in (VstorOperation.ENUMERATE_BUS, VstorOperation.REMOVE_DEVICE):
                    self._link.on_rescan()

    def on_close(self) -> None:
        self._link.fail(DriverError("the storage controller's channel was closed"))


class _Negotiation:
    """The steps of the initialization, each taken when the answer to the one before is there."""

    def __init__(self, link: StorageLink, versions: Sequence[VstorVersion]) -> None:
        self.done: Promise[ChannelProperties] = Promise()
        self._link = link
        self._versions = deque(versions)
        self._step(VstorOperation.BEGIN_INITIALIZATION, None, self._propose)

    def _step(
        self, operation: VstorOperation, body: Format | None, after: Callable[[VstorStatus, bytes], None]
    ) -> None:
        self._link.operate(operation, body).then(partial(self._answered, after))

    def _answered(
        self, after: Callable[[VstorStatus, bytes], None], promise: Promise[tuple[VstorStatus, bytes]]
    ) -> None:
        try:
            after(*promise.result())
        except DriverError as error:
            self.done.reject(error)

    def _propose(self, status: VstorStatus, answer: bytes) -> None:
        if status != VstorStatus.SUCCESS:
            raise DriverError(f"the storage controller refuses to be initialized: {status}")
        if not self._versions:
            raise DriverError("the storage controller takes none of this driver's protocol versions")
        body = ProtocolVersion(version=self._versions[0])
        self._step(VstorOperation.QUERY_PROTOCOL_VERSION, body, self._version_answered)

    def _version_answered(self, status: VstorStatus, answer: bytes) -> None:
        version = self._versions.popleft()
        if status == VstorStatus.REVISION_MISMATCH:
            self._propose(VstorStatus.SUCCESS, b"")
            return
        self._check(status, "its version")
        self._link.version = VersionCompletion.parse(answer).result.version if answer else version
        self._step(VstorOperation.QUERY_PROPERTIES, None, self._properties_answered)

    def _properties_answered(self, status: VstorStatus, answer: bytes) -> None:
        self._check(status, "its properties")
        self._link.properties = PropertiesCompletion.parse(answer).result
        self._step(VstorOperation.END_INITIALIZATION, None, self._ended)

    def _ended(self, status: VstorStatus, answer: bytes) -> None:
        self._check(status, "the end of its initialization")
        self.done.resolve(self._link.properties)

    @staticmethod
    def _check(status: VstorStatus, what: str) -> None:
        if status != VstorStatus.SUCCESS:
            raise DriverError(f"the storage controller answers {status} when asked for {what}")


class StorageDriver(Driver):
    """Drives one controller: opens its primary channel, negotiates, and opens subchannels as they are offered."""

    interface_ids = (SCSI_INTERFACE_ID, IDE_INTERFACE_ID)

    def __init__(
        self,
        *,
        versions: Sequence[VstorVersion] = VERSIONS,
        ring_pages: int = 32,
        subchannels: int = 0,
    ) -> None:
        """``subchannels`` is how many to ask for; the host may have fewer. They are spread over the processors."""
        self.ready: Promise[StorageLink] = Promise()
        self.link: StorageLink | None = None
        self._versions = versions
        self._ring_pages = ring_pages
        self._subchannels = subchannels
        self._bus: DriverBus | None = None

    def attach(self, bus: DriverBus, offer: ChannelOffer) -> None:
        self._bus = bus
        opened = bus.open(offer, self._ring_pages, self._ring_pages, ChannelProperties().build())
        opened.then(self._opened)

    def _opened(self, promise: Promise[Channel]) -> None:
        try:
            link = self.link = StorageLink(promise.result())
        except VmbusError as error:
            self.ready.reject(error)
            return
        link.negotiate(self._versions).then(partial(self._negotiated, link))

    def _negotiated(self, link: StorageLink, promise: Promise[ChannelProperties]) -> None:
        try:
            wanted = min(self._subchannels, promise.result().max_subchannels)
        except DriverError as error:
            self.ready.reject(error)
            return
        if wanted:
            link.create_subchannels(wanted).then(lambda _: self.ready.resolve(link))
        else:
            self.ready.resolve(link)

    def subchannel_offered(self, offer: ChannelOffer) -> None:
        if self._bus is not None and self.link is not None:
            vp = offer.subchannel_index % self._bus.processors
            self._bus.open(offer, self._ring_pages, self._ring_pages, target_vp=vp).then(self._subchannel_opened)

    def _subchannel_opened(self, opened: Promise[Channel]) -> None:
        with suppress(VmbusError):  # the controller works without it
            channel = opened.result()
            if self.link is not None:
                self.link.add_channel(channel)

    def detach(self) -> None:
        if self.link is not None:
            self.link.fail(DriverError("the storage controller was taken away"))

    def inspect(self) -> dict[str, Any]:
        if self.link is None:
            return {"state": "opening"}
        return {
            "state": "failed" if self.link.error else "ready" if self.ready.done else "negotiating",
            "version": str(self.link.version),
            "channels": len(self.link.channels),
            "outstanding": self.link.outstanding,
        }
