"""How fast a detector's model file runs on one thread."""

import time
from pathlib import Path

import numpy as np

from monitor.detector.model_file import Detector
from monitor.ecg.beat import Floats

BATCH = 1024


def measure(model: Path, beats: Floats) -> dict[str, float]:
    """Print and give the median time of one beat, and beats a second in batches.

    `beats`: float32 [N, 140].
    """
    detector = Detector(model, threads=1)
    batch = np.resize(beats, (BATCH, beats.shape[1]))

    def seconds(beats: Floats, times: int) -> float:
        laps = []
        for _ in range(times):
            start = time.perf_counter()
            detector.score(beats)
            laps.append(time.perf_counter() - start)
        return float(np.median(laps))

    one, rate = seconds(batch[:1], 1000), BATCH / seconds(batch, 100)
    print(f"{model.name} on one thread: {one * 1e6:.0f} µs a beat, {rate:,.0f} beats/s in batches")
    return {"seconds_a_beat": one, "beats_per_second": rate}
