"""Does what people ask: notes who has seen an alarm, shelves devices, and keeps who did it."""

import time
from concurrent.futures import Future
from queue import SimpleQueue

import structlog

from monitor.alarms.decisions import Alarms
from monitor.alarms.device import Shelf
from monitor.alarms.messages import Acknowledged
from monitor.alarms.operator_requests import Request, Shelve
from monitor.daemon.announcer import Announcer
from monitor.history.store import Action, History
from monitor.logs import LINES, Throttle
from monitor.times import rfc3339

log = structlog.get_logger()


class RequestHandler:
    """Where requests are done, by the loop."""

    def __init__(self, alarms: Alarms, history: History, publisher: Announcer) -> None:
        self._alarms, self._history, self._publisher = alarms, history, publisher
        self._asked: SimpleQueue[tuple[str | None, Request, Future[str | None]]] = SimpleQueue()
        self._lines = Throttle(LINES)

    def ask(self, request: Request, device: str | None = None) -> Future[str | None]:
        """Have a request done by the loop; called from other threads.

        Gives why it cannot be done, or None once it is.
        """
        answer: Future[str | None] = Future()
        self._asked.put((device, request, answer))
        return answer

    def answer(self) -> None:
        """Do what other threads have asked."""
        while not self._asked.empty():
            device, request, answer = self._asked.get()
            if answer.set_running_or_notify_cancel():  # who asked may have been told that it failed
                answer.set_result(self._do(request, device))

    def attend(self, request: Request, device: str) -> None:
        """Do what was asked over MQTT, where nobody waits for an answer."""
        problem = self._do(request, device)
        what = type(request).__name__.lower()
        if problem is not None and self._lines.admits((what, device), time.monotonic()):
            withheld = self._lines.take_withheld()
            log.warning("not done", request=what, reason=problem, withheld=withheld)

    def _do(self, request: Request, device: str | None) -> str | None:
        """Do what is asked; gives why it cannot be done."""
        wall = time.time()
        if isinstance(request, Shelve):
            return self._shelve(request, device or "", wall)
        name = self._alarms.open.get(request.id)
        if name is None or device not in (None, name):
            return f"no alarm with the id {request.id} is open"
        seen = Acknowledged(request.by, rfc3339(wall))
        alarm = self._alarms.acknowledge(request.id, seen)
        self._note(Action("acknowledged", name, request.by, wall, alarm.id))
        self._publisher.save(name, wall)
        return None

    def _shelve(self, request: Shelve, name: str, wall: float) -> str | None:
        if self._alarms.find(name) is None:
            return f"no device {name!r} is known"
        if not request.minutes:
            self.unshelve(name, request.by, wall)
            return None
        until = wall + 60 * request.minutes
        self._alarms.shelve(name, Shelf(request.by, wall, until))
        self._note(Action("shelved", name, request.by, wall, until=until))
        self._publisher.save(name, wall)
        return None

    def unshelve(self, name: str, by: str, wall: float) -> None:
        """Take a device off the shelf, and alert of what still stands of it."""
        for decision in self._alarms.unshelve(name):
            self._publisher.alert_late(decision, wall)
        self._note(Action("unshelved", name, by, wall))
        self._publisher.save(name, wall)

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
