"""Operator requests: acknowledge an alarm, shelve a device, and keep who did it."""

import time
from concurrent.futures import Future
from queue import SimpleQueue

import structlog

from monitor.alarms.decisions import Alarms
from monitor.alarms.device import Shelf
from monitor.alarms.messages import Acknowledged
from monitor.alarms.operator_requests import Acknowledge, Request, Shelve
from monitor.daemon.pipeline import Changes
from monitor.detector.per_device import Detectors
from monitor.history.store import Action
from monitor.history.writer import HistoryWriter
from monitor.logs import LINES, Throttle
from monitor.times import rfc3339

log = structlog.get_logger()


class RequestHandler:
    """Does operator requests, in the loop's thread."""

    def __init__(self, alarms: Alarms, history: HistoryWriter, detectors: Detectors) -> None:
        self._alarms, self._history, self._detectors = alarms, history, detectors
        self._asked: SimpleQueue[tuple[str | None, Request, Future[str | None]]] = SimpleQueue()
        self._lines = Throttle(LINES)

    def ask(self, request: Request, device: str | None = None) -> Future[str | None]:
        """Have a request done by the loop; called from other threads.

        Return a future of why it cannot be done, or of None once it is.
        """
        answer: Future[str | None] = Future()
        self._asked.put((device, request, answer))
        return answer

    def answer(self, changes: Changes, now: float) -> None:
        """Do what other threads have asked, `now` in seconds since 1970, and add what it changes.

        It is the turn's own `now`: by another clock, a shelf could begin after the turn looks which
        are over, and count as one of them.
        """
        while not self._asked.empty():
            device, request, answer = self._asked.get()
            if answer.set_running_or_notify_cancel():  # who asked may have been told that it failed
                answer.set_result(self._do(request, device, changes, now))

    def handle(self, request: Request, device: str, changes: Changes, now: float) -> None:
        """Do what was asked over MQTT, where nobody waits for an answer."""
        problem = self._do(request, device, changes, now)
        what = type(request).__name__.lower()
        if problem is not None and self._lines.admits((what, device), time.monotonic()):
            withheld = self._lines.take_withheld()
            log.warning("not done", request=what, reason=problem, withheld=withheld)

    def _do(self, request: Request, device: str | None, changes: Changes, now: float) -> str | None:
        """Do what is asked; return why it cannot be done, None once it is."""
        if isinstance(request, Shelve):
            return self._shelve(request, device or "", now, changes)
        if not isinstance(request, Acknowledge):
            return f"{type(request).__name__.lower()} cannot be done here"
        name = self._alarms.open.get(request.id)
        if name is None or device not in (None, name):
            return f"no alarm with the id {request.id} is open"
        seen = Acknowledged(request.by, rfc3339(now))
        alarm = self._alarms.acknowledge(request.id, seen)
        self._note(Action("acknowledged", name, request.by, now, alarm.id))
        changes.save(name)
        return None

    def _shelve(self, request: Shelve, name: str, now: float, changes: Changes) -> str | None:
        if self._alarms.find(name) is None:
            return f"no device {name!r} is known"
        if not request.minutes:
            self.unshelve(name, request.by, now, changes)
            return None
        until = now + 60 * request.minutes
        detector = self._detectors.for_device(name)
        for decision in self._alarms.shelve(name, Shelf(request.by, now, until, request.kinds)):
            changes.add(decision, now, detector, deferred=True)
        self._note(Action("shelved", name, request.by, now, until=until))
        changes.save(name)
        return None

    def unshelve(self, name: str, by: str, now: float, changes: Changes) -> None:
        """Unshelve a device, and alert of its alarms that are still open."""
        detector = self._detectors.for_device(name)
        for decision in self._alarms.unshelve(name):
            changes.add(decision, now, detector, deferred=True)
        self._note(Action("unshelved", name, by, now))
        changes.save(name)

    def _note(self, action: Action) -> None:
        """Keep and log what somebody did."""
        self._history.note(action)
        on = action.alarm or action.device
        if self._lines.admits((action.action, on), time.monotonic()):
            log.info(
                action.action,
                device=action.device,
                alarm=action.alarm,
                by=action.by,
                until=action.until and rfc3339(action.until),
                withheld=self._lines.take_withheld(),
            )
