"""Ask the monitor, over the broker, to admit or discharge a patient, or to choose his model.

What comes of it shows on `ecg/<device>/patient`, which is waited for.
"""

import getpass
from collections.abc import Iterator
from typing import Literal

import msgspec
from rich.console import Console

from monitor.alarms.operator_requests import Admit, Choose, Discharge, Request, topic
from monitor.alarms.patients import LEARNS, Patient
from monitor.commands.acknowledge import ANSWER_TIMEOUT, Connection, check_device
from monitor.errors import Failure
from monitor.settings import Settings
from monitor.topics import topic_of

LEARNER_TIMEOUT = 15.0
"""Seconds that the learner may take to answer; after ten the monitor says that it has not."""

RETAINED_TIMEOUT = 1.0
"""Seconds that what is retained of a patient may take to come, if anything is."""

FOREVER = 7 * 86400.0
"""Seconds that `admit --wait` waits at most."""


def admit(
    settings: Settings, device: str, minutes: float | None, by: str | None, wait: bool
) -> None:
    """Admit a patient, and wait until his heart is being learnt; with `wait`, until it is learnt.

    Raises:
        UsageError: no device can have this name.
        Failure: it cannot be learnt, or nobody answers.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    request = Admit(minutes, by or getpass.getuser())
    known: Patient | None = None
    shown = ""
    for before, patient in _asked(settings, device, request, FOREVER if wait else LEARNER_TIMEOUT):
        known = patient or before
        if patient is None:
            continue
        if patient.progress in LEARNS:
            if (line := _progress(patient)) != shown:
                shown = line
                console.print(f"{device}: {line}")
            if not wait:
                return
        elif patient.problem is not None:
            raise Failure(f"{device}: {patient.problem}")
        elif shown and patient.state == "own":
            tried = "; a new model is tried beside it" if patient.progress == "trial" else ""
            console.print(f"{device}: watched by its own model, {patient.model}{tried}")
            return
    if known is not None and known.problem is not None:  # nothing has changed
        raise Failure(f"{device}: {known.problem}")
    raise _no_answer(settings, device, request)


def _progress(patient: Patient) -> str:
    """Return how far a patient's model is, in words."""
    problem = f" ({patient.problem})" if patient.problem else ""
    if patient.progress == "waiting" and patient.place is not None:
        return f"waiting to be fitted, number {patient.place} in line{problem}"
    if patient.progress == "fitting":
        return f"being fitted{problem}"
    return f"learning, {patient.beats} of {patient.needed} beats{problem}"


def discharge(settings: Settings, device: str, keep_model: bool, by: str | None) -> None:
    """Discharge a patient.

    Raises:
        UsageError: no device can have this name.
        Failure: nobody answers.
    """
    request = Discharge(keep_model, by or getpass.getuser())
    asked = _asked(settings, device, request, ANSWER_TIMEOUT)
    next(asked)
    if all(patient is not None for _, patient in asked):
        raise _no_answer(settings, device, request)
    print(f"{device}: discharged; the model is {'kept' if keep_model else 'not used any more'}")


def choose(
    settings: Settings, device: str, model: Literal["new", "old", "previous"], by: str | None
) -> None:
    """Choose which of a patient's models watches.

    Raises:
        UsageError: no device can have this name.
        Failure: there is no such model, or nobody answers.
    """
    request = Choose(model, by or getpass.getuser())
    for before, patient in _asked(settings, device, request, LEARNER_TIMEOUT):
        if before is None:
            raise Failure(f"{device}: nothing is known of a patient there")
        if model != "previous" and before.trial is None:
            raise Failure(
                f"{device}: no new model is on trial, as it is when a patient with a model is "
                "admitted again"
            )
        if patient is None:
            continue
        tried = before.trial.sha256 if before.trial else None
        if model == "previous":
            over = patient.sha256 not in (None, before.sha256)
        else:
            over = patient.trial is None and (patient.sha256 == tried) == (model == "new")
        if over:
            print(f"{device}: watched by its model {patient.model} ({(patient.sha256 or '')[:12]})")
            return
        if patient.problem not in (None, before.problem):
            raise Failure(f"{device}: {patient.problem}")
    raise _no_answer(settings, device, request)


def _asked(
    settings: Settings, device: str, request: Request, timeout: float
) -> Iterator[tuple[Patient | None, Patient | None]]:
    """Send a request, and yield what was retained of the patient with each state that follows.

    First comes what was retained, with None, before anything is sent; None of later ones is that
    nothing is retained any more.
    """
    check_device(device)
    before: Patient | None = None
    with Connection(settings, device) as connection:
        patients = connection.listen(device, "patient")
        for payload in connection.heard(patients, RETAINED_TIMEOUT):
            before = _decode(payload)
            break
        yield before, None
        connection.send(device, topic(request), request)
        for payload in connection.heard(patients, timeout):
            yield before, _decode(payload)


def _decode(payload: bytes) -> Patient | None:
    """Return what is said of a patient; None if nothing is, or it cannot be read."""
    try:
        return msgspec.json.decode(payload, type=Patient)
    except (msgspec.DecodeError, RecursionError):
        return None


def _no_answer(settings: Settings, device: str, request: Request) -> Failure:
    where = topic_of(settings.output.topic, device, topic(request))
    return Failure(
        f"{device}: no answer; the monitor must be running with model.folder set, know the device "
        f"and be allowed to read {where}, and you must be allowed to write there"
    )
