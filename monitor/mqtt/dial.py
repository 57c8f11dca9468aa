"""Make the socket to a broker in a thread of its own, so that the loop goes on meanwhile.

Resolving a name takes as long as the resolver likes, and cannot be broken off.
"""

import socket
import ssl
import threading
from concurrent.futures import Future
from contextlib import suppress

Socket = socket.socket

CONNECT_TIMEOUT = 1.5
"""Seconds that each address of a name, and then the handshake of TLS, may take.

A node that does not answer must not keep us from the next one for long; a connection to another
continent takes a third of a second.
"""


def dial(host: str, port: int, tls: ssl.SSLContext | None) -> Future[Socket]:
    """Return a future of a non-blocking socket that is connected, encrypted if `tls` is given.

    Its exceptions are OSError, among them `ssl.SSLError`, and ValueError for a host that cannot
    be one. Whoever does not wait for it any more calls `give_up`.
    """
    dialled: Future[Socket] = Future()
    threading.Thread(
        target=_dial, args=(dialled, host, port, tls), name=f"dial {host}", daemon=True
    ).start()
    return dialled


def give_up(dialled: Future[Socket]) -> None:
    """Close the socket of `dial` that nobody waits for any more, if need be once it is made."""
    if not dialled.cancel() and dialled.exception() is None:
        dialled.result().close()


def _dial(dialled: Future[Socket], host: str, port: int, tls: ssl.SSLContext | None) -> None:
    try:
        sock = _connect(host, port, tls)
    except (OSError, ValueError) as error:
        if dialled.set_running_or_notify_cancel():
            dialled.set_exception(error)
        return
    if dialled.set_running_or_notify_cancel():
        dialled.set_result(sock)
    else:
        with suppress(OSError):
            sock.close()


def _connect(host: str, port: int, tls: ssl.SSLContext | None) -> Socket:
    sock = socket.create_connection((host, port), CONNECT_TIMEOUT)
    try:
        # What is written is gathered already.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=host)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
