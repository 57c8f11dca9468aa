"""What the history says of a device: alarms with their strips, minutes, and what people did."""

from pathlib import Path
from typing import Final

import numpy as np

from monitor.alarms import burden, strips
from monitor.errors import Failure, Rejected, UsageError
from monitor.history import query
from monitor.history.query import PastAlarm
from monitor.history.store import Action
from monitor.report.content import Content, Event, Strip, limits, runs_told, to_draw
from monitor.settings import Settings
from monitor.times import from_rfc3339, rfc3339

MOST_ACTIONS: Final = 100
"""Most lines of what people did: a page of them."""


def report(file: Path, device: str, since: float, now: float, settings: Settings) -> Content:
    """Return what the history says of a device, from `since` to `now`, in seconds since 1970.

    Raises:
        UsageError: it knows nothing of this device since then.
        Failure: there is no history, or it cannot be read.
    """
    past = sorted(query.alarms(file, since, device), key=lambda each: each.raised)
    minutes = [each for each in query.minutes(file, device, since) if each.time <= now]
    if not past and not minutes:
        raise UsageError(f"--device {device!r}: nothing is kept of it since {rfc3339(since)}")
    events = [_event(each) for each in past]
    whose = {id(event): alarm.id for event, alarm in zip(events, past, strict=True)}
    for event in to_draw(events):
        event.strip, told = _strip(file, whose[id(event)])
        event.told = event.told if told is None else told
    runs = runs_told(events, settings.rhythm.for_device(device).run_beats)
    pauses = [(each.pause_s, each.begin) for each in events if each.pause_s]
    # As a pattern, a device's name may fit others: * and ? may be part of it.
    episodes = (each for each in query.episodes(file, device) if each.device == device)
    return Content(
        title=device,
        begin=since,
        end=now,
        dated=True,
        facts=_facts(device, past, query.care(file, since, device), settings),
        shaped=True,
        notes=_notes(since, now, len(minutes), minutes[0].time if minutes else None),
        minutes=minutes,
        events=events,
        longest_pause=max(pauses, default=None),
        longest_run=max(runs, key=lambda run: run.beats, default=None),
        fastest_run=max(runs, key=lambda run: run.rate, default=None),
        burden=burden.measure(episodes, since, now),
    )


def _event(past: PastAlarm) -> Event:
    begin = from_rfc3339(past.raised)
    return Event(
        past.kind,
        past.priority,
        begin,
        begin,
        end=None if past.cleared is None else from_rfc3339(past.cleared),
        heart_rate=past.heart_rate,
        pause_s=past.pause_s,
        remark=_remark(past),
        beat=past.beat,
    )


def _remark(past: PastAlarm) -> str:
    said = []
    if past.acknowledged is not None:
        said.append(f"acknowledged by {past.acknowledged.by}, {_clock(past.acknowledged.time)}")
    if past.shelved_by is not None:
        said.append(f"withheld: shelved by {past.shelved_by}")
    if past.judged is not None:
        why = f": {past.judged.note}" if past.judged.note else ""
        said.append(f"judged {str(past.judged.verdict).lower()} by {past.judged.by}{why}")
    if past.lost:
        said.append("its end was not seen")
    if past.moved_to is not None:
        said.append(f"went on at the monitor {past.moved_to}")
    return "; ".join(said)


def _clock(time: str) -> str:
    return time[11:19]


def _strip(file: Path, alarm: str) -> tuple[Strip | None, float | None]:
    """Return the strip of an alarm, and when the alarm was raised; None where none is kept.

    Raises:
        Failure: what is kept is no strip.
    """
    payload = query.strip(file, alarm)
    if payload is None:
        return None, None
    try:
        kept = strips.decode(payload)
    except Rejected as error:
        raise Failure(f"history.file = '{file}': the strip of {alarm}: {error}") from None
    begin = from_rfc3339(kept.time)
    leads = {name: np.array(samples, np.float64) for name, samples in kept.leads.items()}
    marks = [(begin + each.at, each.label) for each in kept.beats if each.label is not None]
    return Strip(begin, kept.rate, leads, kept.unit, [*marks]), begin + kept.at


def _facts(
    device: str, past: list[PastAlarm], care: list[Action], settings: Settings
) -> list[tuple[str, str]]:
    rhythm, anomaly = limits(settings, device)
    models = list(dict.fromkeys(each.model for each in past if each.model is not None))
    facts = [
        ("Source", f"the history of the monitor {settings.mqtt.client_id}"),
        ("Models of the alarms", ", ".join(models) or "no alarm names one"),
        ("Rhythm, as set today", rhythm),
        ("Anomaly, as set today", anomaly),
    ]
    for each in care[-MOST_ACTIONS:]:
        until = "" if each.until is None else f" until {rfc3339(each.until)}"
        facts.append((rfc3339(each.time), f"{each.done}{until} by {each.by}"))
    return facts


def _notes(since: float, now: float, kept: int, first: float | None) -> list[str]:
    if first is None:
        return ["No beat is kept of this time: rates and trends are missing."]
    notes = []
    if first - since > 3600:
        notes.append(f"Rates and trends begin at {rfc3339(first)}: none are kept from before.")
    missing = round((now - max(first, since)) / 60) - kept
    if missing > 1:
        notes.append(f"In {missing} minutes since then no beat was heard.")
    return notes
