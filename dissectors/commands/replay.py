"""``vmbus replay``: what a guest did in a capture, done again to a live host."""

from __future__ import annotations

from typing import Annotated

import typer

from dissectors.commands.read import tell_damage
from dissectors.engine.source import decode_capture


def command(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A capture, or - for standard input.")],
    address: Annotated[str, typer.Argument(metavar="unix:PATH", help="Where a host listens for guests.")],
    fast: Annotated[bool, typer.Option("--fast", help="As fast as the host answers, without the pauses.")] = False,
    speed: Annotated[float, typer.Option("--speed", min=0.001, help="2.0 takes half the time of the capture.")] = 1.0,
) -> None:
    """Replay the guest's side of a capture against a host that offers the same devices in the same order."""
    from dissectors.replay import Player, plan_replay

    player = Player(plan_replay(decode_capture(source, on_damage=tell_damage)), address, speed=0 if fast else speed)
    try:
        result = player.run()
    finally:
        player.close()
    print(result.line())
    if not result.is_complete:
        raise typer.Exit(1)
