"""Operator requests, done and kept with who did it.

People acknowledge or judge an alarm, shelve a device, admit or discharge a patient, or choose his
model. What they have been told is done must outlive a crash: who asked over HTTP is answered when
the history has it, and the broker the alarm as it stands then; that a patient has left, which only
the history remembers, is made known when that has it.
"""

import time
from collections.abc import Container
from concurrent.futures import Future, wait
from dataclasses import dataclass
from math import inf
from queue import SimpleQueue

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
from monitor.daemon.changes import Changes
from monitor.daemon.patients import Patients
from monitor.daemon.pipeline import Pipeline
from monitor.detector.per_device import Detectors
from monitor.errors import Failure, UsageError
from monitor.history.store import MODEL_NOT_KEPT, Action, Judgement
from monitor.history.writer import HistoryWriter, Stored
from monitor.logs import LINES, Throttle
from monitor.times import rfc3339
from monitor.topics import DEVICE, topic_to_publish

log = structlog.get_logger()

STORE_TIMEOUT = 2.0
"""Seconds that whoever asked waits for the history at most, where it is slow or the disk is full:
it takes a tenth, and `ecg-monitor discharge` waits five. For the broker as long again: a device
that another monitor watched until now is made known up to three seconds later."""

RETURN_TIMEOUT = 4.0
"""Seconds that what was passed on may take to come back, before who asked over HTTP is told so: in
time for that answer, which is waited for five."""


@dataclass(slots=True, eq=False)
class _Pending:
    """A request that is not answered yet.

    Attributes:
        answer: to who asked over HTTP; None for what came over MQTT.
        until: how long what is next may take, on the monotonic clock.
        waiting: how many publications must be with the broker before.
        arrived: as whatever waits for publications has it; a request is not timed.
    """

    request: Request
    device: str | None
    answer: Future[str | None] | None = None
    until: float = inf
    waiting: int = 0
    arrived: float = 0.0

    def asks(self, request: Request, device: str) -> bool:
        """Return whether it is this very request."""
        return (self.request, self.device) == (request, device)

    @property
    def given_up(self) -> bool:
        """Whether who asked over HTTP was told that it failed."""
        return self.answer is not None and self.answer.cancelled()

    def claim(self) -> bool:
        """Return whether somebody waits for the answer, and can no longer give up from now on."""
        return self.answer is not None and self.answer.set_running_or_notify_cancel()

    def reply(self, problem: str | None) -> None:
        """Answer why it was not done, or None once it is, if it was asked over HTTP and claimed."""
        if self.answer is not None:
            self.answer.set_result(problem)


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
        # A request over HTTP goes through these; one over MQTT, if it is answered, is stored only.
        self._asked: SimpleQueue[_Pending] = SimpleQueue()
        self._passed_on: list[_Pending] = []  # what comes back over MQTT, and is done then
        self._storing: list[tuple[_Pending, Stored]] = []
        self.leaving: dict[str, Stored] = {}
        self._lines = Throttle(LINES)

    def ask(self, request: Request, device: str | None = None) -> Future[str | None]:
        """Have a request done by the loop; called from other threads.

        Return a future of why it cannot be done, or of None once it is.
        """
        answer: Future[str | None] = Future()
        self._asked.put(_Pending(request, device, answer))
        return answer

    def answer(self, changes: Changes, now: float) -> None:
        """Do what other threads have asked, `now` in seconds since 1970, and add what it changes.

        Answer, too, what the history has stored since the last call. `now` is the turn's own: by
        another clock, a shelf could begin after the turn looks which are over, and count as one of
        them.
        """
        while not self._asked.empty():
            asked = self._asked.get()
            if isinstance(asked.request, Judge):
                self._judge(asked, asked.request, now)
            elif isinstance(asked.request, Admit | Discharge | Choose):
                self._pass_on(asked, asked.request, changes)
            elif asked.claim():  # else it was given up
                self._settle(asked, self._do(asked.request, asked.device, changes, now, asked))
        self._answer_pending(changes, now)

    def finish(self, changes: Changes, now: float) -> None:
        """Wait a little for the history, and answer what it was to store: the program ends."""
        wait([stored for _, stored in self._storing], STORE_TIMEOUT)
        self._answer_pending(changes, now)

    def handle(self, request: Request, device: str, changes: Changes, now: float) -> None:
        """Do what was asked over MQTT, where only a judgement is answered.

        Answer who asked the same over HTTP, if it was passed on.
        """
        if isinstance(request, Judge):
            self._judge(_Pending(request, device), request, now)
            return
        back = [each for each in self._passed_on if each.asks(request, device)]
        self._passed_on = [each for each in self._passed_on if each not in back]
        back = [each for each in back if each.claim()]
        if device in self._elsewhere:  # that one has heard it, too
            for each in back:
                each.reply(None)
            return
        outcome = self._do(request, device, changes, now)
        if isinstance(outcome, str):
            self._log_problem(request, device, outcome)
        for each in back or [_Pending(request, device)]:
            self._settle(each, outcome)

    def _settle(self, pending: _Pending, outcome: str | Stored) -> None:
        """Answer why something could not be done, or else when it is stored."""
        if isinstance(outcome, str):
            pending.reply(outcome)
        elif pending.answer is not None or isinstance(pending.request, Discharge):
            pending.until = time.monotonic() + STORE_TIMEOUT
            self._storing.append((pending, outcome))

    def _answer_pending(self, changes: Changes, now: float) -> None:
        """Answer what is stored, cannot be, or has taken too long."""
        monotonic = time.monotonic()
        for each in [each for each in self._passed_on if each.until <= monotonic]:
            self._passed_on.remove(each)
            if each.claim():
                each.reply("not yet: it is done when the broker passes it on")
        storing, self._storing = self._storing, []
        for each, stored in storing:
            if each.given_up:  # a judgement; who asked for anything else can no longer give up
                stored.cancel()
            left = each.until - monotonic
            if (not stored.done() and left > 0) or (each.waiting and left > -STORE_TIMEOUT):
                self._storing.append((each, stored))
            elif isinstance(each.request, Judge):
                self._answer_judgement(each, each.request, stored, changes, now)
            else:
                self._answer_stored(each, stored, changes)

    def _answer_stored(self, pending: _Pending, stored: Stored, changes: Changes) -> None:
        """Answer what is done, and make known who has left, also if the history takes too long."""
        request, device = pending.request, pending.device or ""
        if not stored.done() and self._lines.admits(("unstored", device), time.monotonic()):
            what, withheld = type(request).__name__.lower(), self._lines.take_withheld()
            log.warning("not in the history yet", request=what, withheld=withheld)
        if self.leaving.get(device) is stored:
            del self.leaving[device]
            if device not in self._elsewhere:  # else it is heard again, by that one
                changes.save(device)
        pending.reply("not for good yet: it is when the broker has it" if pending.waiting else None)

    def _log_problem(self, request: Request, device: str | None, problem: str) -> None:
        what = type(request).__name__.lower()
        if self._lines.admits((what, device), time.monotonic()):
            withheld = self._lines.take_withheld()
            log.warning("not done", request=what, reason=problem, withheld=withheld)

    def _do(
        self,
        request: Request,
        device: str | None,
        changes: Changes,
        now: float,
        asked: _Pending | None = None,
    ) -> str | Stored:
        """Do what is asked; return why it cannot be done, or else its being stored.

        Whoever `asked` waits for the alarm to be retained as well.
        """
        if device in self._elsewhere:
            return f"{device!r} is watched by another monitor"
        if isinstance(request, Shelve):
            return self._shelve(request, device or "", now, changes, asked)
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
        changes.save(name, asked=asked)
        return self._note(Action("acknowledged", name, request.by, now, alarm, note=request.note))

    def _shelve(
        self, request: Shelve, name: str, now: float, changes: Changes, asked: _Pending | None
    ) -> str | Stored:
        if self._alarms.find(name) is None:
            return f"no device {name!r} is known"
        if not request.minutes:
            return self.unshelve(name, request.by, now, changes, asked)
        until, kinds = now + 60 * request.minutes, tuple(dict.fromkeys(request.kinds))
        detector = self._detectors.for_device(name)
        for decision in self._alarms.shelve(name, Shelf(request.by, now, until, kinds)):
            changes.add(decision, now, detector, deferred=True)
        changes.save(name, asked=asked)
        return self._note(Action("shelved", name, request.by, now, until=until, kinds=kinds))

    def unshelve(
        self, name: str, by: str, now: float, changes: Changes, asked: _Pending | None = None
    ) -> Stored:
        """Unshelve a device, and alert of its alarms that are still open."""
        detector = self._detectors.for_device(name)
        for decision in self._alarms.unshelve(name):
            changes.add(decision, now, detector, deferred=True)
        changes.save(name, asked=asked)
        return self._note(Action("unshelved", name, by, now))

    def _judge(self, pending: _Pending, request: Judge, now: float) -> None:
        """Have a judgement stored. The history knows which alarms there were, and answers later."""
        judgement = Judgement(
            request.id, pending.device, request.verdict, request.note, request.by, now
        )
        self._storing.append((pending, self._history.judge(judgement)))

    def _answer_judgement(
        self, pending: _Pending, request: Judge, stored: Stored, changes: Changes, now: float
    ) -> None:
        """Say of which alarm a judgement is stored, or why it is not."""
        if stored.cancelled():  # who asked has been told that it failed
            return
        device, by_http = pending.device, pending.answer is not None
        alarm, problem = None, None
        try:
            alarm = stored.result()
        except Failure as failure:
            problem = str(failure)
        else:
            if alarm is None:
                whose = "" if device is None else f" of {device!r}"
                problem = f"no alarm{whose} with the id {request.id} is in the history"
        if alarm is None and not by_http and device in self._elsewhere:
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
        if pending.claim():
            pending.reply(problem)
        if alarm is None:
            if not by_http and problem is not None:
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
        self, pending: _Pending, request: Admit | Discharge | Choose, changes: Changes
    ) -> None:
        """Publish what was asked over HTTP, for the learner has to hear it, too.

        It comes back to us as what is asked over MQTT does, and is done and answered then.
        """
        if pending.given_up:
            return
        name = pending.device or ""
        if (problem := self._obstacle(request, name)) is None:
            changes.passed_on.append((name, request))
            pending.device, pending.until = name, time.monotonic() + RETURN_TIMEOUT
            self._passed_on.append(pending)
        elif pending.claim():
            pending.reply(problem)

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
        self.forget(name, now, changes, request.keep_model)
        note = "" if request.keep_model else MODEL_NOT_KEPT
        stored = self._note(Action("discharged", name, request.by, now, note=note))
        self.leaving[name] = stored
        return stored

    def forget(self, name: str, now: float, changes: Changes, keep_model: bool = True) -> None:
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
        return self._note(Action("chose a model", name, request.by, now, note=request.model))

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
