"""docs/uio.md names every command, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import vmbus.transport.uio
from vmbus.cli.uio import app
from vmbus.devices.network import device_from
from vmbus.guest.uio import UioBus
from vmbus.transport.uio import UioMap

if TYPE_CHECKING:
    from conftest import OpenBus

PAGE = (Path(__file__).parents[2] / "docs/uio.md").read_text()


def test_the_page_names_every_command() -> None:
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        assert re.search(rf"\| `{name}[ `]|, `{name} ", PAGE), name


def test_the_example_runs(
    open_bus: OpenBus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bus, host = open_bus(device_from("embedded:net=10.0.0.0/24"), pages=16)
    host.lend(UioMap.RECEIVE_BUFFER, 256)
    host.lend(UioMap.SEND_BUFFER, 128)
    monkeypatch.setattr(UioBus, "of", lambda device, bind_it: bus)
    monkeypatch.setattr(vmbus.transport.uio, "find_device", lambda name: name)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/uio.md", "exec"), {})
    assert float(capsys.readouterr().out) > 0
