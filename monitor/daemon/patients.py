"""By what each patient is watched: the shared model, his own, or for the time being neither.

All of it follows from the model files and from what the learner reports, which the broker keeps:
nothing has to be saved here for a restart. What an earlier process made known of patients is read
back only so that none stays retained of whom nothing is true any more.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass

from monitor.alarms.decisions import Alarms
from monitor.alarms.device import FORGET_AFTER
from monitor.alarms.patients import (
    LEARNS,
    Learning,
    Patient,
    State,
    decode_learning,
    decode_patient,
)
from monitor.daemon.model_watch import DriftWatch, TrialWatch
from monitor.detector.per_device import Detectors
from monitor.errors import Rejected
from monitor.settings import Settings
from monitor.times import from_rfc3339, rfc3339
from monitor.topics import Topics, subscription

LEARNER_TIMEOUT = 30.0
"""Seconds that the learner may be away, or unable to write a model, before the shared model watches
again: it needs ten to start, with TensorFlow, and its service is started again after one."""

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

MAX_LEARNERS = 100
"""Learners whose statuses are kept; where several monitors share devices, they share one."""


@dataclass(slots=True)
class _Record:
    """What is known of the patient at a device.

    Attributes:
        state, since: as they were made known last; `since` in seconds since 1970.
        learning: the last report of the learner, and when it came, on the monotonic clock.
        held_up: since when, on the same clock, the learner has not been able to write the model,
            also while it tries again; None while nothing is in its way.
        asked: when the patient was admitted, on the same clock, until the learner reports.
        wanted: whether something was asked about the device, so that it is made known.
        published: what is retained on the broker, by us or by an earlier process.
    """

    state: State | None = None
    since: float = 0.0
    learning: Learning | None = None
    reported: float = 0.0
    held_up: float | None = None
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
        elsewhere: Container[str] = (),
    ) -> None:
        """Follow these, but for devices that are `elsewhere`: another monitor makes those known.

        `started` is on the monotonic clock.
        """
        self._elsewhere = elsewhere
        self.unwatched: set[str] = set()
        self.counts: Counter[State] = Counter()
        self._detectors, self._alarms = detectors, alarms
        self._trials, self._drifts = trials, drifts
        self._folder = settings.model.folder
        self._automatic = settings.learn.automatic and self._folder is not None
        learning = f"{settings.output.topic}/learning"
        patient = f"{settings.output.topic}/patient"
        self._topics, self._patient_topics = Topics([learning]), Topics([patient])
        learner = f"ecg-monitor/{settings.mqtt.client_id}-learn/status"
        self.filters = [subscription(learning), learner]
        self.left = [] if self._folder is None else [subscription(patient)]
        self._learner = learner.encode()
        self._statuses: dict[bytes, str] = {}  # of learners, by topic
        self._away: float | None = started  # since when the learner is; None while it is there
        self._records: dict[str, _Record] = {}
        self._dirty: dict[str, None] = {}
        self._waiting: dict[str, None] = {}  # of which the clock may change something
        self._removed: dict[str, None] = {}
        self._unheard: dict[str, float] = {}  # known by what was retained, and until when
        self._to_admit: list[tuple[float, str]] = []
        self._trials_at = 0.0

    # -- what is heard

    def is_report(self, topic: bytes) -> bool:
        """Return whether a message is one that the learner retains."""
        return topic.endswith((b"/learning", b"-learn/status"))

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
        if topic.endswith(b"/status"):
            self._hear_status(topic, payload, now)
            return
        name = self._topics.device(topic)
        learning = decode_learning(payload) if payload else None
        record = self._records.get(name)
        if record is None:
            if learning is None:
                return
            record = self._add(name)
        record.learning, record.reported, record.asked = learning, now, None
        if learning is None or learning.state not in ("waiting", "fitting"):
            record.held_up = None
        elif learning.state == "waiting" and learning.problem and record.held_up is None:
            record.held_up = now
        self._dirty[name] = None
        self._update(name, record, wall, now)

    def is_patient(self, topic: bytes) -> bool:
        """Return whether a message says what is retained of a patient."""
        return topic.endswith(b"/patient")

    def recover(
        self,
        topic: bytes,
        payload: bytes,
        now: float,
        is_of_who_left: Callable[[str, str], bool],
    ) -> None:
        """Take in what an earlier process left retained of a patient.

        A device that is not heard for as long as one that fell silent is forgotten as that is.

        Args:
            topic: for which `is_patient` is true.
            payload: what is retained.
            now: on the monotonic clock.
            is_of_who_left: whether what began at a device then, RFC 3339, is of a patient who was
                discharged since. A model that was kept began before he came back; he is made known
                again when he is heard.

        Raises:
            Rejected: it says nothing of a patient at this device.
        """
        name = self._patient_topics.device(topic)
        patient = decode_patient(payload)
        if patient.device != name:
            raise Rejected("topic", f"{name[:40]!r}: it is of another device")
        record = self._records.get(name)
        if name in self._elsewhere or (record is not None and record.published is not None):
            return
        left = name in self._alarms.discharged or is_of_who_left(name, patient.since)
        if record is None and left:  # and it was ended before it said so
            self._removed[name] = None
            return
        record = record or self._add(name)
        if record.state in (None, patient.state):
            record.state, record.since = patient.state, from_rfc3339(patient.since)
        record.published = patient
        self.counts[patient.state] += 1
        self._dirty[name] = None
        self._unheard[name] = now + FORGET_AFTER

    def _add(self, name: str) -> _Record:
        """Add a device of which was told, and which need not have been heard.

        Raises:
            Rejected: there are too many.
        """
        if len(self._records) >= MAX_REPORTS and self._alarms.find(name) is None:
            raise Rejected("topic", f"{name[:40]!r}: too many devices are reported of")
        record = self._records[name] = _Record()
        return record

    def give_away(self, name: str) -> None:
        """Leave it to another monitor, which hears the device now, to make a patient known."""
        record = self._records.get(name)
        if record is not None and record.published is not None:
            self.counts[record.published.state] -= 1
            record.published = None

    def _hear_status(self, topic: bytes, payload: bytes, now: float) -> None:
        if payload not in (b"online", b"stopped", b"offline", b""):
            raise Rejected("shape", "the status of the learner is online, stopped or offline")
        if topic not in self._statuses and len(self._statuses) >= MAX_LEARNERS:
            raise Rejected("topic", f"there are more than {MAX_LEARNERS} learners")
        self._statuses[topic] = payload.decode()
        if self._learner_status == "online":
            self._away = None
        elif self._away is None:
            self._away = now
        for name, record in self._records.items():
            if record.asked is not None or record.learning is not None:
                self._dirty[name] = None

    @property
    def _learner_status(self) -> str:
        """The last status of our learner or, where we have none, of one that several share."""
        shared = "online" if "online" in self._statuses.values() else ""
        return self._statuses.get(self._learner, shared or next(iter(self._statuses.values()), ""))

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

    @property
    def _unseen(self) -> bool:
        """Whether no learner was ever there, for which a broker would keep requests."""
        return not self._learner_status

    def obstacle(self) -> str | None:
        """Return why nothing can be learnt at present; None if it can."""
        if self._folder is None:
            return "model.folder is not set: no models of patients' own can be used"
        if self._away is not None:
            if self._unseen:
                return "ecg-train learn is not running (not seen): start it"
            status = self._learner_status
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
            self._forget_the_unheard(now)
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

    def _forget_the_unheard(self, now: float) -> None:
        for name in [name for name, until in self._unheard.items() if until <= now]:
            del self._unheard[name]
            if self._alarms.find(name) is None:
                self.forget(name)

    def patient(self, name: str) -> Patient | None:
        """Return what was last made known of a patient; None if nothing was."""
        record = self._records.get(name)
        return None if record is None else record.published

    def _is_made_known(self, name: str, record: _Record) -> bool:
        if name in self._elsewhere:
            return False
        heard = self._folder is not None and self._alarms.find(name) is not None
        return record.wanted or heard or record.published is not None

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
        stops = [each for each in (self._away, record.held_up) if each is not None]
        gone = bool(stops) and now >= min(stops) + LEARNER_TIMEOUT
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
        if record.asked is not None or (learns and stops) or (awaited and not late):
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
                lost = record.asked is not None and self._away is not None
                return f"{obstacle}, then admit again" if lost and self._unseen else obstacle
            if record.asked is not None and now >= record.asked + ANSWER_TIMEOUT:
                return f"ecg-train learn has not answered for {ANSWER_TIMEOUT:g} s"
        learning = record.learning
        if learning is not None and (learning.problem or learning.state == "failed"):
            return learning.problem or "nothing could be learnt"
        if (problem := self._detectors.problem(name)) is not None:
            return problem
        return f"the model that was learnt is not in {self._folder}" if late else None
