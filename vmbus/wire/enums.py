"""Open enumerations and flags: the wire may hold any integer, and every integer survives a round trip.

A known value is its interned member; an unknown one becomes a member-like object of the same class that is
made on the spot and never kept, so a hostile peer cannot make the process grow by sending new values (the
standard library's ``IntFlag`` caches every combination it meets).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from functools import cache
from typing import Self


class OpenEnum(IntEnum):
    """An integer enumeration that also accepts values it does not know."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int):
            return None
        stranger = int.__new__(cls, value)
        stranger._name_ = f"UNKNOWN_{value:#x}" if value >= 0 else f"UNKNOWN_{value}"
        stranger._value_ = value
        return stranger

    @property
    def is_known(self) -> bool:
        """Whether the value is one that the declaration names."""
        return self._value_ in type(self)._value2member_map_

    def __str__(self) -> str:
        return self._name_

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return (type(self), (self._value_,))


class OpenFlags(IntFlag):
    """A set of flag bits that keeps bits it does not know, and caches no combination."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        if not isinstance(value, int):
            raise ValueError(f"{value!r} is not a valid {cls.__name__}")
        combined = int.__new__(cls, value)
        bits, known = _bits(cls)
        names = [name for bit, name in bits if bit & value == bit]
        unknown = value & ~known
        if unknown:
            names.append(f"{unknown:#x}")
        combined._name_ = "|".join(names) or "0"
        combined._value_ = value
        combined._inverted_ = None  # type: ignore[attr-defined]
        return combined

    @property
    def unknown(self) -> int:
        """The bits that the declaration does not name."""
        return self._value_ & ~_bits(type(self))[1]

    def __str__(self) -> str:
        return self._name_ or "0"

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return (type(self), (self._value_,))


@cache
def _bits(flags: type[OpenFlags]) -> tuple[tuple[tuple[int, str], ...], int]:
    """The values and names of a declaration's flags, and all of their bits together."""
    named = tuple((member.value, member.name or "") for member in flags)
    return named, sum(bit for bit, _ in named)
