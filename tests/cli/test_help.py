"""``--help`` of every command: whole sentences, and values with names."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from vmbus.cli import main

_COMMAND = re.compile(r"^  ([a-z][a-z-]*)  +(.*)$", re.MULTILINE)


def shown(path: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> str:
    words = ["ctl", "unix:x", *path[1:]] if path[:1] == ("ctl",) and len(path) > 1 else path
    assert main([*words, "--help"]) == 0
    return capfd.readouterr().out


def listed(text: str) -> dict[str, str]:
    """The subcommands that a help lists, and what it says of each."""
    return dict(_COMMAND.findall(text.partition("Commands:")[2]))


def helps(capfd: pytest.CaptureFixture[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        path = waiting.pop()
        text = shown(path, capfd)
        yield path, text
        waiting += [(*path, name) for name in listed(text)]


def test_a_list_of_commands_says_of_each_in_one_line_what_it_does(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = {(*path, name): line for path, text in helps(capfd) for name, line in listed(text).items()}
    assert len(said) > 40
    assert {path: line for path, line in said.items() if not line.endswith(".") or "..." in line} == {}


def test_every_option_names_its_value_and_says_what_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    for path, text in helps(capfd):
        options = text.partition("Options:")[2].partition("Commands:")[0]
        for option in re.split(r"\n(?=  -)", options)[1:]:
            assert not re.search(r"<(int|float|str|path|list)", option), (path, option)
            assert len(option.split()) > 2, (path, option)


def test_a_wide_terminal_gets_long_lines(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert max(map(len, shown(("host",), capfd).splitlines())) > 90
