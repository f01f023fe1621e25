"""The line at the bottom for a filter or a record's number, with what is wrong about it while it is typed."""

from __future__ import annotations

import re
from collections.abc import Callable

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.suggester import Suggester
from textual.widgets import Input, Label

from dissectors.filters import Filter, FilterError, completions

_WORD = re.compile(r"[A-Za-z_][\w.]*$")


class FieldNames(Suggester):
    """Completes the field name that is being typed."""

    def __init__(self) -> None:
        super().__init__(case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        word = _WORD.search(value)
        if word is None or len(word[0]) < 2:
            return None
        found = next((name for name in completions(word[0]) if name.startswith(word[0]) and name != word[0]), None)
        return None if found is None else value[: word.start()] + found


def check_filter(text: str) -> str:
    """What is wrong with a filter; empty if nothing is."""
    try:
        if text.strip():
            Filter(text)
    except FilterError as error:
        return f"column {error.column}: {error.message}"
    return ""


def check_number(text: str) -> str:
    """What is wrong with a record's number."""
    return "" if not text or text.strip().lstrip("#").isdecimal() else "a record's number, from 1"


class Prompt(Horizontal):
    """A label, a line of input, and a message in red while the line is wrong."""

    class Entered(Message):
        """The user entered a sound line."""

        def __init__(self, prompt: Prompt, text: str) -> None:
            super().__init__()
            self.prompt = prompt
            self.text = text

        @property
        def control(self) -> Prompt:
            return self.prompt

    class Left(Entered):
        """The user does not want it after all."""

    def __init__(
        self, label: str, example: str, check: Callable[[str], str], *, suggester: Suggester | None = None, id: str
    ) -> None:
        super().__init__(id=id)
        self._label = label
        self._check = check
        self._input = Input(placeholder=example, suggester=suggester, compact=True, select_on_focus=False)
        self._message = Label("", markup=False)

    def compose(self) -> ComposeResult:
        yield Label(f"{self._label} ", classes="prompt--label")
        yield self._input
        yield self._message

    @property
    def message(self) -> str:
        """What is wrong with the line as it stands."""
        return self._check(self._input.value)

    def ask(self, text: str | None = None) -> None:
        """Show the line, and wait for input."""
        if text is not None:
            self._input.value = text
        self.add_class("shown")
        self._input.focus()
        self._input.cursor_position = len(self._input.value)

    def leave(self, *, shown: bool = False) -> None:
        """Put the line away, or leave it in sight."""
        self.set_class(shown, "shown")

    def clear(self) -> None:
        self._input.value = ""

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        problem = self._check(event.value)
        self.set_class(bool(problem), "wrong")
        self.set_class(bool(event.value.strip()) and not problem, "right")
        self._message.update(f" {problem} " if problem else "")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if not self._check(event.value):
            self.post_message(self.Entered(self, event.value.strip()))

    def on_key(self, event: events.Key) -> None:
        if event.key == "escape":
            event.stop()
            self.post_message(self.Left(self, ""))
