"""The days of a patient by his model, over restarts and in the history."""

from pathlib import Path

import numpy as np

from monitor.alarms.decisions import Alarms, Policy
from monitor.alarms.drift import DAY, Day
from monitor.daemon.model_watch import DriftWatch
from monitor.daemon.pipeline import Pipeline
from monitor.detector.folder import in_use
from monitor.detector.per_device import Detectors
from monitor.history import query
from monitor.history.writer import HistoryWriter
from monitor.mqtt.beat_consumer import Message
from monitor.settings import HistorySettings, ModelSettings
from monitor.topics import Topics
from tests.detector.test_per_device import WAVES, model
from tests.harness.histories import lost_counter
from tests.harness.waiting import WITHIN

FIRST = 20_000
"""A day, counted from 1970."""


def message(device: str, size: float) -> Message:
    """A thousand beats whose mean size is 0.64 times `size`."""
    samples = np.repeat(WAVES[:1] * np.float32(size), 1000, axis=0)
    topic = f"ecg/{device}/beats".encode()
    return Message(topic, samples.astype("<f4").tobytes(), None, 0, 0, 0.0, False)


def test_a_heart_that_drifts_over_days_is_hinted_at_after_a_restart(tmp_path: Path) -> None:
    folder, file = tmp_path / "models", tmp_path / "history.db"
    folder.mkdir()
    model(in_use(folder, "bed-7"), "anna", 2.0)
    detectors = Detectors(ModelSettings(folder=folder))
    pipeline = Pipeline(Topics(["ecg/{device}/beats"]), "auto", detectors, Alarms(Policy()))
    own = detectors.own("bed-7")
    assert own is not None

    def day(number: int, *sizes: float) -> list[list[str]]:
        history = HistoryWriter(HistorySettings(), file, lost_counter())
        watch = DriftWatch(detectors, history)
        moment = (FIRST + number) * DAY + 3600.0
        hints = [
            watch.observe(pipeline.score([message(bed, size)], moment), moment)
            for size in sizes
            for bed in ("bed-7", "bed-8")  # who has no model
        ]
        moved.append(watch.has_moved("bed-7", own))
        watch.write(force=True)
        history.close(WITHIN)
        return hints

    moved: list[bool] = []
    day(0, 1.0, 1.0)  # scores of 0.64, a third of the threshold
    day(1, 1.0, 2.0)  # half of them near it
    hints = day(2, 1.0)
    assert moved == [False, False, True]
    assert hints == [["bed-7"], []]
    assert query.days(file) == [
        ("bed-7", own.sha256, Day(FIRST, 2000, 0)),
        ("bed-7", own.sha256, Day(FIRST + 1, 2000, 1000)),
        ("bed-7", own.sha256, Day(FIRST + 2, 1000, 0)),
    ]
    day(3, 1.0)
    assert not moved[-1]  # and back again
