"""Calls people, beside the loop: what the loop hands over, a thread plans, and others say.

The loop hands over the alarms of a device as they stand, and never waits. One thread decides who is
to be called. Each call is made in a thread of its own, so that one that hangs delays nobody else.
"""

import sqlite3
import threading
import time
from contextlib import suppress
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

import structlog
from prometheus_client import Counter

from monitor.errors import Failure
from monitor.metrics import Metrics
from monitor.notify.channels import Channel, channel
from monitor.notify.duty import UnansweredAlarm, called_by_now, concerns, on_duty
from monitor.notify.journal import Journal
from monitor.notify.line import TIME_LIMIT, Call, Line, Told
from monitor.notify.message import Sender
from monitor.settings import Settings

log = structlog.get_logger()

GATHER_TIME: Final = 0.1
"""Seconds for which alarms are gathered before people are called: those that come together, as when
a part of the network fails, are one call."""

LOOK_INTERVAL: Final = 0.5
"""Seconds between two looks at who is to be called, if nothing changes meanwhile. With 1,000 open
alarms and 5 people a look took 1.3 ms."""

RETRY_INTERVAL: Final = 2.0
"""Seconds until the next look after one that failed."""

STALL_TIMEOUT: Final = 10.0
"""Seconds without a look after which nobody may be called: a look takes milliseconds, and waits for
the disk."""


class _Waiting(NamedTuple):
    """An alarm that wants somebody, since when (seconds since 1970), and whom it concerns: each
    name behind how long it must wait."""

    alarm: UnansweredAlarm
    since: float
    concerned: list[tuple[float, str]]


class _Ended(NamedTuple):
    """How a call ended: `problem` is why it was not delivered, None if it was."""

    person: str
    number: int
    problem: str | None


class Notifier:
    """Calls people. `update`, `begin` and `trouble` are called by other threads, and never wait."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Check every line and the journal; call nobody yet.

        Raises:
            ConfigurationError: a line or the journal cannot be used.
        """
        self.people = settings.notify.people
        self._zone = settings.notify.zone
        self._outcomes: Counter = metrics.notifications
        metrics.undelivered.set_function(self._undelivered)
        sender = sender_of(settings)
        self._channels: dict[str, Channel] = {
            name: channel(name, person, sender) for name, person in self.people.items()
        }
        self._handed_over: dict[str, tuple[UnansweredAlarm, ...]] = {}
        self._lock = threading.Lock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._ended: SimpleQueue[_Ended] = SimpleQueue()
        self._waiting: dict[str, _Waiting] = {}
        self._of_device: dict[str, list[str]] = {}
        self._lines: dict[str, Line] = {}
        self._known_since: dict[str, float] = {}
        self._troubled: dict[str, int] = {}
        self._unwritten: list[tuple[str, Told, float]] = []
        self._unwritable = False
        self._looked = time.monotonic()
        self._ahead = time.time() - time.monotonic()  # no step of the clock moves a deadline
        self._thread: threading.Thread | None = None
        if not self.people:
            return
        self._journal = Journal(settings.notify_journal)

    def update(self, name: str, alarms: tuple[UnansweredAlarm, ...]) -> None:
        """Take over the alarms of a device that want somebody, as they stand."""
        with self._lock:
            self._handed_over[name] = alarms
        self._wake.set()

    def begin(self) -> None:
        """Begin to call people, once all alarms that are open are handed over.

        What was told is read then: a standby has waited while another program told it.
        """
        if self.people and self._thread is None:
            self._looked = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
            self._thread.start()

    def trouble(self) -> str | None:
        """Return who cannot be called; None if all can, as far as it was tried."""
        if self._stuck():
            return "Nobody is called: the thread that calls is stuck"
        troubled = self._troubled
        return f"Cannot be called: {', '.join(troubled)}" if troubled else None

    def _undelivered(self) -> float:
        """Return how many calls are to be made, and cannot be; at least one of a stuck thread."""
        return sum(self._troubled.values()) + self._stuck()

    def _stuck(self) -> bool:
        return self._thread is not None and time.monotonic() - self._looked > STALL_TIMEOUT

    def close(self, timeout: float) -> None:
        """Let calls end within `timeout` seconds, and write down that they were made."""
        if self._thread is None:
            return
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)

    # -- in the thread

    def _run(self) -> None:
        while not self._closing.is_set():
            if self._wake.wait(LOOK_INTERVAL):
                self._closing.wait(GATHER_TIME)
            self._wake.clear()
            try:
                self._look(time.monotonic() + self._ahead, datetime.now(self._zone))
            except Exception as error:  # a fault of ours must not leave everybody uncalled
                log.error("notify", reason=f"{type(error).__name__}: {error}")
                self._closing.wait(RETRY_INTERVAL)
        with suppress(Exception):  # what ends before the process does
            while any(line.busy for line in self._lines.values()):
                self._collect(time.monotonic() + self._ahead, timeout=LOOK_INTERVAL)
                self._write()

    def _look(self, now: float, moment: datetime) -> None:
        """Find who is to be called now, and have them called."""
        if not self._lines:
            self._read_journal()
        self._take_over(now)
        self._collect(now)
        due = self._due(now, moment)
        lines = self._lines.items()
        for name, line in lines:
            if missed := line.update(due[name]):
                self._outcomes.labels("missed").inc(missed)
                log.warning("not called in time", person=name, alarms=missed)
            if line.expire(now):
                self._note_failure(name, f"it takes longer than {TIME_LIMIT:g} s")
            if (call := line.next_call(now)) is not None:
                self._start(name, call)
        self._troubled = {name: n for name, line in lines if (n := line.undelivered)}
        self._write()
        self._looked = time.monotonic()

    def _read_journal(self) -> None:
        self._known_since = self._journal.waiting()
        self._lines = {
            name: Line(each.keeps, self._journal.told(name))
            for name, each in self._channels.items()
        }

    def _take_over(self, now: float) -> None:
        """Take over what the loop has handed over, and since when each alarm wants somebody."""
        with self._lock:
            changed, self._handed_over = self._handed_over, {}
        for name, alarms in changed.items():
            before = [self._waiting.pop(alert) for alert in self._of_device.pop(name, ())]
            since = {each.alarm.kind: each.since for each in before}  # also of one that escalates
            for alarm in alarms:
                earlier = since.get(alarm.kind, self._known_since.get(alarm.alert, now))
                concerned = [
                    (person.after, each)
                    for each, person in self.people.items()
                    if concerns(alarm, person)
                ]
                waiting = _Waiting(alarm, min(earlier, now), sorted(concerned))
                self._waiting[alarm.alert] = waiting
            if alarms:
                self._of_device[name] = [each.alert for each in alarms]

    def _due(self, now: float, moment: datetime) -> dict[str, dict[str, UnansweredAlarm]]:
        """Return by person, and by alert, what each is to be told by now."""
        due: dict[str, dict[str, UnansweredAlarm]] = {name: {} for name in self.people}
        there = {name for name, person in self.people.items() if on_duty(person, moment)}
        failing = [(name, line) for name, line in self._lines.items() if line.failures]
        for alert, (alarm, since, concerned) in self._waiting.items():
            unreachable = [name for name, line in failing if line.unreachable(alert)]
            for name in called_by_now(concerned, now - since, there, unreachable):
                due[name][alert] = alarm
        return due

    def _collect(self, now: float, timeout: float = 0.0) -> None:
        """Take over how calls have ended."""
        with suppress(Empty):
            while True:
                person, number, problem = self._ended.get(timeout > 0, timeout or None)
                told = self._lines[person].finish(number, problem is None, now)
                if problem is not None:
                    self._note_failure(person, problem)
                    continue
                self._outcomes.labels("delivered").inc(len(told.alarms))
                self._unwritten.append((person, told, now))
                log.info("called", person=person, alarms=len(told.alarms), over=len(told.over))

    def _note_failure(self, person: str, problem: str) -> None:
        self._outcomes.labels("failed").inc()
        log.error("call failed", person=person, reason=problem, retrying=True)

    def _write(self) -> None:
        """Write down what was told; what cannot be written is tried again with the next look."""
        try:
            self._journal.wait({alert: each.since for alert, each in self._waiting.items()})
            while self._unwritten:
                person, told, moment = self._unwritten[0]
                self._journal.tell(person, told.alarms, told.over, moment)
                del self._unwritten[0]
            self._unwritable = False
        except sqlite3.Error as error:
            if not self._unwritable:
                log.error("notify.journal cannot be written", reason=str(error), retrying=True)
            self._unwritable = True

    def _start(self, name: str, call: Call) -> None:
        try:
            threading.Thread(target=self._make, args=(name, call), daemon=True).start()
        except RuntimeError as error:  # too many threads
            self._ended.put(_Ended(name, call.number, str(error)))

    # -- in a thread of its own

    def _make(self, name: str, call: Call) -> None:
        problem: str | None
        try:
            self._channels[name].make(call, time.time())
            problem = None
        except Failure as failure:
            problem = str(failure)
        except Exception as error:  # of a library: what it says may contain the URL
            problem = type(error).__name__
        self._ended.put(_Ended(name, call.number, problem))
        self._wake.set()


def sender_of(settings: Settings) -> Sender:
    """Return who calls, for messages."""
    return Sender(settings.mqtt.client_id, settings.notify.page, settings.notify.zone)
