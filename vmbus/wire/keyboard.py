"""The synthetic keyboard: raw packets, no pipe header.

The guest asks for a version, the host accepts it and then sends keystrokes; the guest sends the state of its lamps.

Sources: openvmm ``vm/devices/uidevices/src/keyboard/protocol.rs``; Linux 6.12
``drivers/input/serio/hyperv-keyboard.c``; Mile.HyperV ``Mile.HyperV.Guest.Protocols.h`` (``HK_MESSAGE_*``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, bits, rest, u16, u32, variant

MAX_MESSAGE_SIZE = 256


class KeyboardVersion(OpenEnum):
    """Major version in the high half, minor in the low one."""

    WIN8 = 0x00010000


class KeyboardMessageType(OpenEnum):
    """What a keyboard packet is."""

    PROTOCOL_REQUEST = 1
    PROTOCOL_RESPONSE = 2
    EVENT = 3
    SET_LED_INDICATORS = 4


class KeystrokeFlags(OpenFlags):
    """How ``make_code`` is to be read."""

    IS_UNICODE = 1
    IS_BREAK = 2
    IS_E0 = 4
    IS_E1 = 8


class LedFlags(OpenFlags):
    """The lamps, in the order of the Windows keyboard driver (``KEYBOARD_*_LOCK_ON``)."""

    SCROLL_LOCK = 1
    NUM_LOCK = 2
    CAPS_LOCK = 4


class KeyboardProtocolRequest(Format):
    """Guest to host: the version that the guest wants."""

    version: KeyboardVersion = u32(KeyboardVersion)


class KeyboardProtocolResponse(Format):
    """Host to guest: whether it has that version."""

    accepted: int = bits(1, of=32)
    reserved: int = bits(31, default=0)


class Keystroke(Format):
    """Host to guest: a key went down or, with IS_BREAK, up."""

    make_code: int = u16(doc="scan code of set 1, or a UTF-16 code unit with IS_UNICODE")
    padding: int = u16(default=0)
    flags: KeystrokeFlags = u32(KeystrokeFlags)


class LedIndicators(Format):
    """Guest to host: which lamps are on."""

    led_flags: LedFlags = u16(LedFlags)
    padding: int = u16(default=0)


KEYBOARD_BODIES: dict[int, type[Format]] = {
    KeyboardMessageType.PROTOCOL_REQUEST: KeyboardProtocolRequest,
    KeyboardMessageType.PROTOCOL_RESPONSE: KeyboardProtocolResponse,
    KeyboardMessageType.EVENT: Keystroke,
    KeyboardMessageType.SET_LED_INDICATORS: LedIndicators,
}


class KeyboardMessage(Format):
    """Any packet of a keyboard channel, in either direction."""

    message_type: KeyboardMessageType = u32(KeyboardMessageType)
    body: Format | bytes = variant(on="message_type", cases=KEYBOARD_BODIES)
    trailing: bytes = rest(doc="up to the next multiple of 8 bytes")
