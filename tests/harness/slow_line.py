"""A line to a broker that carries only so many bytes a second from it."""

import socket
import threading
import time
from collections.abc import Callable
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
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up([self._server])
        self._threads[0].join()  # it adds sockets and threads
        self._hang_up(self._sockets)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _hang_up(self, sockets: list[socket.socket]) -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

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
                self._start(self._carry, client, broker, False)
                self._start(self._carry, broker, client, True)

    def _carry(self, source: socket.socket, sink: socket.socket, slowly: bool) -> None:
        with suppress(OSError):
            while data := source.recv(256 if slowly else 65536):
                if slowly:
                    time.sleep(len(data) / self.rate)
                sink.sendall(data)
        self._hang_up([source, sink])
