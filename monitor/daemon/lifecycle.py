"""The life of a daemon, whatever it does in a turn: signals, service manager, health, web pages."""

import gc
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn, Protocol

import structlog

from monitor.daemon import systemd
from monitor.errors import ConfigurationError
from monitor.mqtt.alert_sender import AlertSender
from monitor.mqtt.beat_consumer import BeatConsumer
from monitor.mqtt.connection import wait
from monitor.mqtt.standby import Watcher
from monitor.settings import MetricsSettings
from monitor.web.server import Route, Site, serve

log = structlog.get_logger()

STALL_TIMEOUT = 5.0
"""Seconds without a turn after which the daemon does not count as alive.

A turn takes milliseconds.
"""

WATCHDOG_INTERVAL = 0.5
"""Seconds between two signs of life to systemd, whose unit allows for far more."""


LOGIN_PATIENCE = 300.0
"""Seconds for which a refused login is tried again where systemd has started the program: at the
start of a machine its broker may still be without its passwords, and the shipped units do not
restart a program whose configuration is wrong. Whoever starts it by hand hears of a wrong password
at once, and a container is restarted in any case."""

STANDBY_POLL = 0.05
"""Seconds between two looks of a standby at the time."""


class Program(Protocol):
    """What a daemon does, in three stages."""

    def startup(self) -> None:
        """Do what is done once, before the first turn."""

    def turn(self) -> None:
        """Do all there is to do now; call `Lifecycle.tick` once."""

    def shutdown(self) -> None:
        """Finish what is in hand."""


class Lifecycle:
    """Runs a program until it is told to stop, as the active one of its client ID or as standby.

    Attributes:
        attentive_since: since when no turn was late, on the monotonic clock: what came while the
            program stalled may still have to be read.
    """

    def __init__(self, connections: tuple[BeatConsumer, AlertSender]) -> None:
        """`connections` are those of the program, which is not well without them."""
        self._connections = connections
        self._consumer, self._sender = connections
        for each in connections:
            each.asks = True
            each.login_patience = LOGIN_PATIENCE if systemd.listens() else 0.0
        self._stop = self._was_online = False
        self._watcher: Watcher | None = None  # while it is to be heard who is active
        self._waits = False
        self._successor: str | None = None
        self._turned = self.attentive_since = time.monotonic()
        self._next_watchdog = 0.0

    def run(self, program: Program) -> None:
        """Start a program, let it turn until SIGTERM or SIGINT, and shut it down.

        A standby waits first until no other program of its client ID is active. A program that
        finds another one active in its place begins anew, as its standby.

        Raises:
            ConfigurationError: the broker refuses the connection, and never accepted one.
        """
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if self._consumer.settings.standby:
            self._stand_by()
        if not self._stop:
            program.startup()
            gc.collect()
            gc.freeze()  # what stands now stays: nothing to look through again and again
            systemd.tell(systemd.READY)
        while not self._stop and self._successor is None:
            program.turn()
        if self._successor is not None:
            self._step_down(program)
        self._leave()
        systemd.tell(systemd.STOPPING)
        program.shutdown()

    @property
    def standby(self) -> bool:
        """Whether another program is active, and this one waits. For any thread."""
        return self._waits

    def tick(self, now: float) -> None:
        """Note that the program turns; `now` is on the monotonic clock."""
        if now - self._turned > STALL_TIMEOUT:
            self.attentive_since = now
        self._turned = now
        if now >= self._next_watchdog:
            self._next_watchdog = now + WATCHDOG_INTERVAL
            systemd.tell(systemd.ALIVE)
        if self._waits:
            return
        if self._consumer.protocol != self._sender.protocol:
            self._speak_alike()
        self._consumer.name_active(now)
        if self._stands():
            self._leave()
        elif self._watcher is not None or any(each.suspended for each in self._connections):
            self._ask(now)

    def _stands(self) -> bool:
        """Whether the session is ours, its filters are granted, and both connections stand."""
        granted = self._consumer.connected and self._consumer.trouble is None
        return granted and self._sender.connected

    def _speak_alike(self) -> None:
        """Let both connections speak the version that the broker knows."""
        known = [each.protocol for each in self._connections if each.refused_5 or each.connected]
        for each in self._connections:
            each.speak("3.1.1" if "3.1.1" in known else (known or [each.protocol])[0])

    def health(self) -> str | None:
        """Return what is wrong, None while all is well. For any thread."""
        watcher = self._watcher
        needed = (watcher,) if self._waits and watcher is not None else self._connections
        return self.stalled() or next((each.trouble for each in needed if each.trouble), None)

    def stalled(self) -> str | None:
        """Return that the program does not turn; None while it does. For any thread."""
        return "the loop does not turn" if time.monotonic() - self._turned > STALL_TIMEOUT else None

    def publish_status(self, sender: AlertSender, trouble: str | None) -> None:
        """Publish "online", or "offline" while there is trouble, once there was a time without."""
        self._was_online = self._was_online or trouble is None
        if self._was_online:
            sender.publish_status("online" if trouble is None else "offline")

    # -- which of several programs is active

    def _stand_by(self) -> None:
        """Wait until the session is free, connected and silent."""
        watcher = self._watcher = self._watch(claims=True)
        self._waits, metrics = True, self._consumer.metrics
        metrics.standby.set(1)
        systemd.tell(systemd.READY)
        log.info("standing by", client_id=self._consumer.client_id)
        active: str | None = None
        while not self._stop and not watcher.succeeds():
            wait((watcher,), STANDBY_POLL)
            now = time.monotonic()
            self.tick(now)
            watcher.turn(now)
            metrics.connected.set(watcher.connected)
            if watcher.other not in (None, active):
                active = watcher.other
                log.info("another is active", instance=active)
        watcher.claims = False  # from now on it only listens
        self._speak_as(watcher)
        self._waits, self._consumer.named = False, watcher.named
        metrics.standby.set(0)
        if not self._stop:
            log.warning("taking over", client_id=self._consumer.client_id, active_before=active)

    def _ask(self, now: float) -> None:
        """Find out, a connection being lost, whether another program has taken the session.

        The answer is heeded until the connections stand again, as after a takeover until they
        stand: whoever took it may name itself only now, and the broker may take its time to let us
        in. Until then we say here that we are active, so that no standby takes us for gone.
        """
        if self._watcher is None:
            self._watcher = self._watch(claims=False)
        try:
            self._watcher.turn(now)
            taken = self._watcher.answer(now)
        except ConfigurationError:  # whoever may connect as such need not be let in as another
            taken = False
        if taken:
            self._successor = self._watcher.other
            for each in self._connections:  # at once: what waits to be published is not ours now
                each.abandon()
        elif taken is not None:
            if any(each.suspended for each in self._connections):
                self._speak_as(self._watcher)
                for each in self._connections:
                    each.resume()
            self._consumer.named = self._watcher.named
            self._watcher.name_active(now)
            if not self._watcher.granted:
                self._leave()

    def _watch(self, claims: bool) -> Watcher:
        watcher = Watcher(self._consumer.settings, self._consumer.client_id, claims)
        watcher.speak(self._consumer.protocol)
        return watcher

    def _speak_as(self, watcher: Watcher) -> None:
        """Let both connections speak the version that the watcher has found."""
        for each in self._connections:
            each.speak(watcher.protocol)

    def _leave(self) -> None:
        """Hang up on the watcher, if there is one."""
        if self._watcher is not None:
            self._watcher.disconnect()
            self._watcher.write()
            self._watcher.abandon()
            self._watcher = None

    def _step_down(self, program: Program) -> NoReturn:
        """Begin anew as the standby: nothing that was decided before can be published then."""
        client_id = self._consumer.client_id
        log.warning("stepping down", client_id=client_id, active=self._successor)
        self._leave()
        program.shutdown()
        os.environ["ECG_MONITOR_MQTT__STANDBY"] = "true"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own

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
    page = {"page": f"http://{host}:{port}/"} if "/" in pages else {}
    log.info("serving", **page, metrics=f"http://{host}:{port}/metrics")
