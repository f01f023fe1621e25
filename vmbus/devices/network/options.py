"""``--nic BACKEND[,mac=02:..][,mtu=1500][,queues=4]``: what the command line says about a card."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vmbus.devices.device import DeviceError
from vmbus.errors import OptionError

_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")
MIN_MTU, MAX_MTU, MAX_QUEUES = 576, 9202, 64


class BadNicOption(DeviceError, OptionError):
    """``--nic`` does not say what it should."""


@dataclass(frozen=True, slots=True)
class NicSpec:
    """A card as the command line describes it."""

    backend: str
    """``scheme:params``"""
    mac: bytes | None = None
    mtu: int | None = None
    queues: int = 1


def parse_nic_option(text: str) -> NicSpec:
    """Read ``--nic``; :class:`BadNicOption` says in one line what is wrong. The backend is not opened."""
    backend, *options = text.split(",")
    if not backend:
        raise BadNicOption("--nic needs a backend, for example --nic embedded or --nic tap:NAME")
    mac: bytes | None = None
    mtu: int | None = None
    queues = 1
    for option in options:
        key, equals, value = option.partition("=")
        if key == "mac" and equals:
            mac = _mac(value)
        elif key == "mtu" and equals:
            mtu = _number("mtu", value, MIN_MTU, MAX_MTU)
        elif key == "queues" and equals:
            queues = _number("queues", value, 1, MAX_QUEUES)
        else:
            raise BadNicOption(f"--nic has no option {option!r}: it has mac=, mtu= and queues=")
    return NicSpec(backend, mac, mtu, queues)


def _mac(text: str) -> bytes:
    if not _MAC.fullmatch(text):
        raise BadNicOption(f"mac={text} is not an Ethernet address such as 02:00:00:00:00:01")
    mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if mac[0] & 1:
        raise BadNicOption(f"mac={text} is a multicast address, and a card cannot have one")
    return mac


def _number(key: str, text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise BadNicOption(f"{key}={text} is not a number from {least} to {most}")
    return int(text)
