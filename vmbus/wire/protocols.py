"""The protocols of VMBus devices: for each interface GUID, how its channel's bytes are read.

A decoder needs nothing else: :func:`protocol_of` an offer's GUIDs, whether packets begin with a pipe header, the root
formats in both directions, and the format of a completion, which may depend on the request that it completes.

Sources: for pipe or raw, openvmm's offers (``ChannelType`` and ``MessagePipe::new`` or ``new_raw`` of each device) and
Linux's drivers; for the rest, the module of each protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from vmbus.wire import guids, nvsp, vstor
from vmbus.wire.crash import CrashMessage
from vmbus.wire.dynamic_memory import MemoryMessage
from vmbus.wire.gel import LogMessage
from vmbus.wire.get.message import GetMessage
from vmbus.wire.hvsocket import port_of_service
from vmbus.wire.ic.framework import IcMessage
from vmbus.wire.keyboard import KeyboardMessage
from vmbus.wire.mouse import MouseMessage
from vmbus.wire.schema import Buffer, Format, rest
from vmbus.wire.serial import SerialMessage
from vmbus.wire.video import VideoMessage
from vmbus.wire.vmbfs import VmbfsMessage
from vmbus.wire.vpci import VpciMessage, VpciMessageType, vpci_completion
from vmbus.wire.vstor import VstorOperation

Root = type[Format] | None
CompletionHook = Callable[[Buffer | None, Buffer], Root]
"""``request, completion -> format``; the request is None if it was not seen."""


class Framing(Enum):
    """What the payload of a channel's packets begins with."""

    RAW = "the message itself, filled up to a multiple of 8 bytes"
    MESSAGES = "a pipe header; each packet is one message"
    STREAM = "a pipe header; packets are pieces of a byte stream"


class StreamBytes(Format):
    """Bytes of a stream: whatever the two programs at its ends say to each other."""

    stream: bytes = rest(payload=True)


def _no_completion(request: Buffer | None, completion: Buffer) -> Root:
    return None


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one kind of channel is read."""

    abbreviation: str
    """Short and stable, as filters and file names use it: ``scsi``, ``net``, ``kvp``, ``vpci``."""
    title: str
    framing: Framing
    guest_to_host: Root
    """The format of what the guest sends, completions apart; None if no source lays it out."""
    host_to_guest: Root
    completion_format: CompletionHook = _no_completion
    """The format of a completion packet's payload; gives None where completions are empty or unknown."""

    @property
    def is_pipe(self) -> bool:
        """Whether packets begin with a pipe header."""
        return self.framing is not Framing.RAW


def _first_word(data: Buffer | None, default: int) -> int:
    return default if data is None or len(data) < 4 else int.from_bytes(data[:4], "little")


def vstor_completion(request: Buffer | None, completion: Buffer) -> Root:
    """A storage completion: laid out by the operation that was asked for; EXECUTE_SRB if that was not seen."""
    operation = _first_word(request, VstorOperation.EXECUTE_SRB)
    return vstor.completion_format(operation, len(completion))


def nvsp_completion(request: Buffer | None, completion: Buffer) -> Root:
    """A network completion says itself what it is; some are empty."""
    return nvsp.NvspCompletion if len(completion) >= nvsp.NvspCompletion.SIZE else None


def vpci_completion_of(request: Buffer | None, completion: Buffer) -> Root:
    """A vPCI completion: laid out by the request's type; the status alone if that was not seen."""
    return vpci_completion(_first_word(request, VpciMessageType.FDO_D0_EXIT), len(completion))


def _same(abbreviation: str, title: str, framing: Framing, root: Root) -> Protocol:
    """A protocol whose root format is the same in both directions, without completions."""
    return Protocol(abbreviation, title, framing, root, root)


def _storage(abbreviation: str, title: str) -> Protocol:
    return Protocol(abbreviation, title, Framing.RAW, vstor.VstorRequest, vstor.VstorRequest, vstor_completion)


def _component(abbreviation: str, title: str) -> Protocol:
    return _same(abbreviation, title, Framing.MESSAGES, IcMessage)


_RAW, _MESSAGES = Framing.RAW, Framing.MESSAGES

PROTOCOLS: dict[UUID, Protocol] = {
    guids.SCSI: _storage("scsi", "storage: SCSI controller"),
    guids.IDE: _storage("ide", "storage: IDE accelerator"),
    guids.FIBRE_CHANNEL: _storage("fc", "storage: fibre channel"),
    guids.NETWORK: Protocol("net", "network", _RAW, nvsp.NvspMessage, nvsp.NvspMessage, nvsp_completion),
    guids.VPCI: Protocol("vpci", "virtual PCI", _RAW, VpciMessage, VpciMessage, vpci_completion_of),
    guids.KEYBOARD: _same("keyboard", "keyboard", _RAW, KeyboardMessage),
    guids.MOUSE: _same("mouse", "mouse (HID)", _MESSAGES, MouseMessage),
    guids.VIDEO: _same("video", "synthetic video", _MESSAGES, VideoMessage),
    guids.DYNAMIC_MEMORY: _same("balloon", "dynamic memory", _RAW, MemoryMessage),
    guids.HEARTBEAT: _component("heartbeat", "heartbeat"),
    guids.KVP: _component("kvp", "key-value pairs"),
    guids.SHUTDOWN: _component("shutdown", "shutdown"),
    guids.TIMESYNC: _component("timesync", "time synchronization"),
    guids.VSS: _component("vss", "volume snapshots"),
    guids.GUEST_SERVICES: _component("fcopy", "guest services: file copy"),
    guids.RDV: _component("rdv", "remote desktop virtualization"),
    guids.IC_NEGOTIATE: _component("ic", "integration component negotiation"),
    guids.SERIAL: _same("serial", "serial port", _MESSAGES, SerialMessage),
    guids.VMBFS: _same("vmbfs", "files for the firmware", _MESSAGES, VmbfsMessage),
    guids.GUEST_EMULATION: _same("get", "guest emulation transport", _MESSAGES, GetMessage),
    guids.CRASH_DUMP: _same("crash", "guest crash dump", _MESSAGES, CrashMessage),
}
"""By the interface id of an offer."""

GEL_INSTANCE = UUID("aa5de534-d149-487a-9053-05972ba20a7c")
GEL = _same("gel", "guest emulation log", _MESSAGES, LogMessage)
HVSOCKET = _same("hvsocket", "hvsocket stream", Framing.STREAM, StreamBytes)

ABBREVIATIONS: dict[str, Protocol] = {p.abbreviation: p for p in (*PROTOCOLS.values(), GEL, HVSOCKET)}
"""By abbreviation, for "decode as"."""


def protocol_of(interface_id: UUID, instance_id: UUID | None = None, *, is_hvsocket: bool = False) -> Protocol | None:
    """The protocol of an offered channel; None if no source publishes it.

    ``is_hvsocket``: the offer's flags say TLNPI_PROVIDER, so that the interface id is some service's.
    """
    if instance_id == GEL_INSTANCE and interface_id == guids.GUEST_EMULATION:
        return GEL
    if is_hvsocket or port_of_service(interface_id) is not None:
        return HVSOCKET
    return PROTOCOLS.get(interface_id)
