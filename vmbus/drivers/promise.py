"""The promise of something that is not there yet: an open channel, the answer to a request.

Nothing here waits: whoever has a loop runs it until the promise is settled (``DriverBus.wait``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, cast

from vmbus.drivers.errors import DriverError
from vmbus.errors import VmbusError

T = TypeVar("T")


class Promise(Generic[T]):
    """A value that will be there later, in the same thread: settled once, with a value or with an error."""

    __slots__ = ("_callbacks", "_error", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: VmbusError | None = None
        self._callbacks: list[Callable[[Promise[T]], object]] = []

    def resolve(self, value: T) -> None:
        """Settle it with a value; ignored when it is settled already."""
        self._settle(value, None)

    def reject(self, error: VmbusError) -> None:
        """Settle it with an error; ignored when it is settled already."""
        self._settle(None, error)

    def _settle(self, value: T | None, error: VmbusError | None) -> None:
        if self.done:
            return
        self.done, self._value, self._error = True, value, error
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def then(self, callback: Callable[[Promise[T]], object]) -> None:
        """Call ``callback(self)`` when it is settled; at once if it is."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def result(self) -> T:
        """The value, or the error raised; only when ``done``."""
        if not self.done:
            raise DriverError("the answer is not there yet")
        if self._error is not None:
            raise self._error
        return cast("T", self._value)
