"""How a guest and a storage controller agree, before any command: VSTOR's initialization, sans-I/O.

The order is BEGIN_INITIALIZATION, QUERY_PROTOCOL_VERSION (again with an older version while the host refuses),
QUERY_PROPERTIES, CREATE_SUB_CHANNELS if the guest wants any, END_INITIALIZATION. Linux creates its subchannels after
the end, Windows before it; both are right. Anything out of order is answered with INVALID_DEVICE_STATE and changes
nothing.

Sources: openvmm ``vm/devices/storage/storvsp/src/lib.rs`` (``process_primary``); Linux 6.12
``drivers/scsi/storvsc_drv.c`` (``storvsc_channel_init``, ``handle_multichannel_storage``).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from vmbus.errors import VmbusError
from vmbus.wire.schema import Format
from vmbus.wire.vstor import (
    ChannelProperties,
    PropertyFlags,
    ProtocolVersion,
    SubchannelCount,
    VstorOperation,
    VstorStatus,
    VstorVersion,
)  # fmt: skip

VERSIONS = frozenset(VstorVersion)

Answer = tuple[VstorStatus, bytes]
"""The status of an operation, and the body that answers it."""


class Stage(Enum):
    """What the controller waits for."""

    BEGIN = "begin"
    VERSION = "version"
    PROPERTIES = "properties"
    END = "end"
    READY = "ready"


class Negotiation:
    """The state of one controller's initialization, from the opening of its primary channel to its close."""

    def __init__(self, *, max_subchannels: int, max_transfer: int, create_subchannels: Callable[[int], object]) -> None:
        """``create_subchannels(count)`` offers them; it raises :class:`VmbusError` if it cannot."""
        self.stage = Stage.BEGIN
        self.version: VstorVersion | None = None
        self.subchannels = 0
        self._max_subchannels = max_subchannels
        self._max_transfer = max_transfer
        self._create_subchannels = create_subchannels

    @property
    def is_ready(self) -> bool:
        return self.stage is Stage.READY

    @property
    def has_subchannels(self) -> bool:
        """Whether the negotiated version knows subchannels."""
        return self.version is not None and self.version >= VstorVersion.WIN8

    @property
    def has_notifications(self) -> bool:
        """Whether the host may tell the guest to look at the bus again."""
        return self.is_ready and self.version is not None and self.version >= VstorVersion.WIN7

    def reset(self) -> None:
        """The primary channel was closed."""
        self.stage, self.version, self.subchannels = Stage.BEGIN, None, 0

    def answer(self, operation: int, body: Format | bytes) -> Answer:
        """Take one operation of the initialization and say what to answer."""
        match self.stage, operation, body:
            case Stage.BEGIN, VstorOperation.BEGIN_INITIALIZATION, _:
                self.stage = Stage.VERSION
            case Stage.VERSION, VstorOperation.QUERY_PROTOCOL_VERSION, ProtocolVersion():
                return self._take_version(body)
            case Stage.PROPERTIES, VstorOperation.QUERY_PROPERTIES, _:
                self.stage = Stage.END
                return VstorStatus.SUCCESS, self._properties().build()
            case Stage.END | Stage.READY, VstorOperation.CREATE_SUB_CHANNELS, SubchannelCount():
                return self._take_subchannels(body.count), b""
            case Stage.END, VstorOperation.END_INITIALIZATION, _:
                self.stage = Stage.READY
            case _:
                return VstorStatus.INVALID_DEVICE_STATE, b""
        return VstorStatus.SUCCESS, b""

    def _take_version(self, proposal: ProtocolVersion) -> Answer:
        body = ProtocolVersion(version=proposal.version).build()
        if proposal.version not in VERSIONS:
            return VstorStatus.REVISION_MISMATCH, body
        self.version = proposal.version
        self.stage = Stage.PROPERTIES
        return VstorStatus.SUCCESS, body

    def _properties(self) -> ChannelProperties:
        multi = self.has_subchannels
        return ChannelProperties(
            max_subchannels=self._max_subchannels if multi else 0,
            flags=PropertyFlags.SUPPORTS_MULTI_CHANNEL if multi else PropertyFlags(0),
            max_transfer=self._max_transfer,
        )

    def _take_subchannels(self, count: int) -> VstorStatus:
        if not self.has_subchannels:
            return VstorStatus.INVALID_DEVICE_STATE
        if count > self._max_subchannels:
            return VstorStatus.INVALID_PARAMETER
        try:
            self._create_subchannels(count)
        except VmbusError:
            return VstorStatus.INVALID_PARAMETER
        self.subchannels = count
        return VstorStatus.SUCCESS

    def save(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "stage": self.stage.value,
            "version": None if self.version is None else int(self.version),
            "subchannels": self.subchannels,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`save` gave."""
        self.stage = Stage(state["stage"])
        self.version = None if state["version"] is None else VstorVersion(state["version"])
        self.subchannels = state["subchannels"]
