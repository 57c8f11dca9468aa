"""The minutes of hearts, counted by a clock that jumps."""

from pathlib import Path

import numpy as np

from monitor.alarms.decisions import Alarms, Policy
from monitor.daemon.pipeline import Pipeline
from monitor.daemon.trends import TrendSink
from monitor.detector.per_device import Detectors
from monitor.ecg.beat import SAMPLES
from monitor.history import query
from monitor.history.writer import HistoryWriter
from monitor.mqtt.beat_consumer import Message
from monitor.settings import HistorySettings, ModelSettings
from monitor.topics import Topics
from tests.harness.histories import lost_counter
from tests.harness.waiting import WITHIN, wait_until

NOW, AHEAD = 1_795_262_400.0, 10 * 365 * 86400.0


def test_a_clock_that_was_ahead_holds_no_minute_back(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    history = HistoryWriter(HistorySettings(), file, lost_counter())
    pipeline = Pipeline(
        Topics(["ecg/{device}/beats"]), "auto", Detectors(ModelSettings()), Alarms(Policy())
    )
    trends = TrendSink(history)

    def hear(device: str, now: float) -> None:
        payload = np.ones(SAMPLES, "<f4").tobytes()
        topic = f"ecg/{device}/beats".encode()
        trends.count(pipeline.score([Message(topic, payload, None, 0, 0, 0.0, False)], now), now)
        trends.flush(now)

    hear("bed-7", NOW + AHEAD)  # and is heard no more
    hear("bed-8", NOW)
    trends.flush(NOW + 200)
    for device, time in ("bed-7", NOW + AHEAD), ("bed-8", NOW):
        wait_until(lambda name=device: query.minutes(file, name, 0.0))
        assert [each.time for each in query.minutes(file, device, 0.0)] == [time // 60 * 60]
    history.close(WITHIN)
