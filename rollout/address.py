"""Where processes of one run meet."""

from __future__ import annotations

import socket


def free_address() -> tuple[str, int]:
    """Return this machine's address as others reach it, and a port that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: a datagram socket only picks the outgoing address
            address = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    with socket.socket() as listener:
        listener.bind(("", 0))
        return address, listener.getsockname()[1]
