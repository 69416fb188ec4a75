"""Where processes of one run meet."""

from __future__ import annotations

import socket
import sys

import psutil


def own_address() -> str:
    """Return this machine's address as others reach it: in a process of a Ray cluster the one that its nodes use."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return str(ray.util.get_node_ip_address())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: a datagram socket only picks the outgoing address
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def free_address() -> tuple[str, int]:
    """Return this machine's address as others reach it, and a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return own_address(), listener.getsockname()[1]


def interface_to(host: str) -> str:
    """Return the name of the network interface by which this machine reaches ``host``; empty where none is found."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return ""
        own = probe.getsockname()[0]
    addresses = psutil.net_if_addrs()
    return next((name for name, found in addresses.items() if any(each.address == own for each in found)), "")
