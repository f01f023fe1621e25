"""The ``vmbus`` command: subcommands in small files, found by the entry points of group ``vmbus.commands``.

Packages above this one (``dissectors``, ``tui``) add their commands by entry point, so that ``vmbus`` imports neither.
Whatever goes wrong for a reason that a person can act on is one line on stderr: exit status 1, or 2 for a wrong
command line.
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from vmbus.errors import OptionError, VmbusError

GROUP = "vmbus.commands"


class Commands(TyperGroup):
    """Loads a subcommand only when it is wanted: starting ``vmbus host`` does not import scapy or textual."""

    @cached_property  # what is installed is looked through once: 10 ms
    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=GROUP)}

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self._entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        loaded = entry.load()
        if isinstance(loaded, typer.Typer):
            command = typer.main.get_command(loaded)
        else:
            application = typer.Typer(add_completion=False, rich_markup_mode=None)
            application.command(cmd_name)(loaded)
            command = typer.main.get_command(application)
        command.name = cmd_name
        return command


application = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
    help="A VMBus laboratory: host and guest, synthetic devices, captures, dissectors and a live view.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from vmbus import __version__

        typer.echo(f"vmbus {__version__}")
        raise typer.Exit


@application.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def _reader_left() -> int:
    """Whoever read our output has enough of it, as ``head`` does: nothing is wrong, and nothing more is written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _failed(error: OSError) -> int:
    """What the system refused, and about which file; when it was our own output, that is not tried again."""
    what = error.strerror or str(error)
    if error.filename is not None:
        what = f"{os.fsdecode(error.filename)}: {what}"
    with contextlib.suppress(OSError, ValueError):
        print(f"vmbus: {what}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; never lets a traceback reach the user for what a peer did."""
    command = typer.main.get_command(application)
    try:
        status = command.main(args=arguments, prog_name="vmbus", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except VmbusError as error:
        print(f"vmbus: {error}", file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as leave:
        if isinstance(leave.__context__, BrokenPipeError):  # typer has seen it first
            return _reader_left()
        raise
    except OSError as error:
        return _failed(error)
    except typer.Exit as leave:
        return leave.exit_code
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # of click, or of typer's own copy of it
            print(message(), file=sys.stderr)
        else:
            text = " ".join(message().split()).removeprefix("Invalid value: ").replace(": Value error, ", ": ")
            print(f"vmbus: {text}", file=sys.stderr)
        return 2


__all__ = ["Commands", "application", "main"]
