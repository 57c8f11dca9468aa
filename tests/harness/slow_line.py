"""A line to a broker that carries only so many bytes a second from it."""

import socket
import threading
import time
from contextlib import suppress
from typing import Self


class SlowLine:
    """A TCP proxy.

    Attributes:
        url: for `mqtt.broker`.
        rate: bytes a second, over all connections one by one, on the way from the broker.
    """

    def __init__(self, port: int, rate: float) -> None:
        self.rate = rate
        self._to = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self._sockets: list[socket.socket] = [self._server]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", self._to))
                except OSError:  # it is down: so is the line
                    client.close()
                    continue
                self._sockets += [client, broker]
                for way in ((client, broker, False), (broker, client, True)):
                    threading.Thread(target=self._carry, args=way, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, slowly: bool) -> None:
        with suppress(OSError):
            while data := source.recv(256 if slowly else 65536):
                if slowly:
                    time.sleep(len(data) / self.rate)
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
