"""A server that answers every request with the same reply, to measure the client with: `python -m benchmarks.answering SESSIONS`.

It prints its port, serves so many connections and ends when they are closed.
"""

from __future__ import annotations

import selectors
import socket
import sys

from benchmarks.client import ADDRESS, CHUNK, PATIENCE

REPLY = b'HTTP/1.1 200 OK\r\nContent-Length: 34\r\n\r\n{"response": {"rpc_messages": []}}'


def main(sessions: int) -> None:
    """Serve `sessions` connections, one request after the other on each."""
    with selectors.DefaultSelector() as selector, socket.create_server((ADDRESS, 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        for _ in range(sessions):
            selector.register(listening.accept()[0], selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(PATIENCE):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if _received(connection):
                    connection.sendall(REPLY)
                else:
                    selector.unregister(connection)
                    connection.close()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(CHUNK)
    except ConnectionResetError:  # the client left without reading the last reply
        return b""


if __name__ == "__main__":
    main(int(sys.argv[1]))
