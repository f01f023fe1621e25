"""``vmbus ctl``: look into a running host, offer and rescind its devices, change its media."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

from vmbus.host.ctl_client import CtlClient
from vmbus.transport import Address, parse_address

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Look into a running host; add, rescind and change devices.",
)

Unit = Annotated[str, typer.Argument(metavar="CONTROLLER[/PATH:TARGET:LUN]", help="As inspect shows it.")]
Name = Annotated[str, typer.Argument(metavar="NAME|INSTANCE", help="As inspect shows it.")]
Force = Annotated[bool, typer.Option("--force", help="Also when the guest has locked the tray.")]


@app.callback()
def _host(
    context: typer.Context,
    host: Annotated[str, typer.Argument(metavar="unix:PATH", help="Where the host listens for guests.")],
) -> None:
    context.obj = parse_address(host, schemes=("unix",))


def _ask(context: typer.Context, command: str, **arguments: Any) -> Any:
    address: Address = context.obj
    with CtlClient(address) as client:
        return client.request(command, **arguments)


def _added(labels: list[str]) -> None:
    for label in labels:
        print(label)


@app.command()
def inspect(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH-IN-TREE", help="Only this part, such as devices/net.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print the live state: guest, devices, channels and rings."""
    tree = _ask(context, "inspect", path=path)
    if as_json:
        print(json.dumps(tree, indent=None if not sys.stdout.isatty() else 2))
    else:
        print("\n".join(tree_lines(tree)))


@app.command("add-scsi")
def add_scsi(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE[,OPTION]", help="As --scsi of vmbus host takes it.")],
) -> None:
    """Add disks to a controller that is there, or with a new one."""
    _added(_ask(context, "add-scsi", disks=[_absolute(file) for file in files]))


@app.command("add-nic")
def add_nic(
    context: typer.Context,
    backend: Annotated[str, typer.Argument(metavar="BACKEND[,OPTION]...", help="As --nic of vmbus host takes it.")],
) -> None:
    """Offer another network card."""
    _added(_ask(context, "add-nic", nic=backend))


@app.command("add-device")
def add_device(
    context: typer.Context,
    device: Annotated[str, typer.Argument(metavar="NAME[:PARAMS]", help="As --device of vmbus host takes it.")],
) -> None:
    """Offer another device."""
    name, colon, params = device.partition(":")
    if name.endswith(".py"):
        name = os.path.abspath(name)
    _added(_ask(context, "add-device", device=f"{name}{colon}{params}"))


@app.command()
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME|INSTANCE|UNIT", help="A device, or a unit such as scsi/0:0:1.")],
) -> None:
    """Take a device or one disk away for good."""
    _ask(context, "remove", name=name)


@app.command()
def rescind(context: typer.Context, name: Name) -> None:
    """Take a device's offer back; `offer` brings it again."""
    _ask(context, "rescind", name=name)


@app.command()
def offer(context: typer.Context, name: Name) -> None:
    """Offer a device again that was rescinded."""
    _ask(context, "offer", name=name)


@app.command()
def resize(
    context: typer.Context,
    unit: Unit,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Such as 64M; without it, the file's own new size.")] = "",
) -> None:
    """Give a disk in a file another size, and tell the guest."""
    print(_ask(context, "resize", unit=unit, size=size)["size"])


@app.command()
def eject(context: typer.Context, unit: Unit, force: Force = False) -> None:
    """Take the disc out of a DVD drive."""
    _ask(context, "eject", unit=unit, force=force)


@app.command()
def insert(
    context: typer.Context,
    unit: Unit,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The disc.")],
    force: Force = False,
) -> None:
    """Put a disc into a DVD drive."""
    _ask(context, "insert", unit=unit, file=_absolute(file), force=force)


@app.command()
def link(
    context: typer.Context, name: Name, state: Annotated[str, typer.Argument(metavar="up|down", help="The cable.")]
) -> None:
    """Plug the cable of a network card in or out."""
    _ask(context, "link", name=name, state=state)


@app.command()
def note(context: typer.Context, text: Annotated[str, typer.Argument(metavar="TEXT", help="The line.")]) -> None:
    """Put a line into the host's log and capture."""
    _ask(context, "note", text=text)


@app.command()
def dump(
    context: typer.Context, file: Annotated[str, typer.Argument(metavar="FILE", help="The capture to write.")]
) -> None:
    """Write what the flight recorder holds into a file."""
    _ask(context, "dump", file=os.path.abspath(file))


def _absolute(text: str) -> str:
    """A file named from here means the same file in the host's directory; ``scheme:params`` stays as it is."""
    return text if ":" in text.partition(",")[0] else os.path.abspath(text)


def tree_lines(tree: Any, depth: int = 0) -> list[str]:
    """A tree as indented lines, empty parts in one line."""
    if not isinstance(tree, dict | list):
        return ["  " * depth + _plain(tree)]
    items = tree.items() if isinstance(tree, dict) else ((str(number), value) for number, value in enumerate(tree))
    lines: list[str] = []
    for name, value in items:
        if isinstance(value, dict | list) and value:
            lines += ["  " * depth + name, *tree_lines(value, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{name}: {_plain(value)}")
    return lines


def _plain(value: Any) -> str:
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
