"""Read the history: the alarms that were raised, and who shelved which device."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgspec

from monitor.alarms.burden import Episode
from monitor.alarms.drift import Day
from monitor.alarms.messages import (
    Acknowledged,
    Kind,
    OpenAlarm,
    Priority,
    RetainedAlarm,
    decode_alert,
    or_none,
    or_unset,
)
from monitor.alarms.trends import Minute
from monitor.errors import Failure
from monitor.history.store import MODEL_NOT_KEPT, Action, decompress, open_to_read
from monitor.times import from_rfc3339, rfc3339
from monitor.topics import fits


class JudgedAs(msgspec.Struct, frozen=True):
    """What a person said of an alarm: whether it was true, why, by whom and when (RFC 3339)."""

    verdict: bool
    note: str
    by: str
    time: str


class PastAlarm(msgspec.Struct, kw_only=True):
    """An alarm from raising to clearing; times are RFC 3339.

    Attributes:
        id: of the alert that raised it.
        priority: the highest that it had.
        cleared: None while it is open.
        lost: whether it ended only because the broker no longer had it when the monitor started.
        moved_to: the monitor that watches its device since `cleared`, and has its end; None if
            none.
        acknowledged: by whom, when, and with which note it was last acknowledged.
        shelved_by: who had shelved the device, so that the alarm was withheld.
        score, threshold, model, beats_anomalous, beats_seen: when it was raised.
        beat, reconstruction: of the beat that raised it, [140]; None if no beat did.
        heart_rate, pause_s: what a rhythm alarm was about when it was raised.
        judgements: what people said of it, of which the last counts.
        strip: whether the signal around it is kept.
    """

    id: str
    device: str
    kind: Kind
    priority: Priority
    raised: str
    escalated: str | None = None
    cleared: str | None = None
    lost: bool = False
    moved_to: str | None = None
    acknowledged: Acknowledged | None = None
    shelved_by: str | None = None
    score: float | None = None
    threshold: float | None = None
    model: str | None = None
    beats_anomalous: int | None = None
    beats_seen: int | None = None
    beat: list[float] | None = None
    reconstruction: list[float] | None = None
    heart_rate: float | None = None
    pause_s: float | None = None
    judgements: list[JudgedAs] = msgspec.field(default_factory=list)
    strip: bool = False

    @property
    def judged(self) -> JudgedAs | None:
        """The judgement that counts; None if nobody has judged the alarm."""
        return self.judgements[-1] if self.judgements else None


@contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    if not file.is_file():
        raise Failure(f"history.file = '{file}': there is no history")
    try:
        with closing(open_to_read(file)) as database:
            yield database
    except sqlite3.Error as error:
        raise Failure(f"history.file = '{file}': cannot be read ({error})") from None


def alarms(
    file: Path,
    since: float | None = None,
    device: str | None = None,
    most: int | None = None,
    alarm: str | None = None,
    judged: bool = False,
) -> Iterator[PastAlarm]:
    """Yield the alarms that were open at or after `since`, the latest first.

    Args:
        file: of the history.
        since: in seconds since 1970; None for all alarms.
        device: only alarms of this device; None for all devices.
        most: most alarms to yield; None for no limit.
        alarm: only the alarm with this id; None for all alarms.
        judged: only alarms that somebody has judged.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    chosen = (
        "SELECT alarm, min(since) AS begin, coalesce(max(CASE event WHEN 'cleared' THEN time END), "
        "CASE count(lost) WHEN count(*) THEN max(lost) END) AS end "
        "FROM alerts WHERE (:device IS NULL OR device = :device) "
        "AND (:alarm IS NULL OR alarm = :alarm) "
        "AND (NOT :judged OR alarm IN (SELECT alarm FROM judgements)) GROUP BY alarm "
        "HAVING :since IS NULL OR end IS NULL OR end >= :since "
        "ORDER BY begin DESC, alarm LIMIT :most"
    )
    with _reading(file) as database:
        rows = database.execute(
            "SELECT alerts.*, chosen.end, alarm IN (SELECT alarm FROM strips) AS strip "  # noqa: S608
            f"FROM ({chosen}) AS chosen JOIN alerts USING (alarm) "
            "ORDER BY chosen.begin DESC, alarm, alerts.rowid",
            {
                "device": device,
                "alarm": alarm,
                "judged": judged,
                "since": since,
                "most": -1 if most is None else most,
            },
        )
        for identity, alerts in groupby(rows, key=itemgetter("alarm")):
            seen = database.execute(
                "SELECT * FROM actions WHERE alarm = ? AND action = 'acknowledged' "
                "ORDER BY rowid DESC LIMIT 1",
                (identity,),
            ).fetchone()
            said = database.execute(
                "SELECT * FROM judgements WHERE alarm = ? ORDER BY rowid", (identity,)
            ).fetchall()
            yield _past_alarm(list(alerts), seen, said)


def episodes(file: Path, devices: str = "*") -> Iterator[Episode]:
    """Yield every alarm with the times at which people were alerted of it and acknowledged it.

    An alert that a shelf withheld counts from when the shelving ended, if the alarm was still
    active then. Payloads are not read: 30,000 alarms take 0.6 s.

    Args:
        file: of the history.
        devices: a pattern of device names.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    with _reading(file) as database:
        acknowledged: dict[str, list[float]] = {}
        unshelved: dict[str, list[float]] = {}
        actions = database.execute("SELECT action, alarm, device, time FROM actions ORDER BY time")
        for row in actions:
            if row["action"] == "acknowledged":
                acknowledged.setdefault(row["alarm"], []).append(row["time"])
            elif row["action"] == "unshelved":
                unshelved.setdefault(row["device"], []).append(row["time"])
        rows = database.execute("SELECT alarm, verdict FROM judgements ORDER BY rowid")
        verdicts = {row["alarm"]: bool(row["verdict"]) for row in rows}
        alerts = database.execute(
            "SELECT alarm, device, kind, event, priority, time, since, shelved_by, lost "
            "FROM alerts ORDER BY alarm, rowid"
        )
        for alarm, group in groupby(alerts, key=itemgetter("alarm")):
            own = list(group)
            device = own[0]["device"]
            # Of an alarm whose first alerts were trimmed, the end alone says nothing of people.
            if own[0]["event"] != "cleared" and fits(device, devices):
                yield Episode(
                    device,
                    own[0]["kind"],
                    own[0]["since"],
                    _announced(own, unshelved.get(device, [])),
                    _ended(own),
                    acknowledged.get(alarm, ()),
                    verdicts.get(alarm),
                )


def _ended(alerts: list[sqlite3.Row]) -> float | None:
    """Return when an alarm was cleared or lost; None while it is active."""
    cleared = [row["time"] for row in alerts if row["event"] == "cleared"]
    lost = [row["lost"] for row in alerts]
    return max(cleared) if cleared else None if None in lost else max(lost)


def _announced(
    alerts: list[sqlite3.Row], unshelved: list[float]
) -> tuple[tuple[float, Priority], ...]:
    """Return when an alarm was announced, and with which priorities."""
    ended = _ended(alerts)
    found: dict[float, Priority] = {}
    for row in alerts:
        time = row["time"]
        if row["event"] == "cleared":
            continue
        if row["shelved_by"] is not None:
            ends = (at for at in unshelved if at >= time and (ended is None or at < ended))
            time = next(ends, None)
        if time is not None:
            found[time] = row["priority"]
    return tuple(sorted(found.items()))


def find(file: Path, prefix: str) -> dict[str, str]:
    """Return the alarms of which an alert's id begins like this, each with its device.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    with _reading(file) as database:
        rows = database.execute(
            "SELECT DISTINCT alarm, device FROM alerts WHERE substr(id, 1, ?) = ?",
            (len(prefix), prefix),
        )
        return {row["alarm"]: row["device"] for row in rows}


def open_alarms(file: Path) -> list[RetainedAlarm]:
    """Return the devices with open alarms, as far as the history knows them: without windows.

    One that was raised while its device was shelved is left out unless the shelf was over before
    this start, for nobody was alerted of it: it is raised again if it goes on. Took 0.06 s with
    30,000 alarms in 288 MB, more than the default bound.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    now = time.time()
    unshelved = {each.device: each.time for each in care(file) if each.action == "unshelved"}
    still_open: dict[str, list[OpenAlarm]] = {}
    for past in alarms(file, since=now):
        told = past.shelved_by is None or from_rfc3339(past.raised) <= unshelved.get(past.device, 0)
        if past.cleared is None and told:
            alarm = OpenAlarm(
                past.id,
                past.kind,
                past.priority,
                past.raised,
                past.acknowledged,
                heart_rate=or_unset(past.heart_rate),
                pause_s=or_unset(past.pause_s),
            )
            still_open.setdefault(past.device, []).append(alarm)
    return [
        RetainedAlarm(
            device=device,
            state="alarm",
            priority=None,
            time=rfc3339(now),
            alarms=those,
            anomalous="",
            poor="",
            seq=None,
            counted=[],
            changes=int(now),  # ids are made of it: none that was there before
        )
        for device, those in still_open.items()
    ]


def _past_alarm(
    rows: list[sqlite3.Row], seen: sqlite3.Row | None, said: list[sqlite3.Row]
) -> PastAlarm:
    first, times = rows[0], {row["event"]: rfc3339(row["time"]) for row in rows}
    end = first["end"]
    alert = decode_alert(first["payload"])
    return PastAlarm(
        id=first["alarm"],
        device=first["device"],
        kind=first["kind"],
        priority=rows[-1]["priority"],
        raised=rfc3339(first["since"]),
        escalated=times.get("escalated"),
        cleared=None if end is None else rfc3339(end),
        lost=end is not None and "cleared" not in times and rows[-1]["moved"] is None,
        moved_to=None if "cleared" in times or end is None else rows[-1]["moved"],
        acknowledged=_acknowledged(seen),
        shelved_by=first["shelved_by"],
        score=alert.score,
        threshold=alert.threshold,
        model=alert.model,
        beats_anomalous=alert.beats_anomalous,
        beats_seen=alert.beats_seen,
        beat=alert.beat,
        reconstruction=alert.reconstruction,
        heart_rate=or_none(alert.heart_rate),
        pause_s=or_none(alert.pause_s),
        judgements=[
            JudgedAs(bool(each["verdict"]), each["note"], each["person"], rfc3339(each["time"]))
            for each in said
        ],
        strip=bool(first["strip"]),
    )


def strip(file: Path, alarm: str) -> bytes | None:
    """Return the strip of an alarm as `segment` published it, labelled; None if none is kept.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    with _reading(file) as database:
        row = database.execute("SELECT strip FROM strips WHERE alarm = ?", (alarm,)).fetchone()
        return None if row is None else decompress(row["strip"])


def minutes(file: Path, device: str, since: float) -> list[Minute]:
    """Return the minutes of a device from `since`, in seconds since 1970, in order.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    with _reading(file) as database:
        rows = database.execute(
            "SELECT time, beats, low, mean, high, ventricular, anomalous, poor FROM minutes "
            "WHERE device = ? AND time >= ? ORDER BY time",
            (device, since // 60 * 60),
        )
        return [Minute(*row) for row in rows]


def _acknowledged(seen: sqlite3.Row | None) -> Acknowledged | None:
    if seen is None:
        return None
    return Acknowledged(seen["person"], rfc3339(seen["time"]), seen["note"])


def days(file: Path) -> list[tuple[str, str, Day]]:
    """Return what is kept of each device, model (SHA-256) and day, days in their order.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    with _reading(file) as database:
        rows = database.execute("SELECT device, sha256, day, beats, near FROM days ORDER BY day")
        return [(device, sha256, Day(*counted)) for device, sha256, *counted in rows]


class Departure(NamedTuple):
    """When the last patient left a device, and the last one whose model is not for his return.

    Both in seconds since 1970; `unkept` is None where there was none.
    """

    time: float
    unkept: float | None


def discharges(file: Path, until: float) -> dict[str, Departure]:
    """Return how the last patient of each device left, as far as that was by `until`.

    `until` is in seconds since 1970. Took 0.03 s with 128,000 actions, as many as the
    default bound.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    with _reading(file) as database:
        rows = database.execute(
            "SELECT device, max(time), max(CASE WHEN note = ? THEN time END) FROM actions "
            "WHERE action = 'discharged' AND time <= ? GROUP BY device",
            (MODEL_NOT_KEPT, until),
        )
        return {name: Departure(*times) for name, *times in rows}


def care(file: Path, since: float | None = None, device: str | None = None) -> list[Action]:
    """Return what people did for patients at or after `since`, oldest first.

    Who shelved which device, or ended that, admitted, discharged, or chose a model.

    Raises:
        Failure: there is no history, or it cannot be read.
    """
    with _reading(file) as database:
        rows = database.execute(
            "SELECT * FROM actions WHERE action != 'acknowledged' AND (:since IS NULL OR "
            "coalesce(until, time) >= :since) AND (:device IS NULL OR device = :device) "
            "ORDER BY rowid",
            {"since": since, "device": device},
        )
        return [
            Action(
                row["action"],
                row["device"],
                row["person"],
                row["time"],
                until=row["until"],
                note=row["note"],
                kinds=tuple(row["kinds"].split(",")) if row["kinds"] else (),
            )
            for row in rows
        ]
