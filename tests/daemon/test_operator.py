"""What people ask of the daemon is done as of the turn in which it is done."""

from pathlib import Path

import pytest

from monitor.alarms.decisions import Alarms, Policy
from monitor.alarms.operator_requests import Shelve
from monitor.daemon.model_watch import DriftWatch, TrialWatch
from monitor.daemon.operator import RequestHandler
from monitor.daemon.patients import Patients
from monitor.daemon.pipeline import Changes, Pipeline
from monitor.detector.per_device import Detectors
from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings, ModelSettings, Settings
from monitor.topics import Topics
from tests.harness.histories import lost_counter


@pytest.fixture
def alarms() -> Alarms:
    alarms = Alarms(Policy())
    alarms.hear("bed-7", 0.0)
    return alarms


@pytest.mark.parametrize("by_http", [True, False])
def test_a_shelf_is_not_over_in_the_turn_in_which_it_begins(
    alarms: Alarms, by_http: bool, tmp_path: Path
) -> None:
    history = HistoryWriter(HistorySettings(days=0), tmp_path / "history.db", lost_counter())
    detectors = Detectors(ModelSettings())
    trials, drifts = TrialWatch(detectors, Policy()), DriftWatch(detectors, history)
    patients = Patients(Settings(), detectors, alarms, trials, drifts, 0.0)
    pipeline = Pipeline(Topics(["ecg/{device}/beats"]), "auto", detectors, alarms)
    operator = RequestHandler(alarms, history, detectors, patients, pipeline)
    turn = 1_795_262_400.0
    if by_http:
        answer = operator.ask(Shelve(5.0, "Anna"), "bed-7")
        operator.answer(Changes(), turn)
        assert answer.result(0) is None
    else:
        operator.handle(Shelve(5.0, "Anna"), "bed-7", Changes(), turn)
    assert list(alarms.shelved) == ["bed-7"]
    assert alarms.due(turn) == []
    assert alarms.due(turn + 299.9) == []
    assert alarms.due(turn + 300.0) == ["bed-7"]
