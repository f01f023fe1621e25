"""What the commands of a disk look at, beside its blocks: ``block_commands`` stands between this and ``disk``."""

from __future__ import annotations

import threading
from typing import ClassVar

from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.media import MediaUnit


class DiskUnit(MediaUnit):
    """Base of :class:`~vmbus.devices.storage.disk.ScsiDisk`."""

    max_compare_blocks: ClassVar[int] = 8
    """Of one COMPARE AND WRITE."""

    def __init__(self, identity: Identity, sector: int, physical: int) -> None:
        """``physical`` is the block size that the disk recommends; bytes, as ``sector``."""
        super().__init__(identity, sector)
        self.physical_exponent = (physical // sector).bit_length() - 1
        self.write_cache = True
        self.comparing = threading.Lock()
        """Held by COMPARE AND WRITE, so that two of them never mix."""
