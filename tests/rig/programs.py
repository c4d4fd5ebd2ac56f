"""Programs that services of stages run."""

from __future__ import annotations

ECHO = """
import socket, sys
server = socket.create_server(("", 8000))
print("listening", flush=True)
while True:
    peer = server.accept()[0]
    said = peer.recv(1000).decode()
    if said == "die":
        sys.exit(7)
    if said:
        print("heard", said, flush=True)
        peer.sendall(said.encode())
    peer.close()
"""
"""Says what it hears, on port 8000, and ends with 7 at ``die``."""
