"""Addresses of the form ``scheme:params``; a bare path means ``unix:PATH``.

``unix:PATH`` is a Unix stream socket; ``fd:N`` is a connected socket that was inherited (what tests and the demo use
to join two ends in process).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from vmbus.errors import OptionError, VmbusError
from vmbus.unix_socket import listen_at


class AddressError(VmbusError):
    """An address that cannot be parsed, or that nothing can be reached at."""


class BadAddress(AddressError, OptionError):
    """A text that is no address."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a partition is listened for or found."""

    scheme: str
    params: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.params}"

    @property
    def path(self) -> Path:
        return Path(self.params)


def parse_address(text: str, schemes: tuple[str, ...] = ("unix", "fd")) -> Address:
    """``scheme:params``, or a bare path."""
    scheme, colon, params = text.partition(":")
    if not colon or "/" in scheme:
        scheme, params = "unix", text
    if scheme not in schemes:
        raise BadAddress(f"{text!r}: unknown scheme {scheme!r}; known: {', '.join(schemes)}")
    if not params:
        raise BadAddress(f"{text!r}: nothing after {scheme}:")
    if scheme == "unix" and len(os.fsencode(params)) > 107:
        raise BadAddress(f"{params}: a Unix socket's path has at most 107 bytes, this one {len(os.fsencode(params))}")
    return Address(scheme, params)


def listen(address: Address, *, backlog: int = 16) -> socket.socket:
    """A listening socket at ``unix:PATH``; a socket file that nobody listens on any more is replaced.

    Raises ``AddressError`` when somebody does, or when the path cannot be used.
    """
    if address.scheme != "unix":
        raise AddressError(f"{address}: only unix: addresses can be listened on")
    try:
        return listen_at(address.path, backlog=backlog)
    except OSError as error:
        raise AddressError(f"cannot listen on {address}: {error.strerror or error}") from None


def connect(address: Address) -> socket.socket:
    """A connected stream socket."""
    if address.scheme == "fd":
        try:
            return socket.socket(fileno=int(address.params))
        except (ValueError, OSError):
            raise AddressError(f"{address}: not a socket's file descriptor") from None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address.params)
    except OSError as error:
        connection.close()
        raise AddressError(f"cannot connect to {address}: {error.strerror or error}") from None
    return connection
