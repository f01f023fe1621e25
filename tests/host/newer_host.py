"""``python tests/host/newer_host.py ARGUMENTS...``: ``vmbus host`` as a later version of this program will be.

Its state has another version, in each of the three places that have one: the document has got a field that the program
cannot do without, the control plane's part has got one, and the devices' own states are written in another way. It
reads what the present version left behind by one step for each, and the present version must refuse what it writes.
"""

from __future__ import annotations

import sys
from typing import Any

from vmbus.cli import main
from vmbus.control.server import ControlServer
from vmbus.devices.network import NetworkProvider
from vmbus.devices.storage.controller import StorageController
from vmbus.host import servicing, state_document
from vmbus.state_format import State, StateFormat


def raised(present: StateFormat, step: Any) -> StateFormat:
    """A format with one version more."""
    return StateFormat(present.version + 1, {**present.steps, present.version: step})


def with_generation(state: State) -> State:
    return {**state, "generation": 1}


def wrapped(state: State) -> State:
    return {"wrapped": state}


def become_newer() -> None:
    """Change the program's classes from outside: the product knows nothing of this."""
    state_document.DOCUMENT = raised(state_document.DOCUMENT, with_generation)
    state_document.CONTROL = raised(state_document.CONTROL, with_generation)
    write, resume, restore = state_document.write_document, servicing.Servicing._resume, ControlServer.restore

    def write_document(path: Any, document: State) -> None:
        control = {**document["control"], "format_version": state_document.CONTROL.version, "generation": 2}
        write(path, {**document, "generation": 2, "control": control})

    def resumed(self: Any, partition: Any, saved: State) -> Any:
        print(f"generations {saved['generation']} {saved['control']['generation']}", file=sys.stderr, flush=True)
        return resume(self, partition, saved)

    def restored(self: Any, state: State) -> None:
        restore(self, {**state, "format_version": state_document.CONTROL.version - 1})

    servicing.write_document = write_document  # type: ignore[attr-defined]
    servicing.Servicing._resume = resumed  # type: ignore[method-assign]
    ControlServer.restore = restored  # type: ignore[method-assign]
    for device in (NetworkProvider, StorageController):
        write_newer(device)


def write_newer(device: type[NetworkProvider] | type[StorageController]) -> None:
    save, checkpoint, restore, reopen = device.save, device.checkpoint, device.restore, device.reopen
    device.state_format = raised(device.state_format, wrapped)
    device.save = lambda self: {"wrapped": save(self)}  # type: ignore[method-assign]
    if device is NetworkProvider:  # a controller's checkpoint is what it saves
        device.checkpoint = lambda self: {"wrapped": checkpoint(self)}  # type: ignore[method-assign]
    device.restore = lambda self, state: restore(self, state["wrapped"])  # type: ignore[method-assign]
    device.reopen = lambda self, state: reopen(self, state["wrapped"])  # type: ignore[method-assign]


if __name__ == "__main__":
    become_newer()
    sys.argv = ["vmbus", *sys.argv[1:]]
    sys.exit(main())
