"""Addresses are ``scheme:params``; what cannot be listened on or reached says so in one line."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from vmbus.transport import AddressError, connect, listen, parse_address


@pytest.mark.parametrize(
    ("text", "scheme", "params"), [("unix:/a/b", "unix", "/a/b"), ("/a:b/c", "unix", "/a:b/c"), ("x", "unix", "x")]
)
def test_a_bare_path_means_a_unix_socket(text: str, scheme: str, params: str) -> None:
    address = parse_address(text)
    assert (address.scheme, address.params) == (scheme, params)


@pytest.mark.parametrize("text", ["tcp:host", "unix:", "unix:" + "x" * 108])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


def test_a_socket_that_nobody_listens_on_any_more_is_replaced(tmp_path: Path) -> None:
    address = parse_address(str(tmp_path / "s"))
    listen(address).close()
    assert address.path.is_socket()
    with listen(address), connect(address):
        assert address.path.stat().st_mode & 0o777 == 0o600


def test_a_socket_at_which_many_wait_already_is_left_to_its_owner_at_once(tmp_path: Path) -> None:
    address = parse_address(str(tmp_path / "s"))
    with listen(address, backlog=0), connect(address), socket.socket(socket.AF_UNIX) as another:
        another.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            another.connect(address.params)
        with pytest.raises(AddressError, match="another process is listening there"):
            listen(address)


def test_a_directory_is_named_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match=f"cannot listen on unix:{tmp_path}: it is a directory"):
        listen(parse_address(str(tmp_path)))


def test_an_ordinary_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(AddressError, match="cannot listen"):
        listen(parse_address(str(tmp_path / "s")))
    assert (tmp_path / "s").read_text() == "precious"


def test_connecting_to_nobody_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="cannot connect to unix:"):
        connect(parse_address(str(tmp_path / "s")))
