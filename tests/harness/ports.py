"""TCP ports for the programs that tests start."""

import socket
from collections import deque

RESERVED = 200
"""Ports that are kept for whoever asked for them: far more than a test asks for, and fewer than a
process may have files open."""

_reserved: deque[socket.socket] = deque()


def free_port() -> int:
    """Return a TCP port of the loopback address that is given to nobody else for a while.

    Its socket stays bound and does not listen: a server that sets SO_REUSEADDR, as all here do, can
    take the port, and the system gives it to no other process that asks for any.
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    _reserved.append(probe)
    if len(_reserved) > RESERVED:
        _reserved.popleft().close()
    return int(probe.getsockname()[1])
