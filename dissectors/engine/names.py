"""What fields are called outside their format: ``vmbus.ring.packet_descriptor.transaction_id``.

The filter language, Wireshark and the exports all use these names.  The parts are the module of ``vmbus.wire`` that
declares the format, the format in snake case, and the field.
"""

from __future__ import annotations

import re
from functools import cache

from vmbus.wire.protocols import ABBREVIATIONS
from vmbus.wire.schema import Format


@cache
def snake(name: str) -> str:
    """``GpaDirectHeader`` as ``gpa_direct_header``; ``VStorPacket`` as ``v_stor_packet``; ``IC`` stays one word."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@cache
def module_name(fmt: type[Format]) -> str:
    """What declares a format: ``scsi`` for ``vmbus.wire.scsi.block``, ``kvp`` for ``vmbus.wire.ic.kvp``."""
    parts = fmt.__module__.split(".")
    below = parts[parts.index("wire") + 1 :] if "wire" in parts else parts[-1:]
    return below[-1] if below[-1] in ABBREVIATIONS else below[0]


@cache
def format_name(fmt: type[Format]) -> str:
    """``vmbus.ring.gpa_direct_header``."""
    return f"vmbus.{module_name(fmt)}.{snake(fmt.__name__)}"


@cache
def field_name(fmt: type[Format], field: str) -> str:
    """``vmbus.ring.gpa_direct_header.range_count``."""
    return f"{format_name(fmt)}.{field}"
