"""The numpy face: a format's head as a structured dtype, to read a column out of a million records at once.

Bytes, padding, GUIDs and nested formats with bit fields become void fields of their size; integers keep their byte
order.  Bit fields share their integer's column, named after the first of the group.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from vmbus.wire.schema import Field, Format, FormatMeta, Kind


@cache
def dtype_of(fmt: type[Format]) -> np.dtype[Any]:
    """The dtype of a format's fixed-size head: ``itemsize`` is ``fmt.SIZE``, offsets are those on the wire."""
    names: list[str] = []
    kinds: list[Any] = []
    offsets: list[int] = []
    position = 0
    for field in fmt.FIELDS:
        if not field.is_head or not field.size:
            continue
        names.append(field.name)
        kinds.append(_kind(field))
        offsets.append(position)
        position += field.size
    return np.dtype({"names": names, "formats": kinds, "offsets": offsets, "itemsize": fmt.SIZE})


def _kind(field: Field) -> Any:
    if field.kind in (Kind.INT, Kind.BITS) and field.size != 3:
        return f"{'>' if field.big else '<'}{'i' if field.signed else 'u'}{field.size}"
    if field.kind is Kind.NESTED and isinstance(field.element, FormatMeta):
        return dtype_of(field.element)
    if field.kind is Kind.ARRAY and isinstance(field.element, FormatMeta):
        return (dtype_of(field.element), (field.number,))
    if field.kind is Kind.ARRAY and isinstance(field.element, Field):
        return (_kind(field.element), (field.number,))
    return f"V{field.size}"
