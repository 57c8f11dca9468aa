"""Alerts as the daemon hands them to the history."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter

from monitor.alarms import messages
from monitor.alarms.lifecycle import Event
from monitor.alarms.strips import AlarmStrip, Mark
from monitor.alarms.trends import Minute
from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings
from monitor.times import rfc3339
from tests.harness.signals import heart
from tests.harness.waiting import WITHIN

RATE = 250
NIGHT = 1_795_300_000.0
BEAT = [0.25] * 140


def lost_counter() -> Counter:
    return Counter("lost", "Lost.", registry=CollectorRegistry())


def alert(number: int, event: Event, at: float, **changed: Any) -> messages.Alert:
    """An alert of the alarm of that number."""
    alarm = f"{number:032x}"
    fields: dict[str, Any] = {
        "id": alarm if event == "raised" else f"{event}{alarm}",
        "alarm": alarm,
        "device": "bed-7",
        "event": event,
        "kind": "anomaly",
        "priority": "medium",
        "time": rfc3339(at),
        "since": rfc3339(NIGHT + 100 * number),
        "score": 2.5,
        "threshold": 1.0,
        "beats_anomalous": 5,
        "beats_seen": 20,
        "model": "ecg",
        "beat": BEAT,
        "reconstruction": BEAT,
    }
    return messages.Alert(**{**fields, **changed})


def keep(to: HistoryWriter, *alerts: messages.Alert, shelved_by: str | None = None) -> None:
    for one in alerts:
        to.keep(one, messages.encode(one), shelved_by)


def day(file: Path, now: float) -> None:
    """Keep a day of a heart, and an alarm of an hour ago with its strip."""
    writer = HistoryWriter(HistorySettings(file=file), file, lost_counter())
    begin = now // 60 * 60 - 86_400
    minutes = []
    for i in range(1440):
        if 500 <= i < 530:  # nothing was heard
            continue
        mean = 75 + 15 * math.sin(i / 200)
        beats = round(mean)
        minutes.append(
            Minute(
                begin + 60 * i,
                *(beats, mean - 6, mean, mean + 8 + 30 * (i % 97 == 0)),
                *(5 if 900 <= i < 1000 else 0, i % 3, 20 if 200 <= i < 260 else 0),
            )
        )
    writer.keep_minutes(("bed-7", each) for each in minutes)
    told = now - 3600
    about = {"since": rfc3339(told - 4), "kind": "asystole", "priority": "high", "beat": None}
    alarm = alert(1, "raised", told, **about)
    keep(writer, alarm, alert(1, "cleared", told + 200, **about))
    signal, peaks = heart(20, RATE)
    signal[9 * RATE : 13 * RATE] = 0.02 * np.sin(np.arange(4 * RATE) / 9)
    there = [peak for peak in peaks.tolist() if not 9 * RATE <= peak < 13 * RATE]
    strip = AlarmStrip(
        alarm=alarm.id,
        time=rfc3339(told - 10),
        rate=RATE,
        leads={"II": np.round(signal, 3).tolist(), "V1": np.round(-0.6 * signal, 3).tolist()},
        at=10,
        beats=[Mark(p, p / RATE, "V" if i == 3 else "N") for i, p in enumerate(there)],
    )
    writer.keep_strip(alarm.id, "bed-7", messages.encode(strip))
    writer.close(WITHIN)
