"""How processes of one run find each other."""

from __future__ import annotations

import socket

from rollout.address import free_address, interface_to


def test_a_free_address_can_be_listened_at() -> None:
    host, port = free_address()
    with socket.create_server((host, port)):
        pass


def test_the_loopback_is_reached_by_its_own_interface() -> None:
    assert interface_to("127.0.0.1").startswith("lo")
    assert interface_to(free_address()[0]), "this machine reaches itself"
    assert interface_to("no such host") == ""
