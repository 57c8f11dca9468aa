"""The history as it is read: alarms from their raising to their end, and shelvings."""

import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter

from monitor.alarms import messages
from monitor.alarms.burden import Episode
from monitor.history import query
from monitor.history.store import MODEL_NOT_KEPT, Action, Judgement
from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings
from monitor.times import rfc3339
from tests.harness.histories import BEAT, NIGHT, alert, keep, lost_counter
from tests.harness.waiting import WITHIN


@pytest.fixture
def lost() -> Counter:
    return lost_counter()


def test_an_alarm_is_read_from_its_raising_to_its_clearing(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "folder" / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    raised = alert(1, "raised", NIGHT + 100)
    keep(kept, raised, raised)  # twice, as after a redelivery
    keep(kept, alert(1, "escalated", NIGHT + 110, priority="high", beats_anomalous=20))
    kept.note(Action("acknowledged", "bed-7", "Anna", NIGHT + 120, raised.id))
    keep(kept, alert(1, "cleared", NIGHT + 130, priority="high"))
    keep(kept, alert(2, "raised", NIGHT + 200, device="bed-8", beat=None, score=None))
    keep(kept, alert(3, "raised", NIGHT + 300), shelved_by="Ben")
    kept.note(Action("shelved", "bed-7", "Ben", NIGHT + 290, until=NIGHT + 900))
    kept.close(WITHIN)

    third, second, first = query.alarms(file)
    assert first == query.PastAlarm(
        id=raised.id,
        device="bed-7",
        kind="anomaly",
        priority="high",
        raised=rfc3339(NIGHT + 100),
        escalated=rfc3339(NIGHT + 110),
        cleared=rfc3339(NIGHT + 130),
        acknowledged=messages.Acknowledged("Anna", rfc3339(NIGHT + 120)),
        score=2.5,
        threshold=1.0,
        model="ecg",
        beats_anomalous=5,
        beats_seen=20,
        beat=BEAT,
        reconstruction=BEAT,
    )
    assert (second.device, second.cleared, second.beat) == ("bed-8", None, None)
    assert third.shelved_by == "Ben" and third.acknowledged is None

    def ids(**limits: Any) -> list[int]:
        return [int(alarm.id, 16) for alarm in query.alarms(file, **limits)]

    assert ids(device="bed-7") == [3, 1]
    assert ids(since=NIGHT + 130) == [3, 2, 1]  # open ones stand still
    assert ids(since=NIGHT + 131) == [3, 2]
    assert ids(most=1) == [3]
    assert [a.by for a in query.care(file, since=NIGHT + 900)] == ["Ben"]
    assert not query.care(file, since=NIGHT + 901)
    assert not query.care(file, device="bed-8")
    assert lost._value.get() == 0


def test_what_is_open_goes_on_where_people_were_alerted_of_it(
    tmp_path: Path, lost: Counter
) -> None:
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    keep(kept, alert(1, "raised", NIGHT + 100), alert(1, "cleared", NIGHT + 130))
    keep(kept, alert(2, "raised", NIGHT + 200), alert(2, "escalated", NIGHT + 220, priority="high"))
    keep(kept, alert(3, "raised", NIGHT + 300, kind="tachycardia", heart_rate=150.0))
    keep(kept, alert(4, "raised", NIGHT + 400, device="bed-8"), shelved_by="Ben")
    keep(kept, alert(5, "raised", NIGHT + 500, device="bed-9"), shelved_by="Ben")
    kept.note(Action("unshelved", "bed-8", "the clock", NIGHT + 300))
    kept.note(Action("unshelved", "bed-9", "the clock", NIGHT + 600))
    kept.note(Action("acknowledged", "bed-7", "Anna", NIGHT + 320, f"{2:032x}"))
    kept.close(WITHIN)
    devices = {each.device: each.alarms for each in query.open_alarms(file)}
    seen = messages.Acknowledged("Anna", rfc3339(NIGHT + 320))
    assert devices == {
        "bed-7": [
            messages.OpenAlarm(
                f"{3:032x}", "tachycardia", "medium", rfc3339(NIGHT + 300), heart_rate=150.0
            ),
            messages.OpenAlarm(f"{2:032x}", "anomaly", "high", rfc3339(NIGHT + 200), seen),
        ],
        "bed-9": [messages.OpenAlarm(f"{5:032x}", "anomaly", "medium", rfc3339(NIGHT + 500))],
    }


def test_an_alarm_that_the_broker_has_forgotten_ends_at_the_restart(
    tmp_path: Path, lost: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "history.db"
    clock = [NIGHT]
    monkeypatch.setattr(time, "time", lambda: clock[0])

    def restart(standing: list[str], *alerts: messages.Alert) -> list[tuple[str | None, bool]]:
        """What became of the alarms 1 to 4, the first one first."""
        clock[0] += 1000
        kept = HistoryWriter(HistorySettings(file=file), file, lost)
        kept.end_others(standing)
        clock[0] += 10
        keep(kept, *alerts)
        kept.close(WITHIN)
        return [(alarm.cleared, alarm.lost) for alarm in query.alarms(file)][::-1]

    raised = [alert(number, "raised", NIGHT) for number in (1, 2, 3, 4)]
    over = alert(1, "cleared", NIGHT + 7, since=raised[0].since)
    assert restart([], *raised, over) == [
        (rfc3339(NIGHT + 7), False), (None, False), (None, False), (None, False)
    ]  # fmt: skip
    first = rfc3339(NIGHT + 2010)
    ends = [(rfc3339(NIGHT + 7), False), (None, False), (first, True), (first, True)]
    assert restart([raised[1].id]) == ends
    # Of the fourth the beats come again, for they were never acknowledged.
    ends[3] = None, False
    assert restart([raised[1].id], raised[3]) == ends
    assert restart([raised[1].id, raised[3].id]) == ends
    assert not query.care(file)
    # What was lost has an end: it is not among the alarms that were open later.
    open_or_later = [int(alarm.id, 16) for alarm in query.alarms(file, since=NIGHT + 2011)]
    assert open_or_later == [4, 2]
    assert len(list(query.alarms(file, since=NIGHT + 2010))) == 3


def test_an_alarm_that_goes_to_another_monitor_ends_here_until_it_comes_back(
    tmp_path: Path, lost: Counter
) -> None:
    file = tmp_path / "history.db"
    raised, escalated = alert(1, "raised", NIGHT), alert(1, "escalated", NIGHT + 5)
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    keep(kept, raised, escalated)
    kept.move([raised.id], "ward-1")
    kept.close(WITHIN)
    (moved,) = query.alarms(file)
    assert (moved.moved_to, moved.lost) == ("ward-1", False)
    assert moved.cleared is not None and not query.open_alarms(file)
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    keep(kept, raised)
    kept.close(WITHIN)
    (back,) = query.alarms(file)
    assert (back.moved_to, back.cleared) == (None, None)
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    kept.move([raised.id], "ward-2")
    kept.end_others([])
    kept.close(WITHIN)
    (again,) = query.alarms(file)
    assert (again.moved_to, again.lost) == ("ward-2", False)


def test_an_episode_tells_when_people_were_alerted(tmp_path: Path, lost: Counter) -> None:
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    raised = alert(1, "raised", NIGHT + 100)
    keep(kept, raised, raised, alert(1, "escalated", NIGHT + 110, priority="high"))
    kept.note(Action("acknowledged", "bed-7", "Anna", NIGHT + 105, raised.id))
    kept.note(Action("acknowledged", "bed-7", "Anna", NIGHT + 120, raised.id))
    keep(kept, alert(1, "cleared", NIGHT + 130, priority="high"))
    kept.judge(Judgement(raised.id, None, True, "", "Anna", NIGHT + 140)).result(WITHIN)
    kept.judge(Judgement(raised.id, None, False, "", "Anna", NIGHT + 150)).result(WITHIN)
    # Shelved until 400: the second alarm is over before, the third escalates before and is told
    # then, the fourth is of another device and is still shelved.
    keep(kept, alert(2, "raised", NIGHT + 200), shelved_by="Ben")
    keep(kept, alert(2, "cleared", NIGHT + 300), shelved_by="Ben")
    keep(kept, alert(3, "raised", NIGHT + 300), shelved_by="Ben")
    keep(kept, alert(3, "escalated", NIGHT + 310, priority="high"), shelved_by="Ben")
    kept.note(Action("unshelved", "bed-7", "the clock", NIGHT + 400))
    keep(kept, alert(4, "raised", NIGHT + 400, device="bed-8"), shelved_by="Ben")
    keep(kept, alert(5, "cleared", NIGHT + 500))  # what came before it was trimmed
    kept.close(WITHIN)

    first, second, third, fourth = query.episodes(file)
    assert first == Episode(
        "bed-7",
        "anomaly",
        NIGHT + 100,
        ((NIGHT + 100, "medium"), (NIGHT + 110, "high")),
        NIGHT + 130,
        [NIGHT + 105, NIGHT + 120],
        False,
    )
    assert (second.announced, second.cleared) == ((), NIGHT + 300)
    assert (third.announced, third.cleared) == (((NIGHT + 400, "high"),), None)
    assert fourth.announced == ()
    assert [each.device for each in query.episodes(file, "*-8")] == ["bed-8"]

    kept = HistoryWriter(HistorySettings(file=file), file, lost)
    kept.end_others([f"{4:032x}"])
    kept.close(WITHIN)
    ends = [each.cleared for each in query.episodes(file)]
    assert ends[:2] == [NIGHT + 130, NIGHT + 300] and ends[3] is None
    assert ends[2] == pytest.approx(time.time(), abs=60)


def test_a_later_discharge_does_not_bring_back_the_model_of_an_earlier_patient(
    tmp_path: Path,
) -> None:
    kept = HistoryWriter(HistorySettings(), tmp_path / "history.db", lost_counter())
    for when, note in (10.0, MODEL_NOT_KEPT), (20.0, ""), (99.0, MODEL_NOT_KEPT):
        kept.note(Action("discharged", "bed-1", "Anna", when, note=note)).result(WITHIN)
    kept.note(Action("discharged", "bed-2", "Anna", 20.0)).result(WITHIN)
    kept.close(WITHIN)
    assert query.discharges(tmp_path / "history.db", until=50.0) == {
        "bed-1": query.Departure(20.0, 10.0),
        "bed-2": query.Departure(20.0, None),
    }
