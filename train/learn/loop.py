"""The learner: take in requests and beats, fit, put the model in its place, report.

It is built as the daemons of `monitor` are, on the same connections: one thread, one session of its
own. A message is acknowledged when what it changes stands in the journal, so a process that is
killed goes on where it stood. A patient's states, each on the journal:

    collecting  good beats come, until there are enough: waiting; or too few, too poor: failed
    waiting     in line
    fitting     in the worker's hands; then done, or trial where a model is in use already, or
                failed; waiting again if the worker died
    trial       beside the model in use, until somebody chooses or the time is over: done

Requests are taken in at any time. What they change in the folder of models is a task in the
journal, done after it is written there, and done again until it succeeds.
"""

import importlib.util
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from monitor.alarms import operator_requests
from monitor.alarms.operator_requests import Admit, Choose, Discharge
from monitor.alarms.patients import PROGRESS, Learning, Progress
from monitor.daemon.lifecycle import Lifecycle, serve_site
from monitor.ecg import beat, codec, quality
from monitor.errors import Failure, Rejected
from monitor.logs import LINES, RejectionLog, Throttle
from monitor.metrics import LearnMetrics
from monitor.mqtt.alert_sender import AlertSender
from monitor.mqtt.beat_consumer import BeatConsumer, Message
from monitor.mqtt.connection import wait
from monitor.mqtt.packets import READ_SIZE
from monitor.settings import Settings
from monitor.times import rfc3339
from monitor.topics import Topics, subscription, topic_of
from monitor.web.routes import health_and_metrics
from train.detectors import ecg5000, patient
from train.learn.journal import Admission, Collected, Journal, Task
from train.learn.versions import Models
from train.learn.worker import Job, Result, Worker

log = structlog.get_logger()

REQUESTS: Final = ("admit", "discharge", "model")
"""The levels below a device's topic on which requests for the learner come."""

BEATS_A_MINUTE: Final = 75
"""Good beats that a minute of `learn.minutes` counts for, however fast the heart beats."""

PATIENCE: Final = 3.0
"""Times the minutes asked for within which the good beats must come: two of three may be poor or
missing."""

LEAST_PATIENCE: Final = 600.0
"""Seconds within which they may come in any case: a lead is often put on again first."""

POOREST: Final = 1.0
"""Poor beats for each good one that is needed, at which the signal is too noisy to learn from: a
lead that is off half of the time is put on anew, not learnt."""

PATIENTS: Final = 1000
"""Patients learnt at once, at most, and past ones whose report is kept: names come from outside."""

TRIES: Final = 2
"""Fits of the same beats, at most, that the worker may die of."""

RETRY: Final = 10.0
"""Seconds after which the folder of models, or the journal, is tried again."""

REPORT_INTERVAL: Final = 2.0
"""Seconds between two reports on a patient while beats are collected."""

POLL_TIMEOUT: Final = 0.25
"""Seconds to wait for messages before the stop flag, the worker and the clock are looked at."""

DRAIN_TIMEOUT: Final = 3.0
"""Seconds that the last publishes may take when the learner is asked to stop."""

CLOCK_INTERVAL: Final = 0.5
"""Seconds between two looks at what is due."""

LEARNING: Final = ("collecting", "waiting", "fitting")


class Learner:
    """Learns a model of every patient that is admitted, until it is told to stop."""

    def __init__(
        self, settings: Settings, metrics: LearnMetrics, epochs: int = ecg5000.EPOCHS
    ) -> None:
        self._settings, self._metrics, self._epochs = settings, metrics, epochs
        self._models = Models(settings.model.folder)
        self._journal = Journal(settings.learn_journal)
        self._worker = Worker()
        name = f"{settings.mqtt.client_id}-learn"
        requested = [f"{settings.output.topic}/{end}" for end in REQUESTS]
        filters = [subscription(topic) for topic in requested]
        self._consumer = BeatConsumer(
            settings.mqtt, filters, 1, metrics, client_id=name, setting="output.topic"
        )
        reports = f"{settings.output.topic}/learning"
        self._sender = AlertSender(
            settings.mqtt, [], metrics, client_id=name, left=[subscription(reports)]
        )
        self.lifecycle = Lifecycle((self._consumer, self._sender))
        self._requested, self._topics = Topics(requested), Topics(settings.input.topic)
        self._reports = Topics([reports])
        self._admissions: dict[str, Admission] = {}
        self._keys: dict[str, set[int]] = {}  # of the beats that each device has in the journal
        self._held: list[Message] = []  # that the journal has not taken yet
        self._journal_problem: str | None = None
        self._reported: dict[str, tuple[float, Learning]] = {}  # when on the monotonic clock, what
        self._rejections = RejectionLog(metrics.rejected)
        self._lines = Throttle(LINES)
        self._next_clock = self._retry_journal = self._retry_folder = 0.0

    # -- its life

    def startup(self) -> None:
        """Go on with what the journal has."""
        self._reload()
        tasks = [each.task for each in self._admissions.values() if each.task is not None]
        with suppress(OSError):  # they take room, and nothing else
            self._models.clear({Path(task.file) for task in tasks})
        log.info("started", folder=str(self._models.folder), patients=len(self._admissions))

    def turn(self) -> None:
        """Do all there is to do, once.

        Raises:
            ConfigurationError: the broker refuses the learner.
        """
        messages = self._receive()
        now, monotonic = time.time(), time.monotonic()
        self.lifecycle.tick(monotonic)
        if self._consumer.suspended or self._sender.suspended:
            return  # another one may be active, and write into the same journal
        self._take_in(messages, now, monotonic)
        self._written(lambda: self._fit(now, monotonic), monotonic)
        if monotonic >= self._next_clock:
            self._next_clock = monotonic + CLOCK_INTERVAL
            self._written(lambda: self._do_what_is_due(now, monotonic), monotonic)
            self._keep_house()
            self._withdraw()
            self._report(monotonic)
        self._sender.send()
        self._sender.write()
        self._consumer.write()

    def shutdown(self) -> None:
        """End the fit, which begins again at the next start; publish "stopped", disconnect."""
        self._worker.stop()
        self._sender.publish_status("stopped")
        self._sender.finish(DRAIN_TIMEOUT)
        self._consumer.disconnect()
        self._sender.disconnect()
        self._journal.close()
        log.info("stopped")

    # -- messages

    def _receive(self) -> list[Message]:
        ready = wait((self._consumer, self._sender), POLL_TIMEOUT)
        self._consumer.maintain()
        self._sender.maintain()
        self._consumer.pause(self._sender.full or bool(self._held))
        if self._sender in ready:
            self._sender.read()
        return self._consumer.collect(READ_SIZE)

    def _take_in(self, messages: list[Message], now: float, monotonic: float) -> None:
        """Take in messages, write down what they change, and only then acknowledge them."""
        self._held += messages
        if not self._held or monotonic < self._retry_journal:
            return

        def take() -> None:
            for message in self._held:
                self._take(message, now)

        if self._written(take, monotonic):
            self._held.clear()
            self._consumer.acknowledge()
            self._follow()

    def _take(self, message: Message, now: float) -> None:
        end = message.topic.rpartition(b"/")[2].decode(errors="replace")
        try:
            if end in REQUESTS:
                self._do(message, self._requested.device(message.topic), now)
            else:
                self._collect(message, self._topics.device(message.topic), now)
        except Rejected as rejected:
            self._rejections.add(message.topic, rejected.reason, str(rejected))

    def _do(self, message: Message, device: str, now: float) -> None:
        """Do what somebody asks about a patient.

        Raises:
            Rejected: it cannot be understood.
        """
        request = operator_requests.decode_from(message.topic, message.payload)
        content = message.topic + b"\0" + message.payload
        if message.redelivered and self._journal.seen(message.mid, content):
            return
        if message.mid:
            self._journal.note(message.mid, content)
        log.info("asked", request=type(request).__name__.lower(), device=device, by=request.by)
        known = self._admissions.get(device)
        if known is not None and known.task is not None and not self._carry_out(known, now):
            return  # the report says why; one after the other, or a model could go to a stranger
        if isinstance(request, Admit):
            self._admit(device, request, now)
        elif isinstance(request, Discharge):
            known = self._admissions.get(device) or _past(device, request.by, now)
            task = Task("keep" if request.keep_model else "forget")
            self._keep(replace(known, state="done", task=task, problem=None))
            self._journal.drop_beats(device)
        elif isinstance(request, Choose):
            self._choose(device, request, now)

    def _admit(self, device: str, request: Admit, now: float) -> None:
        known = self._admissions.get(device)
        if known is not None and known.state in LEARNING:
            since = rfc3339(known.admitted)
            problem = f"already learning since {since}, admitted by {known.by}; discharge first"
            self._keep(replace(known, problem=problem))
            return
        if sum(each.state in LEARNING for each in self._admissions.values()) >= PATIENTS:
            problem = f"{PATIENTS:,} patients are being learnt, which is the most; try again later"
            known = known or replace(_past(device, request.by, now), state="failed")
            self._keep(replace(known, problem=problem))
            return
        minutes = request.minutes or self._settings.learn.minutes
        self._journal.drop_beats(device)
        self._keys[device] = set()
        self._keep(
            Admission(
                device=device,
                state="collecting",
                by=request.by,
                admitted=now,
                since=now,
                needed=max(round(BEATS_A_MINUTE * minutes), patient.FEWEST),
                limit=max(PATIENCE * 60 * minutes, LEAST_PATIENCE),
                task=Task("drop") if known is not None and known.state == "trial" else None,
            )
        )

    def _choose(self, device: str, request: Choose, now: float) -> None:
        known = self._admissions.get(device) or _past(device, request.by, now)
        on_trial = known.state == "trial"
        if request.model == "previous":
            try:
                previous = self._models.previous(device)
            except OSError as error:
                self._keep(replace(known, problem=self._models.explain(error)))
                return
            if on_trial:
                problem = "a new model is on trial: choose the new or the old one first"
            elif previous is None:
                problem = "there is no earlier model to go back to"
            else:
                self._keep(replace(known, task=Task("install", str(previous)), problem=None))
                return
        elif not on_trial:
            problem = "no new model is on trial"
        elif request.model == "new":
            task = Task("install", str(self._models.on_trial(device)))
            self._keep(replace(known, task=task, problem=None))
            return
        else:
            self._keep(replace(known, state="done", since=now, task=Task("drop"), problem=None))
            return
        self._keep(replace(known, problem=problem))

    def _collect(self, message: Message, device: str, now: float) -> None:
        """Take in beats of a patient who is learnt.

        Raises:
            Rejected: the message cannot be decoded.
        """
        known = self._admissions.get(device)
        if known is None or known.state != "collecting":
            # A subscription that an earlier process left, or that is just being given up.
            if self._lines.admits(("unasked", device), message.arrived):
                for topic in self._filters(device):
                    self._consumer.leave(topic)
            return
        beats = codec.decode(message.payload, message.content_type, self._settings.input.payload)
        samples = beat.samples(beats.data)
        times = beats.times(now)
        keys = beats.keys(beat.fingerprints(samples).tolist(), times)
        # Without number and time a beat may equal another one, unless the broker repeats it.
        repeats = beats.seq is not None or beats.time is not None or message.redelivered
        kept, held = self._keys[device], []
        for i, key in enumerate(keys):
            if repeats and key in kept:
                continue
            kept.add(key)
            rr = beats.rr_ms[i] if beats.rr_ms else None
            held.append(Collected(key, times[i], beats.number(i), rr, samples[i].tobytes()))
        if not held:
            return
        self._journal.add(device, held)
        taken = beat.samples(b"".join(each.samples for each in held))
        good = int((quality.assess(taken) == quality.GOOD).sum())
        self._metrics.beats.labels("good").inc(good)
        self._metrics.beats.labels("poor").inc(len(held) - good)
        known = replace(known, good=known.good + good, poor=known.poor + len(held) - good)
        if known.good >= known.needed:
            known = replace(known, state="waiting", since=now, turn=self._last_turn(), problem=None)
        elif known.poor >= POOREST * known.needed:
            poor = known.poor / (known.good + known.poor)
            problem = (
                f"too noisy: {poor:.0%} of {known.good + known.poor} beats are of poor quality"
            )
            known = self._failed(known, problem, now)
        self._keep(known)

    def _follow(self) -> None:
        """Hear the beats of those who are learnt, and of nobody else."""
        self._consumer.follow(
            {
                topic
                for each in self._admissions.values()
                if each.state == "collecting"
                for topic in self._filters(each.device)
            }
        )

    def _filters(self, device: str) -> list[str]:
        """Return the filters of a device's beats, none of which takes a share from the monitor."""
        return [
            subscription(topic, bare=True, device=device) for topic in self._settings.input.topic
        ]

    # -- fits

    def _fit(self, now: float, monotonic: float) -> None:
        """See how the fit under way ended, and begin the next."""
        job = self._worker.job
        if job is not None:
            result = self._worker.poll()
            if result is None:
                return
            self._end_fit(job, result, now)
        line = self._line()
        if not line:
            self._worker.stop()  # TensorFlow takes half a gigabyte
        elif monotonic >= self._retry_folder:
            first = line[0]
            try:
                self._models.probe()
            except OSError as error:
                self._fail_folder(first, error)
                return
            self._keep(replace(first, state="fitting", since=now, problem=None))
            out = self._models.new(first.device)
            self._worker.start(
                Job(first, str(self._settings.learn_journal), str(out), self._epochs)
            )

    def _end_fit(self, job: Job, result: Result, now: float) -> None:
        known = self._admissions.get(job.admission.device)
        log.info("fitted", device=job.admission.device, seconds=round(self._worker.seconds, 1),
                 outcome=result.outcome, reason=result.reason)  # fmt: skip
        self._metrics.fits.labels(result.outcome).inc()
        if known is None or known.state != "fitting" or known.admitted != job.admission.admitted:
            with suppress(OSError):  # discharged meanwhile
                Path(job.out).unlink(missing_ok=True)
        elif result.outcome == "fitted":
            self._metrics.fit.observe(self._worker.seconds)
            self._journal.drop_beats(known.device)
            self._keep(replace(known, task=Task("try", job.out)))
        elif result.outcome == "refused":
            self._keep(self._failed(known, result.reason, now))
        elif result.outcome == "unwritable":
            self._fail_folder(replace(known, turn=self._last_turn()), OSError(0, result.reason))
        elif known.deaths + 1 >= TRIES:
            self._keep(self._failed(known, f"the fit failed {TRIES} times: {result.reason}", now))
        else:
            self._keep(replace(known, state="waiting", since=now, deaths=known.deaths + 1))

    def _line(self) -> list[Admission]:
        """Return who waits for a fit, the next one first; a fit cut short is among them."""
        waiting = ("waiting",) if self._worker.job is not None else ("waiting", "fitting")
        line = [
            each
            for each in self._admissions.values()
            if each.state in waiting and each.task is None
        ]
        return sorted(line, key=lambda each: each.turn)

    def _last_turn(self) -> int:
        """Return a turn behind all others."""
        return 1 + max((each.turn for each in self._admissions.values()), default=0)

    # -- twice a second

    def _do_what_is_due(self, now: float, monotonic: float) -> None:
        retried = monotonic >= self._retry_folder
        heard = monotonic - self._consumer.since if self._consumer.connected else 0.0
        for each in list(self._admissions.values()):
            if each.task is not None:
                if retried:
                    self._carry_out(each, now)
            elif each.state == "trial" and now - each.since >= 60 * self._settings.learn.trial:
                task = Task("install", str(self._models.on_trial(each.device)))
                self._keep(replace(each, task=task))
            elif each.state == "collecting" and min(now - each.since, heard) >= each.limit:
                problem = (
                    f"too few beats: {each.good} good ones of {each.needed} came within "
                    f"{each.limit / 60:.0f} minutes"
                ) + (f", and {each.poor} of poor quality" if each.poor else "")
                self._keep(self._failed(each, problem, now))
        past = [each for each in self._admissions.values() if each.state in ("done", "failed")]
        for each in sorted(past, key=lambda each: each.since)[: max(len(past) - PATIENTS, 0)]:
            if each.task is None:
                self._forget(each.device)
        self._follow()

    def _carry_out(self, known: Admission, now: float) -> bool:
        """Do the task on a patient's files; return whether it is done."""
        device, task, state = known.device, known.task, known.state
        assert task is not None
        file = self._models.in_use(device)
        try:
            if task.do == "try":
                file = self._models.place(device, Path(task.file), self._settings.learn.trial > 0)
                state = "done" if file == self._models.in_use(device) else "trial"
            elif task.do == "install":
                self._models.install(device, Path(task.file))
                state = "done" if state in ("trial", "failed") else state
            elif task.do == "forget":
                self._models.forget(device)
            else:
                self._models.drop(device)
            sha256 = self._models.sha256(file)
        except OSError as error:
            self._fail_folder(known, error)
            return False
        log.info("models changed", device=device, change=task.do, sha256=sha256)
        if task.do in ("forget", "keep"):
            self._forget(device)
            self._sender.publish(self._topic(device), b"", retain=True)
            return True
        self._keep(
            replace(
                known,
                state=state,
                since=now if state != known.state else known.since,
                task=None,
                problem=None,
                model=str(file.relative_to(self._models.folder)) if sha256 else None,
                sha256=sha256,
            )
        )
        return True

    def _fail_folder(self, known: Admission, error: OSError) -> None:
        """Say that the folder of models cannot be written, and wait before it is tried again."""
        self._retry_folder = time.monotonic() + RETRY
        problem = f"{self._models.explain(error)}; trying again"
        state: Progress = "waiting" if known.task is None else known.state
        self._keep(replace(known, state=state, problem=problem))
        if self._lines.admits("folder", time.monotonic()):
            log.error("the folder of models cannot be written", reason=problem)

    def _keep_house(self) -> None:
        self.lifecycle.publish_status(self._sender, self._consumer.trouble)
        self._consumer.measure()
        self._metrics.connected.set(self._consumer.connected and self._sender.connected)
        for state in PROGRESS:
            count = sum(each.state == state for each in self._admissions.values())
            self._metrics.patients.labels(state).set(count)
        if self._consumer.new_session:  # the broker may have lost what it retained, too
            self._consumer.new_session = False
            self._reported.clear()

    # -- reports

    def _report(self, monotonic: float) -> None:
        """Publish how far each patient is, where that has changed."""
        places = {each.device: place for place, each in enumerate(self._line(), 1)}
        for device, known in self._admissions.items():
            leaving = known.task is not None and known.task.do in ("forget", "keep")
            if leaving and known.problem is None:
                continue
            said = self._learning(known, places.get(device))
            at, before = self._reported.get(device, (0.0, None))
            if said == before:
                continue
            progress = before is not None and replace(said, beats=before.beats) == before
            if progress and monotonic < at + REPORT_INTERVAL:
                continue
            self._reported[device] = monotonic, said
            self._sender.publish(self._topic(device), msgspec.json.encode(said), retain=True)

    def _withdraw(self) -> None:
        """Empty what is retained of patients of whom the journal knows nothing, as after its loss:
        the monitor would wait for their models for ever."""
        for report in self._sender.take_requests():
            if not (report.retain and report.payload):  # ours, as everybody hears it
                continue
            with suppress(Rejected):
                device = self._reports.device(report.topic)
                if device not in self._admissions:
                    log.warning("not in the journal, and learnt no more", device=device)
                    self._sender.publish(self._topic(device), b"", retain=True)

    def _learning(self, known: Admission, place: int | None) -> Learning:
        problem = known.problem
        if known.state == "collecting" and problem is None:
            refused = map(self._consumer.refused.get, self._filters(known.device))
            problem = self._journal_problem or next((each for each in refused if each), None)
        return Learning(
            state=known.state,
            since=rfc3339(known.since),
            by=known.by,
            beats=known.good,
            needed=known.needed,
            place=place,
            problem=problem,
            model=known.model,
            sha256=known.sha256,
        )

    def _topic(self, device: str) -> str:
        return topic_of(self._settings.output.topic, device, "learning")

    # -- the journal, and what memory has of it

    def _keep(self, admission: Admission) -> None:
        self._journal.keep(admission)
        self._admissions[admission.device] = admission
        if admission.state != "collecting":
            self._keys.pop(admission.device, None)

    def _forget(self, device: str) -> None:
        self._journal.forget(device)
        self._admissions.pop(device, None)
        self._keys.pop(device, None)
        self._reported.pop(device, None)

    def _failed(self, known: Admission, problem: str, now: float) -> Admission:
        """Return that a patient cannot be learnt; the model that he has goes on."""
        self._journal.drop_beats(known.device)
        log.warning("not learnt", device=known.device, reason=problem)
        return replace(known, state="failed", since=now, problem=problem)

    def _written(self, change: Callable[[], None], monotonic: float) -> bool:
        """Make a change in one transaction; return whether the journal took it."""
        before = self._journal.changes
        try:
            with self._journal.transaction():
                change()
        except sqlite3.Error as error:
            self._retry_journal = monotonic + RETRY
            self._metrics.unwritten.inc()
            file = self._settings.learn_journal
            self._journal_problem = f"learn.journal = '{file}': {error}; trying again"
            if self._lines.admits("journal", monotonic):
                log.error("the journal cannot be written", reason=str(error))
            with suppress(sqlite3.Error):
                self._reload()
            return False
        if self._journal.changes > before:
            self._journal_problem = None
        return True

    def _reload(self) -> None:
        """Read back what the journal has, where memory has more or nothing."""
        self._admissions = {each.device: each for each in self._journal.admissions()}
        self._keys = {
            each.device: self._journal.keys(each.device)
            for each in self._admissions.values()
            if each.state == "collecting"
        }


def _past(device: str, by: str, now: float) -> Admission:
    """Return a device whose patient is not learnt."""
    return Admission(device=device, state="done", by=by, admitted=now, since=now, needed=0)


def run(settings: Settings) -> None:
    """Run the learner with its metrics until it is told to stop.

    Raises:
        ConfigurationError: a setting, the journal, the folder of models or the address of the
            metrics cannot be used.
        Failure: TensorFlow is not installed.
    """
    metrics = LearnMetrics(CollectorRegistry())
    learner = Learner(settings, metrics)
    if importlib.util.find_spec("tensorflow") is None:
        raise Failure("learning needs tensorflow: pip install 'ecg-monitor[train]'")
    address = settings.metrics.model_copy(update={"port": settings.learn.port})
    serve_site(address, health_and_metrics(metrics.registry, learner.lifecycle))
    learner.lifecycle.run(learner)
