"""``tap:NAME``: a card whose cable ends in a TAP interface of this machine.

A persistent interface that belongs to the user needs no privileges: ``ip tuntap add dev NAME mode tap user USER``. A
name that does not exist yet is made, which needs CAP_NET_ADMIN, and goes away with the host.

Frames travel with the kernel's own offload header (``virtio_net_hdr``), so that a guest's large sends cross as one
frame, and a stream of the kernel's comes as frames of up to 64 KiB, without checksums, if the guest wants segments
coalesced. The interface keeps the offload settings of whoever used it last, so they are set every time.

Sources: Linux 6.12 ``Documentation/networking/tuntap.rst``, ``drivers/net/tun.c``, ``include/uapi/linux/if_tun.h``,
``include/uapi/linux/virtio_net.h``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import socket
from collections.abc import Sequence
from struct import Struct
from typing import Final

from vmbus.devices.device import DeviceError
from vmbus.devices.network.backend import Backend, Buffer, Deliver, GuestFrame, Offload
from vmbus.devices.network.options import BadNicOption
from vmbus.devices.network.segmentation import completed_headers, transport_offset
from vmbus.loop import Loop
from vmbus.state_format import State

TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCGIFMTU = 0x8913, 0x8914, 0x8921
IFF_UP = 1
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4

_REQUEST: Final = Struct("16sh22x")  # struct ifreq with ifr_flags
_MTU_REQUEST: Final = Struct("16si20x")  # struct ifreq with ifr_mtu
_HEADER: Final = Struct("<BBHHHH")  # struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
_NEEDS_CHECKSUM, _CHECKSUM_IS_RIGHT = 1, 2
_GSO_TCP4, _GSO_TCP6 = 1, 4
_NOTHING: Final = bytes(_HEADER.size)
_NAME: Final = re.compile(r"[^\s/:%]{1,15}")

LARGEST_MTU: Final = 16320
FRAMES_PER_TURN: Final = 64
"""Frames read from the interface before others get their turn."""


class TapNetwork(Backend):
    """A TAP interface."""

    takes_offloads = True
    coalesces = True

    def __init__(self, name: str) -> None:
        """Open the interface; :class:`DeviceError` says why that cannot be."""
        self.name = name
        self._fd = _open(name)
        self.mtu = _bring_up(name)
        self._loop: Loop | None = None
        self._deliver: Deliver | None = None
        self._head = bytearray(_HEADER.size)
        self._excess = bytearray(1)
        """Where a frame ends that is longer than there is place for: that is how it is noticed."""
        self.lost = 0

    def start(self, loop: Loop, deliver: Deliver) -> None:
        self._loop, self._deliver = loop, deliver
        loop.watch(self._fd, self._readable)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.unwatch(self._fd)
        self._loop = self._deliver = None

    def coalesce(self, ipv4: bool, ipv6: bool) -> None:
        if self._fd < 0:  # closed
            return
        try:
            _set_offloads(self._fd, (ipv4 or ipv6) * TUN_F_CSUM | ipv4 * TUN_F_TSO4 | ipv6 * TUN_F_TSO6)
        except OSError as error:
            if error.errno != errno.EBADFD:  # deleted: nothing comes from it any more
                raise DeviceError(f"cannot set up the TAP interface {self.name}: {error.strerror}") from None

    def _readable(self) -> None:
        deliver, loop = self._deliver, self._loop
        if deliver is None or loop is None:
            return
        fd, head, excess = self._fd, self._head, self._excess
        try:
            for _ in range(FRAMES_PER_TURN):
                places = deliver.place()
                if not places:
                    loop.rewatch(fd, 0)
                    break
                length = os.readv(fd, (head, *places, excess)) - len(head)
                # Its checksum is left to us, so the frame is the kernel's own, or it was looked at on its way.
                deliver.placed(length, head[0] & (_NEEDS_CHECKSUM | _CHECKSUM_IS_RIGHT) != 0)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EBADFD:  # the interface was deleted: there is nothing to read any more
                raise DeviceError(f"cannot read from the TAP interface {self.name}: {error.strerror}") from None
            self.stop()
        finally:
            deliver.send()

    def resume(self) -> None:
        if self._loop is not None:
            self._loop.rewatch(self._fd, select.EPOLLIN)

    def transmit(self, frames: Sequence[GuestFrame]) -> None:
        fd = self._fd
        for frame, offload in frames:
            pieces: tuple[Buffer, ...]
            if offload is None or not offload.fill_transport:
                pieces = (_NOTHING, frame)
            elif offload.segment_size:
                pieces = _large(frame, offload)
            else:
                where = 16 if offload.is_tcp else 6
                pieces = (_HEADER.pack(_NEEDS_CHECKSUM, 0, 0, 0, transport_offset(frame, offload), where), frame)
            try:
                os.writev(fd, pieces)
            except OSError:
                # No room in the kernel, the interface is down, or the frame makes no sense: a wire loses it too.
                self.lost += 1

    def close(self) -> None:
        self.stop()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def inspect(self) -> State:
        return {"interface": self.name, "mtu": self.mtu, "lost": self.lost}


def _large(frame: Buffer, offload: Offload) -> tuple[Buffer, ...]:
    """A large send for the kernel to cut; only its headers are copied."""
    headers = completed_headers(frame, offload)
    transport = len(headers) - 20
    end = transport + (headers[transport + 12] >> 4) * 4
    kind = _GSO_TCP6 if offload.is_ipv6 else _GSO_TCP4
    head = _HEADER.pack(_NEEDS_CHECKSUM, kind, end, offload.segment_size, transport, 16)
    return head, headers, memoryview(frame)[len(headers) :]


def _open(name: str) -> int:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"cannot open /dev/net/tun: {error.strerror}") from None
    try:
        fcntl.ioctl(fd, TUNSETIFF, _REQUEST.pack(name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, _HEADER.size.to_bytes(4, "little"))
        _set_offloads(fd, 0)
    except OSError as error:
        os.close(fd)
        raise DeviceError(f"cannot use the TAP interface {name}: {_reason(name, error)}") from None
    return fd


def _set_offloads(fd: int, offloads: int) -> None:
    """What the kernel may leave to us in the frames that it sends."""
    fcntl.ioctl(fd, TUNSETOFFLOAD, offloads)


def _reason(name: str, error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "another process has it open"
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"not permitted; make it once with: ip tuntap add dev {name} mode tap user $USER"
    if error.errno == errno.EINVAL:
        return "there is an interface of that name, and it is no TAP interface"
    return error.strerror or str(error)


def _bring_up(name: str) -> int:
    """Switch the interface on if we may, and return its MTU."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, _REQUEST.pack(name.encode(), 0))
        _, flags = _REQUEST.unpack(answer)
        if not flags & IFF_UP:
            try:
                fcntl.ioctl(control, SIOCSIFFLAGS, _REQUEST.pack(name.encode(), flags | IFF_UP))
            except PermissionError:
                pass  # its owner switches it on
        _, mtu = _MTU_REQUEST.unpack(fcntl.ioctl(control, SIOCGIFMTU, _MTU_REQUEST.pack(name.encode(), 0)))
        return min(int(mtu), LARGEST_MTU)


def backend_from(params: str) -> Backend:
    """``NAME``"""
    if not _NAME.fullmatch(params):
        raise BadNicOption(f"tap:{params} is not tap:NAME, with the name of an interface of up to 15 characters")
    return TapNetwork(params)
