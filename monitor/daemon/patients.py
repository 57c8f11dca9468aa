"""By what each patient is watched: the shared model, his own, or for the time being neither.

All of it follows from the model files and from what the learner reports, which the broker keeps:
nothing has to be saved here for a restart.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from monitor.alarms.decisions import Alarms
from monitor.alarms.patients import LEARNS, Learning, Patient, State, decode_learning
from monitor.daemon.model_watch import DriftWatch, TrialWatch
from monitor.detector.per_device import Detectors
from monitor.errors import Rejected
from monitor.settings import Settings
from monitor.times import from_rfc3339, rfc3339
from monitor.topics import Topics, subscription

LEARNER_TIMEOUT = 30.0
"""Seconds that the learner may be away before the shared model watches again: it needs ten to
start, with TensorFlow, and its service is started again after one."""

ANSWER_TIMEOUT = 10.0
"""Seconds that the learner may take to report of a patient who was admitted."""

TAKE_OVER_TIMEOUT = 5.0
"""Seconds from the report that a model is written to its use; a file is looked at twice a second,
and has to stand still for one look."""

TRIAL_INTERVAL = 5.0
"""Seconds between two publications of how a trial stands."""

ASK_AGAIN = 3600.0
"""Seconds after which a device without a model is admitted again, with `learn.automatic`."""

MAX_PER_TURN = 200
"""Patients that are published, or admitted automatically, between two looks at the network."""

MAX_REPORTS = 65536
"""Devices whose reports of the learner are kept: whoever may write there could make up more."""


@dataclass(slots=True)
class _Record:
    """What is known of the patient at a device.

    Attributes:
        state, since: as they were made known last; `since` in seconds since 1970.
        learning: the last report of the learner, and when it came, on the monotonic clock.
        asked: when the patient was admitted, on the same clock, until the learner reports.
        wanted: whether something was asked about the device, so that it is made known.
        published: what is retained on the broker, as far as we have published it.
    """

    state: State | None = None
    since: float = 0.0
    learning: Learning | None = None
    reported: float = 0.0
    asked: float | None = None
    wanted: bool = False
    published: Patient | None = None


class Patients:
    """The patients of all devices.

    Attributes:
        unwatched: the devices whose patients' models are being learnt: there, the shape of beats
            is not watched.
        counts: of the patients that were made known, how many are in each state.
    """

    def __init__(
        self,
        settings: Settings,
        detectors: Detectors,
        alarms: Alarms,
        trials: TrialWatch,
        drifts: DriftWatch,
        started: float,
    ) -> None:
        """Follow these; `started` is on the monotonic clock."""
        self.unwatched: set[str] = set()
        self.counts: Counter[State] = Counter()
        self._detectors, self._alarms = detectors, alarms
        self._trials, self._drifts = trials, drifts
        self._folder = settings.model.folder
        self._automatic = settings.learn.automatic and self._folder is not None
        learning = f"{settings.output.topic}/learning"
        self._topics = Topics([learning])
        self._learner = f"ecg-monitor/{settings.mqtt.client_id}-learn/status"
        self.filters = [subscription(learning), self._learner]
        self._status = ""  # of the learner, as it was last reported
        self._away: float | None = started  # since when the learner is; None while it is there
        self._records: dict[str, _Record] = {}
        self._dirty: dict[str, None] = {}
        self._waiting: dict[str, None] = {}  # of which the clock may change something
        self._removed: dict[str, None] = {}
        self._to_admit: list[tuple[float, str]] = []
        self._trials_at = 0.0

    # -- what is heard

    def is_report(self, topic: bytes) -> bool:
        """Return whether a message is one that the learner retains."""
        return topic.endswith(b"/learning") or topic == self._learner.encode()

    def report(self, topic: bytes, payload: bytes, wall: float, now: float) -> None:
        """Take in what the learner says of itself or of a patient.

        Args:
            topic: for which `is_report` is true.
            payload: what came.
            wall: in seconds since 1970.
            now: the same moment, on the monotonic clock.

        Raises:
            Rejected: it is no report.
        """
        if topic == self._learner.encode():
            self._hear_status(payload, now)
            return
        name = self._topics.device(topic)
        learning = decode_learning(payload) if payload else None
        record = self._records.get(name)
        if record is None:
            if learning is None:
                return
            if len(self._records) >= MAX_REPORTS and self._alarms.find(name) is None:
                raise Rejected("topic", f"{name[:40]!r}: too many devices are reported of")
            record = self._records[name] = _Record()
        record.learning, record.reported, record.asked = learning, now, None
        self._dirty[name] = None
        self._update(name, record, wall, now)

    def _hear_status(self, payload: bytes, now: float) -> None:
        if payload not in (b"online", b"stopped", b"offline", b""):
            raise Rejected("shape", "the status of the learner is online, stopped or offline")
        self._status = payload.decode()
        if payload == b"online":
            self._away = None
        elif self._away is None:
            self._away = now
        for name, record in self._records.items():
            if record.asked is not None or record.learning is not None:
                self._dirty[name] = None

    def appear(self, names: Iterable[str], now: float) -> None:
        """Take in devices that were heard and not known before."""
        for name in names:
            self._records.setdefault(name, _Record())
            self._dirty[name] = None
            if self._automatic:
                heapq.heappush(self._to_admit, (now, name))

    def touch(self, names: Iterable[str]) -> None:
        """Have patients looked at of whom something has changed."""
        self._dirty.update(dict.fromkeys(names))

    # -- what is asked

    def admit(self, name: str, wall: float, now: float) -> None:
        """Note that a patient was admitted, of whom the learner is to report."""
        record = self._records.setdefault(name, _Record())
        record.asked, record.wanted = now, True
        if record.learning is not None and record.learning.state == "failed":
            record.learning = None  # it is another attempt now
        self._dirty[name] = None
        self._update(name, record, wall, now)

    def discharge(self, name: str, keep_model: bool) -> None:
        """Forget a patient who has left, and use his model no more unless it is kept."""
        self._drop(name)
        self._drifts.forget(name)
        if not keep_model:
            self._detectors.discard(name)

    def forget(self, name: str) -> None:
        """Forget a device that is not heard any more, unless its patient has a model, or will."""
        record = self._records.get(name)
        if record is not None and record.state in (None, "shared") and record.asked is None:
            self._drop(name)

    def _drop(self, name: str) -> None:
        record = self._records.pop(name, None)
        if record is not None and record.published is not None:
            self.counts[record.published.state] -= 1
        self.unwatched.discard(name)
        self._dirty.pop(name, None)
        self._waiting.pop(name, None)
        self._removed[name] = None

    def knows(self, name: str) -> bool:
        """Return whether anything is known of a patient at this device."""
        return name in self._records or self._detectors.own(name) is not None

    # -- what follows

    def obstacle(self) -> str | None:
        """Return why nothing can be learnt at present; None if it can."""
        if self._folder is None:
            return "model.folder is not set: no models of patients' own can be used"
        if self._away is not None:
            status = self._status or "not seen"
            return f"ecg-train learn is not running ({status}): nothing is learnt until it is"
        return None

    def to_admit(self, now: float) -> list[str]:
        """Return the devices that are to be admitted by themselves, at most `MAX_PER_TURN`."""
        due: list[str] = []
        while self._to_admit and self._to_admit[0][0] <= now and len(due) < MAX_PER_TURN:
            if self._away is not None:
                break
            _, name = heapq.heappop(self._to_admit)
            record = self._records.get(name)
            if record is None or self._alarms.find(name) is None:
                continue  # it is forgotten, and appears again when it is heard
            again = now + ASK_AGAIN
            learning = record.learning
            if self._detectors.own(name) is None and (
                learning is None or learning.state in ("failed", "done")
            ):
                failed = learning is not None and learning.state == "failed"
                if failed and record.reported + ASK_AGAIN > now:
                    again = record.reported + ASK_AGAIN
                else:
                    due.append(name)
            heapq.heappush(self._to_admit, (again, name))
        return due

    def changes(self, wall: float, now: float) -> Iterator[tuple[str, Patient | None]]:
        """Yield the patients to make known, at most `MAX_PER_TURN`; None for one who has left.

        Args:
            wall: in seconds since 1970.
            now: the same moment, on the monotonic clock.
        """
        removed, self._removed = self._removed, {}
        yield from ((name, None) for name in removed)
        self._dirty.update(self._waiting)
        if now >= self._trials_at:
            self._trials_at = now + TRIAL_INTERVAL
            self._dirty.update(dict.fromkeys(self._trials.devices))
        for name in list(self._dirty)[:MAX_PER_TURN]:
            del self._dirty[name]
            record = self._records.get(name)
            if record is None:
                continue
            patient = self._update(name, record, wall, now)
            if patient == record.published or not self._is_made_known(name, record):
                continue
            if record.published is not None:
                self.counts[record.published.state] -= 1
            self.counts[patient.state] += 1
            record.published = patient
            yield name, patient

    def patient(self, name: str) -> Patient | None:
        """Return what was last made known of a patient; None if nothing was."""
        record = self._records.get(name)
        return None if record is None else record.published

    def _is_made_known(self, name: str, record: _Record) -> bool:
        heard = self._folder is not None and self._alarms.find(name) is not None
        return record.wanted or heard

    def _update(self, name: str, record: _Record, wall: float, now: float) -> Patient:
        """Bring the state of a patient up to date, and return what is to be said of him."""
        own, learning = self._detectors.own(name), record.learning
        written = self._detectors.written(name)
        awaited = (
            own is None
            and learning is not None
            and learning.state == "done"
            and self._detectors.problem(name) is None
        )
        late = awaited and now >= record.reported + TAKE_OVER_TIMEOUT
        gone = self._away is not None and now >= self._away + LEARNER_TIMEOUT
        learns = learning is not None and learning.state in LEARNS
        state: State = "shared"
        if own is not None:
            state = "own"
        elif (learns and not gone) or (awaited and not late):
            state = "learning"
        if state != record.state:
            record.state, record.since = state, wall
        since = record.since
        if state == "own" and written is not None:
            since = written
        elif state == "learning" and learning is not None:
            since = from_rfc3339(learning.since)
        if state == "learning":
            self.unwatched.add(name)
        else:
            self.unwatched.discard(name)
        if (
            record.asked is not None
            or (learns and self._away is not None)
            or (awaited and not late)
        ):
            self._waiting[name] = None
        else:
            self._waiting.pop(name, None)
        unfinished = learning
        if learning is not None and learning.state == "done" and state != "learning":
            unfinished = None
        return Patient(
            device=name,
            state=state,
            since=rfc3339(since),
            beats=None if unfinished is None else unfinished.beats,
            needed=None if unfinished is None else unfinished.needed,
            model=None if state == "learning" else self._detectors.for_device(name).name,
            sha256=None if state == "learning" else self._detectors.for_device(name).sha256,
            problem=self._problem(name, record, now, learns, late),
            progress=None if unfinished is None else unfinished.state,
            place=None if unfinished is None else unfinished.place,
            trial=self._trials.result(name),
            relearn=own is not None and self._drifts.has_moved(name, own),
        )

    def _problem(
        self, name: str, record: _Record, now: float, learns: bool, late: bool
    ) -> str | None:
        """Return what went wrong with a patient's model, the most recent first; None if all is
        well."""
        if record.asked is not None or learns:
            if (obstacle := self.obstacle()) is not None:
                return obstacle
            if record.asked is not None and now >= record.asked + ANSWER_TIMEOUT:
                return f"ecg-train learn has not answered for {ANSWER_TIMEOUT:g} s"
        learning = record.learning
        if learning is not None and (learning.problem or learning.state == "failed"):
            return learning.problem or "nothing could be learnt"
        if (problem := self._detectors.problem(name)) is not None:
            return problem
        return f"the model that was learnt is not in {self._folder}" if late else None
