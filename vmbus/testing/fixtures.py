"""A pytest plugin, installed with the package: what tests of one's own devices need.

``channel_pair`` makes both ends of a channel, ``partition_pair`` a host and a Python guest in this process,
``running_host`` a host on a socket for guests in other processes.  ``vmbus.testing.linux`` adds the real Linux guest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmbus.testing.channels import ChannelPair
from vmbus.testing.hosts import RunningHost
from vmbus.testing.partitions import PartitionPair


@pytest.fixture
def channel_pair() -> Iterator[ChannelPair]:
    """Both ends of an open channel in one thread; ``pump()`` runs them."""
    with ChannelPair() as pair:
        yield pair


@pytest.fixture
def partition_pair() -> Iterator[Callable[..., PartitionPair]]:
    """``partition_pair(devices, drivers)``: a host and a booted Python guest; closed after the test."""
    pairs: list[PartitionPair] = []

    def make(*arguments: object, **options: object) -> PartitionPair:
        pair = PartitionPair(*arguments, **options)  # type: ignore[arg-type]
        pairs.append(pair)
        return pair.__enter__()

    yield make
    for pair in pairs:
        pair.close()


@pytest.fixture
def running_host(tmp_path: Path) -> Iterator[Callable[..., RunningHost]]:
    """``running_host(devices)``: a host that listens at its ``address``; closed after the test."""
    hosts: list[RunningHost] = []

    def make(*arguments: object, **options: object) -> RunningHost:
        host = RunningHost(tmp_path / f"host{len(hosts)}", *arguments, **options)  # type: ignore[arg-type]
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()
