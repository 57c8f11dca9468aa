"""The life of a daemon, whatever it does in a turn: signals, service manager, health, web pages."""

import gc
import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import Protocol

import structlog

from monitor.daemon import systemd
from monitor.mqtt.alert_sender import AlertSender
from monitor.mqtt.connection import Connection
from monitor.settings import MetricsSettings
from monitor.web.server import Route, Site, serve

log = structlog.get_logger()

STALL_TIMEOUT = 5.0
"""Seconds without a turn after which the daemon does not count as alive.

A turn takes milliseconds.
"""

WATCHDOG_INTERVAL = 0.5
"""Seconds between two signs of life to systemd, whose unit allows for far more."""


class Program(Protocol):
    """What a daemon does, in three stages."""

    def startup(self) -> None:
        """Do what is done once, before the first turn."""

    def turn(self) -> None:
        """Do all there is to do now; call `Lifecycle.tick` once."""

    def shutdown(self) -> None:
        """Finish what is in hand."""


class Lifecycle:
    """Runs a program until it is told to stop, and knows whether it is well.

    Attributes:
        attentive_since: since when no turn was late, on the monotonic clock: what came while the
            program stalled may still have to be read.
    """

    def __init__(self, connections: Sequence[Connection]) -> None:
        """`connections` are those without which the program is not well."""
        self._connections = connections
        self._stop = self._was_online = False
        self._turned = self.attentive_since = time.monotonic()
        self._next_watchdog = 0.0

    def run(self, program: Program) -> None:
        """Start a program, let it turn until SIGTERM or SIGINT, and shut it down."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        program.startup()
        gc.collect()
        gc.freeze()  # what stands now stays: nothing to look through again and again
        systemd.tell(systemd.READY)
        while not self._stop:
            program.turn()
        systemd.tell(systemd.STOPPING)
        program.shutdown()

    def tick(self, now: float) -> None:
        """Note that the program turns; `now` is on the monotonic clock."""
        if now - self._turned > STALL_TIMEOUT:
            self.attentive_since = now
        self._turned = now
        if now >= self._next_watchdog:
            self._next_watchdog = now + WATCHDOG_INTERVAL
            systemd.tell(systemd.ALIVE)

    def health(self) -> str | None:
        """Return what is wrong, None while all is well. For any thread."""
        return self.stalled() or next(
            (each.trouble for each in self._connections if each.trouble), None
        )

    def stalled(self) -> str | None:
        """Return that the program does not turn; None while it does. For any thread."""
        return "the loop does not turn" if time.monotonic() - self._turned > STALL_TIMEOUT else None

    def publish_status(self, sender: AlertSender, trouble: str | None) -> None:
        """Publish "online", or "offline" while there is trouble, once there was a time without."""
        self._was_online = self._was_online or trouble is None
        if self._was_online:
            sender.publish_status("online" if trouble is None else "offline")

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True


def serve_site(
    settings: MetricsSettings,
    pages: dict[str, Route],
    actions: dict[str, Route] | None = None,
    token: str | None = None,
) -> None:
    """Serve pages and actions where the settings say.

    Args:
        settings: the address, and the names it may be asked for by.
        pages: what is served to everybody, by path.
        actions: what changes something, by path, for those who have the token.
        token: None where nothing may be changed.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    site = Site(pages, actions or {}, token, settings.allowed_hosts)
    host, port = serve(settings.host, settings.port, site)
    host = f"[{host}]" if ":" in host else host
    log.info("serving", page=f"http://{host}:{port}/", metrics=f"http://{host}:{port}/metrics")
