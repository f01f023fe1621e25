"""A backend that can lose its power, over another one: what was not flushed is gone, or only partly there.

It proves that every flush a guest was told about is durable: cut the power at any moment, and look at the base.
Unflushed blocks are kept in memory, so it is for disks of test size.
"""

from __future__ import annotations

import errno
import random
import threading
from typing import Any

from vmbus.devices.storage.backend import Backend, errno_error, open_backend
from vmbus.devices.storage.buffers import Views, cut, scatter, total_length


class PowerCutBackend(Backend):
    """Keeps writes to itself until a flush; owns ``base``."""

    is_quick = True
    quick_writes = True

    def __init__(self, base: Backend) -> None:
        self.base = base
        self.size = base.size
        self.files = base.files
        self.block_size = base.block_size
        self.flushes = 0
        self.has_power = True
        self._pending: dict[int, bytes] = {}
        self._lock = threading.Lock()
        """Writes come from the loop, flushes and forced writes also from workers."""

    def _check(self) -> None:
        if not self.has_power:
            raise errno_error(errno.EIO, "the disk has no power")

    def read_into(self, views: Views, offset: int) -> None:
        with self._lock:
            self._check()
            self.base.read_into(views, offset)
            if not self._pending:
                return
            size = total_length(views)
            whole = bytearray(b"".join(views))
            for start in range(0, size, self.block_size):
                block = self._pending.get(offset + start)
                if block is not None:
                    whole[start : start + self.block_size] = block
            scatter(whole, cut(views, size))

    def write_from(self, views: Views, offset: int) -> None:
        data = b"".join(views)
        with self._lock:
            self._check()
            for start in range(0, len(data), self.block_size):
                self._pending[offset + start] = data[start : start + self.block_size]

    def flush(self) -> None:
        with self._lock:
            self._check()
            for offset, block in self._pending.items():
                self.base.write_from([memoryview(block)], offset)
            self._pending.clear()
            self.base.flush()
            self.flushes += 1

    def cut_power(self, survivors: random.Random | None = None) -> int:
        """Lose what was not flushed; each such block survives with a chance of one half if ``survivors`` is given.

        Returns how many blocks were lost. Every later request fails until :meth:`restore_power`.
        """
        with self._lock:
            self.has_power = False
            lost = 0
            for offset, block in self._pending.items():
                if survivors is not None and survivors.random() < 0.5:
                    self.base.write_from([memoryview(block)], offset)
                else:
                    lost += 1
            self._pending.clear()
            self.base.flush()
            return lost

    def restore_power(self) -> None:
        """Work again, with what has survived."""
        self.has_power = True

    def inspect(self) -> dict[str, Any]:
        return {
            **super().inspect(),
            "has_power": self.has_power,
            "unflushed_blocks": len(self._pending),
            "flushes": self.flushes,
            "base": self.base.inspect(),
        }

    def close(self) -> None:
        if self.has_power:
            self.flush()
        self.base.close()


def open_params(params: str, read_only: bool) -> PowerCutBackend:
    """``BASE``."""
    return PowerCutBackend(open_backend(params, read_only=read_only))
