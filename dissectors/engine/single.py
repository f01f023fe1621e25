"""Single records decoded in any order, once all have been gone through: what was known at each is looked up.

Base of the readers of ``parts`` and ``archive``, which know where a record lies and what belongs to it.
"""

from __future__ import annotations

from typing import Protocol

from dissectors.engine.channels import ChannelLife
from dissectors.engine.decoded import Decoded
from dissectors.engine.plane import ControlState
from dissectors.engine.session import Session


class Known(Protocol):
    """What was found out about the records; indices are those that its reader uses."""

    @property
    def repeated(self) -> dict[int, int]:
        """Requests whose transaction id was in use, and the index in the capture of the one that used it."""
        ...

    def life_at(self, channel_id: int, index: int) -> ChannelLife:
        """The life of a channel at one of its records."""
        ...


class KnownPlane(ControlState):
    """The control plane as it was at a record: it is asked, and learns nothing."""

    def __init__(self, known: Known) -> None:
        super().__init__(lambda life: life.dialect)
        self.index = 0
        """The record that is decoded."""
        self._known = known

    def life(self, channel_id: int) -> ChannelLife:
        return self._known.life_at(channel_id, self.index)


class SingleReader(Session):
    """Decodes one record or another. Set ``at.index`` before each is fed."""

    def __init__(self, known: Known, at: KnownPlane) -> None:
        super().__init__()
        self.plane = self.at = at
        self._repeated = known.repeated

    def _request(self, item: Decoded) -> None:
        item.wants_completion = True
        earlier = self._repeated.get(self.at.index)
        if earlier is not None:
            self._note_repetition(item, earlier + 1)

    def _completion(self, item: Decoded) -> None:
        """Its request is known, and looked up by whoever wants it."""

    def _external(self, item: Decoded) -> None:
        self._take_external(item)
