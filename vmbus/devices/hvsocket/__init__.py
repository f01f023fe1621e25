"""Hyper-V sockets (AF_VSOCK in a Linux guest), relayed to and from Unix sockets on this side.

``hybrid`` is the convention that names the Unix sockets, ``connection`` one socket: a byte pipe on a channel of its
own, and ``relay`` makes the connections: for those who connect to PATH, and for the guest's wishes.
"""

from vmbus.devices.hvsocket.connection import SocketConnection
from vmbus.devices.hvsocket.relay import VsockRelay

__all__ = ["SocketConnection", "VsockRelay"]
