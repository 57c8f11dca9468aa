"""Tells systemd how the daemon is: ready, alive, stopping. Says nothing where nobody listens.

The protocol is one datagram to the socket that `NOTIFY_SOCKET` names, see sd_notify(3).
"""

import contextlib
import os
import socket
from typing import Final

READY: Final = "READY=1"
ALIVE: Final = "WATCHDOG=1"
STOPPING: Final = "STOPPING=1"


def listens() -> bool:
    """Return whether a service manager has started us that wants to hear from us."""
    return os.environ.get("NOTIFY_SOCKET", "").startswith(("/", "@"))


def tell(state: str) -> None:
    """Send a state to the service manager that started us, if there is one."""
    if not listens():
        return
    address = os.environ["NOTIFY_SOCKET"]
    if address.startswith("@"):  # a name of Linux's abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)  # the loop waits for nobody
        channel.sendto(state.encode(), address)
