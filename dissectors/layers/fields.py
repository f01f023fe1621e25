"""The few scapy fields that scapy itself does not have: bit groups of either order, and bodies chosen by an expression.

Scapy's ``BitField`` swaps the bytes of some little-endian groups (a member that ends on a byte boundary before the
last one), so bit groups are read here from the whole integer, as the declarations in ``vmbus.wire`` define them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scapy.fields import BitEnumField, BitField, StrField
from scapy.packet import Packet, Raw
from scapy.volatile import RandBin, RandNum

PacketClass = type[Any]
Chooser = Callable[[Any, int], PacketClass | None]
"""``(packet, bytes left) -> the layer of the body``, or None for plain bytes."""


class _Bits:
    """Reads and writes ``width`` bits at ``shift`` of an integer of ``container`` bytes that several fields share."""

    __slots__ = ()

    def getfield(self: Any, pkt: Any, s: Any) -> tuple[Any, Any]:
        data = s[0] if isinstance(s, tuple) else s
        if len(data) < self.container:
            raise ValueError(f"{self.name}: {self.container} bytes needed, {len(data)} left")
        whole = int.from_bytes(data[: self.container], self.order)
        value = whole >> self.shift & (1 << self.size) - 1
        return (data[self.container :] if self.is_last else (data,)), self.m2i(pkt, value)

    def addfield(self: Any, pkt: Any, s: Any, val: Any) -> Any:
        built, whole = s if isinstance(s, tuple) else (s, 0)
        whole |= (int(self.i2m(pkt, val)) & (1 << self.size) - 1) << self.shift
        return built + whole.to_bytes(self.container, self.order) if self.is_last else (built, whole)


class GroupBitsField(_Bits, BitField):  # type: ignore[misc]
    """Bits of a shared integer."""

    __slots__ = ["container", "is_last", "order", "shift"]

    def __init__(self, name: str, default: int, width: int, shift: int, container: int, order: str, is_last: bool):
        BitField.__init__(self, name, default, width)
        self.shift, self.container, self.order, self.is_last = shift, container, order, is_last


class GroupBitsEnumField(_Bits, BitEnumField):  # type: ignore[misc]
    """Bits of a shared integer, with names for their values."""

    __slots__ = ["container", "is_last", "order", "shift"]

    def __init__(
        self,
        name: str,
        default: int,
        width: int,
        shift: int,
        container: int,
        order: str,
        is_last: bool,
        names: dict[int, str],
    ):
        BitEnumField.__init__(self, name, default, width, names)
        self.shift, self.container, self.order, self.is_last = shift, container, order, is_last


class BodyField(StrField):  # type: ignore[misc]
    """A body whose layer is chosen by a tag, ``Raw`` when none fits.  Takes up all that its layer does not leave."""

    __slots__ = ["choose", "length_from"]
    holds_packets = 1

    def __init__(self, name: str, default: Any, choose: Chooser, length_from: Callable[[Any], int] | None = None):
        StrField.__init__(self, name, default if isinstance(default, Packet) else Raw(load=default or b""))
        self.choose, self.length_from = choose, length_from

    def getfield(self, pkt: Any, s: bytes) -> tuple[bytes, Any]:
        if self.length_from is not None:
            length = min(self.length_from(pkt), len(s))  # a snap length may have cut it short
            left, body = self._dissect(pkt, s[:length])
            return s[length:], Raw(load=bytes(s[:length])) if left else body
        return self._dissect(pkt, s)

    def _dissect(self, pkt: Any, s: bytes) -> tuple[bytes, Any]:
        layer = self.choose(pkt, len(s))
        if layer is None:
            return b"", Raw(load=bytes(s))
        body = layer(s, _parent=pkt)
        left = body.payload.original if body.payload else b""
        body.remove_payload()
        return left, body

    def i2m(self, pkt: Any, x: Any) -> bytes:
        return bytes(x) if x is not None else b""

    def addfield(self, pkt: Any, s: bytes, val: Any) -> bytes:
        return s + self.i2m(pkt, val)

    def any2i(self, pkt: Any, x: Any) -> Any:
        if not isinstance(x, Packet):
            x = Raw(load=bytes(x or b""))
        if pkt is not None:
            x.add_parent(pkt)
        return x

    def i2repr(self, pkt: Any, x: Any) -> str:
        return repr(x)

    def i2len(self, pkt: Any, x: Any) -> int:
        return len(self.i2m(pkt, x))

    def do_copy(self, x: Any) -> Any:
        return x.copy()

    def randval(self) -> Any:
        return Raw(load=RandBin(RandNum(0, 64)))
