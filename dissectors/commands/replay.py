"""``vmbus replay``: one side of a capture, played again to a live partner."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dissectors.commands.options import tell_damage
from dissectors.engine.source import decode_capture

if TYPE_CHECKING:
    from dissectors.engine import Decoded
    from dissectors.replay import HostResult, Result


class Side(StrEnum):
    """Which side of the capture is played."""

    GUEST = "guest"
    HOST = "host"


def command(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A capture, or - for standard input.")],
    address: Annotated[
        str,
        typer.Argument(metavar="unix:PATH", help="Where a host listens for guests; with --as host, where to listen."),
    ],
    side: Annotated[
        Side, typer.Option("--as", help="guest: play the guest to a live host. host: play the host to a live guest.")
    ] = Side.GUEST,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as the other answers, without the pauses.")] = False,
    speed: Annotated[
        float,
        typer.Option("--speed", min=0.001, max=1e6, metavar="FACTOR", help="2.0 takes half the time of the capture."),
    ] = 1.0,
) -> None:
    """Replay one side of a capture to a live host or guest.

    The guest's side goes to a host with the same devices. The host's side (--as host) answers a guest; where that one
    departs from the capture there is a line on standard error, and the exit status is 1.
    """
    items = decode_capture(source, on_damage=tell_damage)
    pace = 0.0 if fast else speed
    result = _play_host(items, address, pace) if side is Side.HOST else _play_guest(items, address, pace)
    print(result.line())
    if not result.is_complete:
        raise typer.Exit(1)


def _play_guest(items: Iterable[Decoded], address: str, pace: float) -> Result:
    from dissectors.replay import Player, plan_replay

    player = Player(plan_replay(items), address, speed=pace)
    try:
        return player.run()
    finally:
        player.close()


def _play_host(items: Iterable[Decoded], address: str, pace: float) -> HostResult:
    from dissectors.replay import HostPlayer, plan_host

    script = plan_host(items)
    if script.incomplete:
        _tell(f"data of {script.incomplete} answers was recorded only in part; the guest will see zeros instead")
    player = HostPlayer(script, address, speed=pace, on_departure=_tell)
    try:
        _tell(f"waiting for a guest at {address}")
        return player.run()
    finally:
        player.close()


def _tell(line: str) -> None:
    print(f"vmbus: {line}", file=sys.stderr, flush=True)
