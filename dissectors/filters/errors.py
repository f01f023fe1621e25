"""What is wrong with a filter, and at which column."""

from __future__ import annotations

from vmbus.errors import VmbusError


class FilterError(VmbusError):
    """A filter that means nothing; ``column`` counts from 1."""

    def __init__(self, message: str, text: str, column: int) -> None:
        self.message = message
        self.text = text
        self.column = column
        super().__init__(f"filter, column {column}: {message}")

    def pointer(self) -> str:
        """The filter with a mark under the place: two lines."""
        return f"{self.text}\n{' ' * (self.column - 1)}^"
