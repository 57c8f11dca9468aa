"""People say whether alarms were right, over a real broker."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitor.batch.datasets import Beats
from monitor.commands import acknowledge
from monitor.errors import Failure, UsageError
from monitor.settings import HistorySettings, MqttSettings, Settings
from tests.commands.test_acknowledge import ecg_monitor, past
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_json
from tests.harness.waiting import wait_until

FALSE = 'ecg_monitor_judged_total{kind="anomaly",verdict="false"}'
TRUE = 'ecg_monitor_judged_total{kind="anomaly",verdict="true"}'


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture(scope="module")
def hearts(ecg: Beats) -> Hearts:
    return Hearts(ecg)


def judge(ward: Ward, device: str, **request: Any) -> dict[str, Any]:
    """Publish a judgement, and return the answer to it."""
    before = len(ward.on("alarm/judged"))
    ward.publish(f"ecg/{device}/alarm/judge", msgspec.json.encode(request))
    ward.wait(lambda: len(ward.on("alarm/judged")) > before)
    name, answer = ward.on("alarm/judged")[before]
    assert name == answer["device"] == device
    assert isinstance(answer, dict)
    return answer


def judged(tmp_path: Path) -> list[tuple[bool, str, str]]:
    """What people said of alarms, as `ecg-monitor alarms --judged` tells it."""
    return [
        (each["verdict"], each["note"], each["by"])
        for alarm in past(tmp_path, "--judged")
        for each in alarm["judgements"]
    ]


def test_an_alarm_open_or_over_is_judged_and_revised_across_a_restart(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    here = {"MQTT__BROKER": broker.url, "HISTORY__FILE": str(tmp_path / "history.db")}
    with Ward(broker.port) as ward:
        with RunningDaemon(tmp_path, broker.url) as daemon:
            ward.send(as_json("bed-7", hearts.episode(10, 5, 0)))
            ward.wait(ward.alerts)
            alarm = ward.alerts()[0]["id"]
            answer = judge(ward, "bed-7", id=alarm, verdict=False, note="washed", by="Anna")
            assert (answer["alarm"], answer["kind"], answer["problem"]) == (alarm, "anomaly", None)
            assert judged(tmp_path) == [(False, "washed", "Anna")]
            assert (daemon.value(FALSE), daemon.value(TRUE)) == (1, 0)
            assert not any(retained for _, topic, _, retained in ward.seen if "judged" in topic)
            daemon.process.kill()
        with RunningDaemon(tmp_path, broker.url) as daemon:
            ward.send(as_json("bed-7", hearts.normal(10), first=15))
            ward.wait(lambda: len(ward.alerts()) == 2)  # over
            done = ecg_monitor("judge", alarm[:8], "true", "--note", "five beats", **here)
            assert done.stdout == f"bed-7: anomaly {alarm[:8]} is judged true by Clara\n", done
            assert judged(tmp_path) == [(False, "washed", "Anna"), (True, "five beats", "Clara")]
            assert (daemon.value(FALSE), daemon.value(TRUE)) == (0, 1)
            assert daemon.stop() == 0
    assert len(judged(tmp_path)) == 2


def test_the_command_says_what_is_not_recorded(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts, capsys: pytest.CaptureFixture[str]
) -> None:
    away = Settings(
        mqtt=MqttSettings(broker=broker.url), history=HistorySettings(file=tmp_path / "none.db")
    )

    def ask(alarm: str, device: str | None = None, note: str = "") -> None:
        acknowledge.judge(away, alarm, False, note, "Clara", device)

    with Ward(broker.port) as ward, RunningDaemon(tmp_path, broker.url):
        ward.send(as_json("bed-7", hearts.episode(10, 5, 10)))
        ward.wait(lambda: len(ward.alerts()) == 2)
        alarm = ward.alerts()[0]["id"]
        for wrong, said in (
            ({"alarm": alarm[:5]}, "6 or more"),
            ({"alarm": "%" * 32}, "from a to f"),
            ({"alarm": alarm, "note": "a\nb"}, "can be printed"),
            ({"alarm": alarm, "note": "a" * 1001}, "1000"),
            ({"alarm": alarm[:8], "device": "bed-7"}, "needs its whole id and --device"),
            ({"alarm": alarm}, "needs its whole id and --device"),
        ):
            with pytest.raises(UsageError, match=said):
                ask(**wrong)
        with pytest.raises(Failure, match=r"^bed-8: not recorded: no alarm of 'bed-8' with"):
            ask(alarm, "bed-8")
        assert judged(tmp_path) == []
        ask(alarm, "bed-7")
        assert capsys.readouterr().out == f"bed-7: anomaly {alarm[:8]} is judged false by Clara\n"
        assert judged(tmp_path) == [(False, "", "Clara")]
    with pytest.raises(Failure, match="no answer within 5 s"):
        ask(alarm, "bed-7")


def test_bad_judgements_change_nothing_and_are_told(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    rejected = 'ecg_monitor_messages_rejected_total{reason="%s"}'
    with Ward(broker.port) as ward, RunningDaemon(tmp_path, broker.url) as daemon:
        ward.send(as_json("bed-7", hearts.episode(10, 5, 0)))
        ward.wait(ward.alerts)
        alarm = ward.alerts()[0]["id"]
        right = {"id": alarm, "verdict": False}
        for number, wrong in enumerate(
            (
                right | {"note": "\x1b[2J"},
                right | {"note": "\u202egnp.exe"},
                right | {"note": "x" * 10_000},
                right | {"by": "a\nb"},
                right | {"verdict": "false"},
                right | {"id": "' OR 1=1 --"},
                {"id": alarm},
            )
        ):
            ward.publish("ecg/bed-7/alarm/judge", msgspec.json.encode(wrong))
            daemon.wait_until(rejected % "shape", number + 1)
        ward.publish("ecg/bed-7/alarm/judge", b'{"note": "\\ud800"}')
        daemon.wait_until(rejected % "json", 1)
        # Rights are given by topic: another device's topic does not do.
        answer = judge(ward, "bed-8", **right)
        assert answer["alarm"] is None and "no alarm of 'bed-8'" in answer["problem"]
        answer = judge(ward, "bed-7", id="0" * 32, verdict=True)
        assert answer["kind"] is None and "no alarm of 'bed-7'" in answer["problem"]
        assert judged(tmp_path) == []
        wait_until(daemon.healthy)
        assert daemon.value(FALSE) == daemon.value(TRUE) == 0
        note = "“Gewaschen” – 5×, 'x'; DROP TABLE alerts; --"
        assert judge(ward, "bed-7", **right, note=note)["problem"] is None
        assert judged(tmp_path) == [(False, note, "unknown")]


def test_an_alarm_that_the_history_has_lost_is_judged_no_more_and_nothing_is_left(
    tmp_path: Path, broker: Mosquitto, hearts: Hearts
) -> None:
    file = tmp_path / "history.db"
    with Ward(broker.port) as ward:
        with RunningDaemon(tmp_path, broker.url):
            ward.send(as_json("bed-7", hearts.episode(10, 5, 10)))
            ward.wait(lambda: len(ward.alerts()) == 2)
            alarm = ward.alerts()[0]["id"]
            assert judge(ward, "bed-7", id=alarm, verdict=True)["problem"] is None
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE alerts SET kept = 0")
        with RunningDaemon(tmp_path, broker.url):
            ward.send(as_json("bed-8", hearts.episode(10, 5, 0)))
            ward.wait(lambda: ward.alerts("bed-8"))
            wait_until(lambda: [each["device"] for each in past(tmp_path)] == ["bed-8"])
            answer = judge(ward, "bed-7", id=alarm, verdict=True)
            assert "is in the history" in answer["problem"]
            assert judged(tmp_path) == []
        with RunningDaemon(tmp_path, broker.url, HISTORY__DAYS="0"):
            answer = judge(ward, "bed-8", id=ward.alerts("bed-8")[0]["id"], verdict=True)
            assert answer["problem"] == "no history is kept"
