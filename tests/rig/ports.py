"""Ports for servers that are started by a program of somebody else's, or again at the same place."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST, _END = 20_000, 65_536


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody uses. Whoever asks the system for any port does not get it before it is bound."""
    ports = range(_FIRST, int(_EPHEMERAL.read_text(encoding="utf-8").split()[0])) or range(_FIRST, _END)
    while True:
        port = secrets.choice(ports)
        try:
            socket.create_server((address, port)).close()
        except OSError:
            continue  # somebody has it
        return port
