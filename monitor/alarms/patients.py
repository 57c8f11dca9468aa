"""What is said of a patient: by which model he is watched, and how far his own is learnt.

The learner reports on `ecg/<device>/learning`, the monitor publishes on `ecg/<device>/patient`;
both are retained.
"""

from typing import Annotated, Final, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from monitor.alarms.messages import check_time
from monitor.alarms.operator_requests import Name
from monitor.errors import Rejected

State = Literal["shared", "learning", "own"]
"""What watches the shape of beats: the model of all devices, nothing for now, the patient's own."""

STATES: tuple[State, ...] = get_args(State)

Progress = Literal["collecting", "waiting", "fitting", "trial", "done", "failed"]
"""How far a model is: beats are collected, then it waits for its turn and is fitted; a new model
beside an old one is on trial until somebody decides."""

PROGRESS: tuple[Progress, ...] = get_args(Progress)


LEARNS: Final[frozenset[Progress]] = frozenset({"collecting", "waiting", "fitting"})
"""The stages in which a model is being learnt."""

Count = Annotated[int, Meta(ge=0, lt=2**53)]

_Said = TypeVar("_Said", bound=msgspec.Struct)

Line = Annotated[str, Meta(max_length=1000)]


class Learning(msgspec.Struct, frozen=True, kw_only=True):
    """How far the model of a device is, as the learner reports it.

    Attributes:
        since: when this state began; RFC 3339, UTC.
        by: who admitted the patient.
        beats: good beats collected so far.
        needed: good beats that the fit needs.
        place: in the line of those that wait to be fitted, the next one being 1.
        problem: why it failed, in one line for people.
        model, sha256: of the file that was written, in the folder of models.
    """

    state: Progress
    since: str
    by: Name = "unknown"
    beats: Count
    needed: Count
    place: Annotated[int, Meta(ge=1, lt=2**53)] | None = None
    problem: Line | None = None
    model: Line | None = None
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None

    def __post_init__(self) -> None:
        """Refuse a time that is none, and what cannot be printed."""
        check_time(self.since)
        if not all((each or "").isprintable() for each in (self.by, self.problem, self.model)):
            raise ValueError("a character that cannot be printed")


def decode_learning(payload: bytes) -> Learning:
    """Read what the learner reports.

    Raises:
        Rejected: with the reason.
    """
    return _decode(payload, Learning)


def _decode(payload: bytes, kind: type[_Said]) -> _Said:
    try:
        return msgspec.json.decode(payload, type=kind)
    except msgspec.ValidationError as error:
        raise Rejected("shape", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("json", str(error)) from None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What the model in use and a new one made of the same beats.

    Attributes:
        since: when the counting began, with the trial or the last start of the monitor; RFC 3339,
            UTC.
        beats: scored by both.
        old_beats, new_beats: how many of them were anomalous to the model in use, and to the new.
        old_alarms, new_alarms: anomaly alarms that either raised, or would have.
        model, sha256: of the new model.
    """

    since: str
    beats: int
    old_beats: int
    new_beats: int
    old_alarms: int
    new_alarms: int
    model: str
    sha256: str


class Patient(msgspec.Struct, frozen=True, kw_only=True):
    """By what a device is watched, retained on `ecg/<device>/patient`.

    Attributes:
        state: "shared" by the model of all devices, "own" by the patient's, "learning" by the
            rhythm and the quality of the signal alone.
        since: when that began; RFC 3339, UTC.
        beats, needed: of the model that is learnt; None while none is.
        model, sha256: of the model in use; None while the shape of beats is not watched.
        problem: what went wrong, in one line for people.
        progress: of the model that is learnt, also beside one in use.
        place: in the line of those to be fitted.
        trial: None while no new model is tried.
        relearn: whether the patient's normal beats have moved away from the model.
    """

    device: str
    state: State
    since: str
    beats: int | None = None
    needed: int | None = None
    model: str | None = None
    sha256: str | None = None
    problem: str | None = None
    progress: Progress | None = None
    place: int | None = None
    trial: Trial | None = None
    relearn: bool = False


def decode_patient(payload: bytes) -> Patient:
    """Read what is retained of a patient.

    Raises:
        Rejected: with the reason.
    """
    patient = _decode(payload, Patient)
    try:
        check_time(patient.since)
    except ValueError as error:
        raise Rejected("shape", str(error)) from None
    return patient
