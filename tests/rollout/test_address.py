"""How processes of one run find each other."""

from __future__ import annotations

import socket

import pytest
import ray

from rollout.address import free_address, interface_to


def test_a_free_address_can_be_listened_at() -> None:
    host, port = free_address()
    with socket.create_server((host, port)):
        pass


def test_in_a_cluster_it_is_the_address_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes may talk over another network than that of the default route, or have no such route."""
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.7")
    assert free_address()[0] == "192.0.2.7"


def test_the_loopback_is_reached_by_its_own_interface() -> None:
    assert interface_to("127.0.0.1").startswith("lo")
    assert interface_to(free_address()[0]), "this machine reaches itself"
    assert interface_to("no such host") == ""
