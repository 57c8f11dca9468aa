"""Alerts as the daemon hands them to the history."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter

from monitor.alarms import messages
from monitor.alarms.lifecycle import Event
from monitor.history.writer import HistoryWriter
from monitor.times import rfc3339

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
