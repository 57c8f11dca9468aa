"""Operator requests, done and kept with who did it.

People acknowledge or judge an alarm, shelve a device, admit or discharge a patient, or choose his
model.
"""

import time
from collections.abc import Container
from concurrent.futures import Future
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
from monitor.history.writer import HistoryWriter, JudgedAlarm
from monitor.logs import LINES, Throttle
from monitor.times import rfc3339
from monitor.topics import DEVICE, topic_to_publish

log = structlog.get_logger()


class _PendingJudgement(NamedTuple):
    """A judgement that the history is storing; `answer` is for who asked over HTTP."""

    request: Judge
    device: str | None
    stored: Future[JudgedAlarm | None]
    answer: Future[str | None] | None


class RequestHandler:
    """Does operator requests, in the loop's thread."""

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

        Add the answers to judgements, too, that the history has stored since the last call. `now`
        is the turn's own: by another clock, a shelf could begin after the turn looks which are
        over, and count as one of them.
        """
        while not self._asked.empty():
            device, request, answer = self._asked.get()
            if isinstance(request, Judge):
                self._judge(request, device, now, answer)
            elif answer.set_running_or_notify_cancel():  # else who asked was told that it failed
                if isinstance(request, Admit | Discharge | Choose):
                    answer.set_result(self._pass_on(request, device, changes))
                else:
                    answer.set_result(self._do(request, device, changes, now))
        self._answer_judgements(changes, now)

    def handle(self, request: Request, device: str, changes: Changes, now: float) -> None:
        """Do what was asked over MQTT, where only a judgement is answered."""
        if isinstance(request, Judge):
            self._judge(request, device, now)
        elif device in self._elsewhere:
            return
        elif (problem := self._do(request, device, changes, now)) is not None:
            self._log_problem(request, device, problem)

    def _log_problem(self, request: Request, device: str | None, problem: str) -> None:
        what = type(request).__name__.lower()
        if self._lines.admits((what, device), time.monotonic()):
            withheld = self._lines.take_withheld()
            log.warning("not done", request=what, reason=problem, withheld=withheld)

    def _do(self, request: Request, device: str | None, changes: Changes, now: float) -> str | None:
        """Do what is asked; return why it cannot be done, None once it is."""
        if device in self._elsewhere:
            return f"{device!r} is watched by another monitor"
        if isinstance(request, Shelve):
            return self._shelve(request, device or "", now, changes)
        if isinstance(request, Admit):
            self._admit(request, device or "", now)
            return None
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
        self._note(Action("acknowledged", name, request.by, now, alarm, note=request.note))
        changes.save(name)
        return None

    def _shelve(self, request: Shelve, name: str, now: float, changes: Changes) -> str | None:
        if self._alarms.find(name) is None:
            return f"no device {name!r} is known"
        if not request.minutes:
            self.unshelve(name, request.by, now, changes)
            return None
        until, kinds = now + 60 * request.minutes, tuple(dict.fromkeys(request.kinds))
        detector = self._detectors.for_device(name)
        for decision in self._alarms.shelve(name, Shelf(request.by, now, until, kinds)):
            changes.add(decision, now, detector, deferred=True)
        self._note(Action("shelved", name, request.by, now, until=until, kinds=kinds))
        changes.save(name)
        return None

    def unshelve(self, name: str, by: str, now: float, changes: Changes) -> None:
        """Unshelve a device, and alert of its alarms that are still open."""
        detector = self._detectors.for_device(name)
        for decision in self._alarms.unshelve(name):
            changes.add(decision, now, detector, deferred=True)
        self._note(Action("unshelved", name, by, now))
        changes.save(name)

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
        self, request: Admit | Discharge | Choose, name: str | None, changes: Changes
    ) -> str | None:
        """Publish what was asked over HTTP, for the learner has to hear it, too.

        It comes back to us as what is asked over MQTT does, and is done then.
        """
        try:
            topic_to_publish(DEVICE, name or "")
        except UsageError as error:
            return str(error)
        assert name is not None
        if isinstance(request, Choose) and (problem := self._no_choice(request, name)):
            return problem
        if isinstance(request, Discharge) and (problem := self._unknown(name)):
            return problem
        changes.passed_on.append((name, request))
        return None

    def _admit(self, request: Admit, name: str, now: float) -> None:
        """Note who was admitted; what comes of it is said in `ecg/<device>/patient`."""
        self._patients.admit(name, now, time.monotonic())
        self._note(Action("admitted", name, request.by, now))

    def _discharge(self, request: Discharge, name: str, now: float, changes: Changes) -> str | None:
        if problem := self._unknown(name):
            return problem
        detector = self._detectors.for_device(name)
        for decision in self._alarms.discharge(name, time.monotonic()):
            changes.add(decision, now, detector)
        self._pipeline.forget(name)
        self._patients.discharge(name, request.keep_model)
        self._note(Action("discharged", name, request.by, now))
        changes.save(name)
        return None

    def _unknown(self, name: str) -> str | None:
        known = self._alarms.find(name) is not None or self._patients.knows(name)
        return None if known else f"no device {name!r} is known"

    def _choose(self, request: Choose, name: str, now: float) -> str | None:
        """Note who chose a model; it is the learner who puts it into the folder."""
        if problem := self._no_choice(request, name):
            return problem
        self._note(Action("chose a model", name, request.by, now))
        return None

    def _no_choice(self, request: Choose, name: str) -> str | None:
        """Return why a model cannot be chosen; None if it can."""
        if request.model != "previous" and self._detectors.trial(name) is None:
            return f"no new model is tried at {name!r}"
        return self._patients.obstacle()

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
                kinds=action.kinds or None,
                withheld=self._lines.take_withheld(),
            )
