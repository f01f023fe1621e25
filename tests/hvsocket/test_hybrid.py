"""The hybrid-vsock convention: the line that asks for a port, its answer, and the names of listeners."""

from __future__ import annotations

from uuid import UUID

import pytest

from vmbus.devices.hvsocket.hybrid import MAX_REQUEST, BadConnectRequest, listener_paths, parse_connect

SERVICE = UUID("ee59b4bf-a573-48d0-9c51-bb0e72c2b139")
PORT_1234 = UUID("000004d2-facb-11e6-bd58-64006a7986d3")


@pytest.mark.parametrize("line", [b"CONNECT 1234", b"connect 1234", b"CONNECT 1234\r"])
def test_a_port_is_a_service_by_the_template_and_answered_as_a_port(line: bytes) -> None:
    request = parse_connect(line)
    assert request.service_id == PORT_1234
    assert request.accepted(UUID(int=77 << 96)) == b"OK 77\n"


@pytest.mark.parametrize("text", [str(SERVICE), str(SERVICE).upper()])
def test_a_service_is_answered_as_one(text: str) -> None:
    line = f"CONNECT {text}".encode()
    assert len(line) < MAX_REQUEST
    assert parse_connect(line).service_id == SERVICE
    assert parse_connect(line).accepted(SERVICE) == f"OK {SERVICE}\n".encode()


@pytest.mark.parametrize(
    "line",
    [b"", b"CONNECT", b"CONNECT ", b"CONNECT -1", b"CONNECT 4294967296", b"GET / HTTP/1.1", b"CONNECT 1 2", b"\xff"],
)
def test_anything_else_is_refused_in_one_line(line: bytes) -> None:
    with pytest.raises(BadConnectRequest) as error:
        parse_connect(line)
    assert "\n" not in str(error.value)


def test_a_port_is_listened_for_by_number_first_and_then_by_service() -> None:
    assert listener_paths("/v", PORT_1234) == ["/v_1234", f"/v_{PORT_1234}"]
    assert listener_paths("/v", SERVICE) == [f"/v_{SERVICE}"]
