"""When what people ask of the daemon is done, and when they are told so."""

import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from monitor.alarms.decisions import Alarms, Policy
from monitor.alarms.operator_requests import Admit, Discharge, Judge, Shelve
from monitor.batch.datasets import Beats
from monitor.daemon.changes import Changes
from monitor.daemon.model_watch import DriftWatch, TrialWatch
from monitor.daemon.operator import RequestHandler
from monitor.daemon.patients import Patients
from monitor.daemon.pipeline import Pipeline
from monitor.detector.per_device import Detectors
from monitor.history import query
from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings, ModelSettings, Settings
from monitor.topics import Topics
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_json
from tests.harness.histories import lost_counter
from tests.harness.waiting import WITHIN, wait_until

TOKEN = "0123456789abcdef"  # noqa: S105 - of a test
TURN = 1_795_262_400.0


@pytest.fixture
def alarms() -> Alarms:
    alarms = Alarms(Policy())
    alarms.hear("bed-7", 0.0)
    return alarms


def handler(alarms: Alarms, history: HistoryWriter) -> RequestHandler:
    detectors = Detectors(ModelSettings())
    trials, drifts = TrialWatch(detectors, Policy()), DriftWatch(detectors, history)
    patients = Patients(Settings(), detectors, alarms, trials, drifts, 0.0)
    pipeline = Pipeline(Topics(["ecg/{device}/beats"]), "auto", detectors, alarms)
    return RequestHandler(alarms, history, detectors, patients, pipeline)


@pytest.fixture
def operator(alarms: Alarms, tmp_path: Path) -> RequestHandler:
    """Return one without a history."""
    history = HistoryWriter(HistorySettings(days=0), tmp_path / "history.db", lost_counter())
    return handler(alarms, history)


@pytest.mark.parametrize("by_http", [True, False])
def test_a_shelf_is_not_over_in_the_turn_in_which_it_begins(
    alarms: Alarms, operator: RequestHandler, by_http: bool
) -> None:
    if by_http:
        answer = operator.ask(Shelve(5.0, "Anna"), "bed-7")
        operator.answer(changes := Changes(), TURN)
        assert not answer.done()
        for each in changes.asked["bed-7"]:
            each.waiting -= 1  # the broker has it
        operator.answer(Changes(), TURN)
        assert answer.result(0) is None
    else:
        operator.handle(Shelve(5.0, "Anna"), "bed-7", Changes(), TURN)
    assert list(alarms.shelved) == ["bed-7"]
    assert alarms.due(TURN) == []
    assert alarms.due(TURN + 299.9) == []
    assert alarms.due(TURN + 300.0) == ["bed-7"]


def test_what_is_passed_on_is_answered_when_it_has_come_back(
    operator: RequestHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, changes = Discharge(by="Anna"), Changes()
    answer = operator.ask(asked, "bed-7")
    operator.answer(changes, TURN)
    assert changes.passed_on == [("bed-7", asked)]
    assert not answer.done()
    operator.handle(Discharge(by="Ben"), "bed-8", changes, TURN)  # another's
    operator.answer(changes, TURN)
    assert not answer.done()
    operator.handle(Discharge(by="Anna"), "bed-7", changes, TURN)
    operator.answer(changes, TURN)
    assert answer.result(0) is None
    again = operator.ask(asked, "bed-7")
    operator.answer(changes, TURN)
    assert again.result(0) == "no device 'bed-7' is known"
    monkeypatch.setattr("monitor.daemon.operator.RETURN_TIMEOUT", 0.0)
    lost = operator.ask(Admit(by="Anna"), "bed-7")
    operator.answer(changes, TURN)
    assert lost.result(0) == "not yet: it is done when the broker passes it on"


def test_a_history_that_cannot_be_written_holds_nothing_up_for_long(
    alarms: Alarms, tmp_path: Path
) -> None:
    file, changes = tmp_path / "history.db", Changes()
    history = HistoryWriter(HistorySettings(), file, lost_counter())
    operator = handler(alarms, history)
    with closing(sqlite3.connect(file)) as database:
        database.execute("BEGIN EXCLUSIVE")
        operator.handle(Discharge(by="Anna"), "bed-7", changes, TURN)
        assert alarms.find("bed-7") is None
        operator.answer(changes, TURN)
        assert list(operator.leaving) == ["bed-7"]

        def made_known() -> bool:
            changes.unsaved.clear()
            operator.answer(changes, TURN)
            return "bed-7" in changes.unsaved

        with capture_logs() as lines:
            wait_until(made_known)
        assert not operator.leaving
        assert [each["event"] for each in lines].count("not in the history yet") == 1
        database.rollback()
    wait_until(lambda: query.care(file))  # and is stored when it can be
    history.close(WITHIN)


def test_a_program_that_ends_answers_what_is_stored_and_makes_known_who_has_left(
    alarms: Alarms, tmp_path: Path
) -> None:
    file, changes, last = tmp_path / "history.db", Changes(), Changes()
    history = HistoryWriter(HistorySettings(), file, lost_counter())
    operator = handler(alarms, history)
    operator.handle(Discharge(by="Anna"), "bed-7", changes, TURN)
    operator.handle(Judge("0" * 32, verdict=True), "bed-7", changes, TURN)
    operator.finish(last, TURN)
    assert [each.action for each in query.care(file)] == ["discharged"]
    assert (list(last.unsaved), operator.leaving) == (["bed-7"], {})
    problem = f"no alarm of 'bed-7' with the id {'0' * 32} is in the history"
    assert [each.problem for each in last.judged] == [problem]
    history.close(WITHIN)


def shelve_over_http(daemon: RunningDaemon, minutes: int) -> tuple[int, str]:
    """Return the code and the text of the answer."""
    asked = urllib.request.Request(
        f"http://{daemon.address}/api/shelve",
        msgspec.json.encode({"device": "bed-7", "minutes": minutes}),
        {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(asked, timeout=WITHIN) as answer:  # noqa: S310 - our own
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


def test_nothing_is_said_to_be_done_that_a_crash_would_undo(tmp_path: Path, ecg: Beats) -> None:
    conf = f"{ANYBODY}persistence true\npersistence_location {tmp_path}/\n"
    with Mosquitto(tmp_path, conf) as broker, Ward(broker.port) as ward:
        with RunningDaemon(tmp_path, broker.url, METRICS__TOKEN=TOKEN) as daemon:
            ward.send(as_json("bed-7", Hearts(ecg).normal(5)))
            daemon.wait_until("ecg_monitor_beats_scored_total", 5)
            assert shelve_over_http(daemon, 30) == (200, "done\n")
            ward.wait(lambda: shelves(ward) and shelves(ward)[-1])
            broker.stop()
            code, said = shelve_over_http(daemon, 0)
            assert (code, "when the broker has it" in said) == (409, True), said
            broker.start()
            ward.wait(lambda: shelves(ward)[-1] is None)
            assert shelve_over_http(daemon, 0) == (200, "done\n")


def shelves(ward: Ward) -> list[object]:
    return [alarm["shelved"] for _, alarm in ward.on("alarm")]
