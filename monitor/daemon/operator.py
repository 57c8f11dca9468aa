"""Operator requests, done and kept with who did it.

People acknowledge or judge an alarm, shelve a device, admit or discharge a patient, or choose his
model. What they have been told is done must outlive a crash: who asked over HTTP is answered when
the history has it, and that a patient has left, which only the history remembers, is made known
then.
"""

import time
from collections import deque
from collections.abc import Container
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import NamedTuple

import structlog

from monitor.alarms.decisions import Alarms
from monitor.alarms.device import Shelf
from monitor.alarms.messages import Acknowledged, Judged
from monitor.alarms.operator_requests import (
    Acknowledge,
    Admit,
    Choose,
    Discharge,
    Judge,
    Request,
    Shelve,
)
from monitor.daemon.patients import Patients
from monitor.daemon.pipeline import Changes, Pipeline
from monitor.detector.per_device import Detectors
from monitor.errors import Failure, UsageError
from monitor.history.store import Action, Judgement
from monitor.history.writer import HistoryWriter, Stored
from monitor.logs import LINES, Throttle
from monitor.times import rfc3339
from monitor.topics import DEVICE, topic_to_publish

log = structlog.get_logger()

STORE_TIMEOUT = 2.0
"""Seconds that whoever asked waits for the history at most, where it is slow or the disk is full:
it takes a tenth, and `ecg-monitor discharge` waits five."""

RETURN_TIMEOUT = 4.0
"""Seconds that what was passed on may take to come back, before who asked over HTTP is told so: in
time for that answer, which is waited for five."""


class _PendingJudgement(NamedTuple):
    """A judgement that the history is storing; `answer` is for who asked over HTTP."""

    request: Judge
    device: str | None
    stored: Stored
    answer: Future[str | None] | None


class _Unstored(NamedTuple):
    """What was done and is being stored; `until` is how long to wait, on the monotonic clock."""

    request: Request
    device: str
    stored: Stored
    until: float
    answers: list[Future[str | None]]


class _PassedOn(NamedTuple):
    """What was asked over HTTP and is done when it comes back over MQTT; `until` as above."""

    request: Request
    device: str
    until: float
    answer: Future[str | None]


class RequestHandler:
    """Does operator requests, in the loop's thread.

    Attributes:
        leaving: the devices whose patients have left, while the history is storing that. Until it
            has, what is retained of them stays: whoever finds it gone can rely on it.
    """

    def __init__(
        self,
        alarms: Alarms,
        history: HistoryWriter,
        detectors: Detectors,
        patients: Patients,
        pipeline: Pipeline,
        elsewhere: Container[str] = (),
    ) -> None:
        """Do what concerns these alarms; of devices that are `elsewhere` another monitor does."""
        self._elsewhere = elsewhere
        self._alarms, self._history, self._detectors = alarms, history, detectors
        self._patients, self._pipeline = patients, pipeline
        self._asked: SimpleQueue[tuple[str | None, Request, Future[str | None]]] = SimpleQueue()
        self._pending: list[_PendingJudgement] = []
        self._unstored: deque[_Unstored] = deque()
        self._passed_on: list[_PassedOn] = []
        self._cut_short: list[str] = []
        self.leaving: dict[str, Stored] = {}
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

        Answer, too, what the history has stored since the last call. `now` is the turn's own: by
        another clock, a shelf could begin after the turn looks which are over, and count as one of
        them.
        """
        for name in self._cut_short:
            self._forget(name, now, changes)
        self._cut_short.clear()
        while not self._asked.empty():
            device, request, answer = self._asked.get()
            if isinstance(request, Judge):
                self._judge(request, device, now, answer)
            elif isinstance(request, Admit | Discharge | Choose):
                self._pass_on(request, device, changes, answer)
            elif answer.set_running_or_notify_cancel():  # else who asked was told that it failed
                self._settle(request, device, self._do(request, device, changes, now), [answer])
        self._answer_passed_on()
        self._answer_judgements(changes, now)
        self._answer_stored(changes)

    def finish(self, changes: Changes) -> None:
        """Wait a little for the history, and answer what it was to store: the program ends."""
        wait([each.stored for each in self._unstored], STORE_TIMEOUT)
        self._answer_stored(changes, everything=True)

    def finish_discharge(self, name: str) -> None:
        """Forget a device in the next turn, as the history says that its patient has left."""
        self._cut_short.append(name)

    def handle(self, request: Request, device: str, changes: Changes, now: float) -> None:
        """Do what was asked over MQTT, where only a judgement is answered.

        Answer who asked the same over HTTP, if it was passed on.
        """
        if isinstance(request, Judge):
            self._judge(request, device, now)
            return
        back = [each for each in self._passed_on if each[:2] == (request, device)]
        answers = [each.answer for each in back if each.answer.set_running_or_notify_cancel()]
        self._passed_on = [each for each in self._passed_on if each not in back]
        if device in self._elsewhere:  # that one has heard it, too
            for answer in answers:
                answer.set_result(None)
            return
        outcome = self._do(request, device, changes, now)
        if isinstance(outcome, str):
            self._log_problem(request, device, outcome)
        self._settle(request, device, outcome, answers)

    def _settle(
        self,
        request: Request,
        device: str | None,
        outcome: str | Stored,
        answers: list[Future[str | None]],
    ) -> None:
        """Answer why something could not be done, or else when it is stored."""
        if isinstance(outcome, str):
            for answer in answers:
                answer.set_result(outcome)
        elif answers or isinstance(request, Discharge):
            until = time.monotonic() + STORE_TIMEOUT
            self._unstored.append(_Unstored(request, device or "", outcome, until, answers))

    def _answer_stored(self, changes: Changes, everything: bool = False) -> None:
        """Answer what is stored, cannot be, or is not in time; the order is the history's."""
        now, unstored = time.monotonic(), self._unstored
        while unstored and (everything or unstored[0].stored.done() or unstored[0].until <= now):
            request, device, stored, _, answers = unstored.popleft()
            if not stored.done() and self._lines.admits(("unstored", device), now):
                what, withheld = type(request).__name__.lower(), self._lines.take_withheld()
                log.warning("not in the history yet", request=what, withheld=withheld)
            if self.leaving.get(device) is stored:
                del self.leaving[device]
                if device not in self._elsewhere:  # else it is heard again, by that one
                    changes.save(device)
            for answer in answers:
                answer.set_result(None)

    def _log_problem(self, request: Request, device: str | None, problem: str) -> None:
        what = type(request).__name__.lower()
        if self._lines.admits((what, device), time.monotonic()):
            withheld = self._lines.take_withheld()
            log.warning("not done", request=what, reason=problem, withheld=withheld)

    def _do(
        self, request: Request, device: str | None, changes: Changes, now: float
    ) -> str | Stored:
        """Do what is asked; return why it cannot be done, or else its being stored."""
        if device in self._elsewhere:
            return f"{device!r} is watched by another monitor"
        if isinstance(request, Shelve):
            return self._shelve(request, device or "", now, changes)
        if isinstance(request, Admit):
            return self._admit(request, device or "", now)
        if isinstance(request, Discharge):
            return self._discharge(request, device or "", now, changes)
        if isinstance(request, Choose):
            return self._choose(request, device or "", now)
        if not isinstance(request, Acknowledge):
            return f"{type(request).__name__.lower()} cannot be done here"
        name = self._alarms.open.get(request.id)
        if name is None or device not in (None, name):
            return f"no alarm with the id {request.id} is open"
        seen = Acknowledged(request.by, rfc3339(now), request.note)
        alarm = self._alarms.raised_by(request.id)
        for decision in self._alarms.acknowledge(request.id, seen):
            changes.add(decision, now, self._detectors.for_device(name))
        changes.save(name)
        return self._note(Action("acknowledged", name, request.by, now, alarm, note=request.note))

    def _shelve(self, request: Shelve, name: str, now: float, changes: Changes) -> str | Stored:
        if self._alarms.find(name) is None:
            return f"no device {name!r} is known"
        if not request.minutes:
            return self.unshelve(name, request.by, now, changes)
        until, kinds = now + 60 * request.minutes, tuple(dict.fromkeys(request.kinds))
        detector = self._detectors.for_device(name)
        for decision in self._alarms.shelve(name, Shelf(request.by, now, until, kinds)):
            changes.add(decision, now, detector, deferred=True)
        changes.save(name)
        return self._note(Action("shelved", name, request.by, now, until=until, kinds=kinds))

    def unshelve(self, name: str, by: str, now: float, changes: Changes) -> Stored:
        """Unshelve a device, and alert of its alarms that are still open."""
        detector = self._detectors.for_device(name)
        for decision in self._alarms.unshelve(name):
            changes.add(decision, now, detector, deferred=True)
        changes.save(name)
        return self._note(Action("unshelved", name, by, now))

    def _judge(
        self,
        request: Judge,
        device: str | None,
        now: float,
        answer: Future[str | None] | None = None,
    ) -> None:
        """Have a judgement stored. The history knows which alarms there were, and answers later."""
        judgement = Judgement(request.id, device, request.verdict, request.note, request.by, now)
        stored = self._history.judge(judgement)
        self._pending.append(_PendingJudgement(request, device, stored, answer))

    def _answer_judgements(self, changes: Changes, now: float) -> None:
        """Answer the judgements that are stored, or cannot be."""
        pending, self._pending = self._pending, []
        for each in pending:
            if each.answer is not None and each.answer.cancelled():
                each.stored.cancel()
            if each.stored.done():
                self._answer_judgement(each, changes, now)
            else:
                self._pending.append(each)

    def _answer_judgement(self, pending: _PendingJudgement, changes: Changes, now: float) -> None:
        request, device, stored, answer = pending
        if stored.cancelled():  # who asked has been told that it failed
            return
        alarm, problem = None, None
        try:
            alarm = stored.result()
        except Failure as failure:
            problem = str(failure)
        else:
            if alarm is None:
                whose = "" if device is None else f" of {device!r}"
                problem = f"no alarm{whose} with the id {request.id} is in the history"
        if alarm is None and answer is None and device in self._elsewhere:
            return  # whose history has it answers
        name = device if alarm is None else alarm.device
        if name is not None:
            judged = Judged(
                request.id,
                name,
                request.verdict,
                request.note,
                request.by,
                rfc3339(now),
                alarm.id if alarm else None,
                alarm.kind if alarm else None,
                problem,
            )
            changes.judged.append(judged)
        if answer is not None and answer.set_running_or_notify_cancel():
            answer.set_result(problem)
        if alarm is None:
            if answer is None and problem is not None:
                self._log_problem(request, device, problem)
        elif self._lines.admits(("judged", alarm.id), time.monotonic()):
            log.info(
                "judged",
                device=alarm.device,
                alarm=alarm.id,
                verdict=request.verdict,
                by=request.by,
                withheld=self._lines.take_withheld(),
            )

    def _pass_on(
        self,
        request: Admit | Discharge | Choose,
        name: str | None,
        changes: Changes,
        answer: Future[str | None],
    ) -> None:
        """Publish what was asked over HTTP, for the learner has to hear it, too.

        It comes back to us as what is asked over MQTT does, and is done and answered then.
        """
        name = name or ""
        if answer.cancelled():
            return
        if (problem := self._obstacle(request, name)) is None:
            changes.passed_on.append((name, request))
            until = time.monotonic() + RETURN_TIMEOUT
            self._passed_on.append(_PassedOn(request, name, until, answer))
        elif answer.set_running_or_notify_cancel():
            answer.set_result(problem)

    def _answer_passed_on(self) -> None:
        """Say of what has not come back that it is not done yet."""
        now = time.monotonic()
        for each in self._passed_on:
            if each.until <= now and each.answer.set_running_or_notify_cancel():
                each.answer.set_result("not yet: it is done when the broker passes it on")
        self._passed_on = [each for each in self._passed_on if not each.answer.done()]

    def _obstacle(self, request: Admit | Discharge | Choose, name: str) -> str | None:
        """Return why something that was asked over HTTP cannot be passed on; None if it can."""
        try:
            topic_to_publish(DEVICE, name)
        except UsageError as error:
            return str(error)
        if isinstance(request, Choose):
            return self._no_choice(request, name)
        return self._unknown(name) if isinstance(request, Discharge) else None

    def _admit(self, request: Admit, name: str, now: float) -> Stored:
        """Note who was admitted; what comes of it is said in `ecg/<device>/patient`."""
        self._patients.admit(name, now, time.monotonic())
        return self._note(Action("admitted", name, request.by, now))

    def _discharge(
        self, request: Discharge, name: str, now: float, changes: Changes
    ) -> str | Stored:
        if problem := self._unknown(name):
            return problem
        self._forget(name, now, changes, request.keep_model)
        stored = self._note(Action("discharged", name, request.by, now))
        self.leaving[name] = stored
        return stored

    def _forget(self, name: str, now: float, changes: Changes, keep_model: bool = True) -> None:
        """Forget a device whose patient has left, and clear its alarms."""
        detector = self._detectors.for_device(name)
        for decision in self._alarms.discharge(name, time.monotonic()):
            changes.add(decision, now, detector)
        self._pipeline.forget(name)
        self._patients.discharge(name, keep_model)
        changes.save(name)

    def _unknown(self, name: str) -> str | None:
        known = self._alarms.find(name) is not None or self._patients.knows(name)
        return None if known else f"no device {name!r} is known"

    def _choose(self, request: Choose, name: str, now: float) -> str | Stored:
        """Note who chose a model; it is the learner who puts it into the folder."""
        if problem := self._no_choice(request, name):
            return problem
        return self._note(Action("chose a model", name, request.by, now))

    def _no_choice(self, request: Choose, name: str) -> str | None:
        """Return why a model cannot be chosen; None if it can."""
        if request.model != "previous" and self._detectors.trial(name) is None:
            return f"no new model is tried at {name!r}"
        return self._patients.obstacle()

    def _note(self, action: Action) -> Stored:
        """Keep and log what somebody did."""
        stored = self._history.note(action)
        on = action.alarm or action.device
        if self._lines.admits((action.action, on), time.monotonic()):
            log.info(
                action.action,
                device=action.device,
                alarm=action.alarm,
                by=action.by,
                until=action.until and rfc3339(action.until),
                kinds=action.kinds or None,
                withheld=self._lines.take_withheld(),
            )
        return stored
