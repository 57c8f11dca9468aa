"""Recordings, read back by PhysioNet's own library."""

import os
import stat
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from monitor.metrics import SegmentMetrics
from monitor.segment import recorder as module
from monitor.segment import wfdb as encoding
from monitor.segment.recorder import MAX_WAITING, Recorder, folder_of
from monitor.segment.wfdb import Annotation
from tests.harness.brokers import ANYBODY, Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.waiting import WITHIN, wait_until
from tests.segment.test_loop import RATE, SIGNAL, Bed, expected, play

wfdb = pytest.importorskip("wfdb")

BEGUN = 1_795_300_000.0


@pytest.fixture
def metrics() -> SegmentMetrics:
    return SegmentMetrics(CollectorRegistry())


def recorder(folder: Path, metrics: SegmentMetrics, **bounds: Any) -> Recorder:
    limits = {"days": 7.0, "megabytes": 100, "per_millivolt": 1.0} | bounds
    return Recorder(folder, metrics=metrics, **limits)


def records(folder: Path) -> list[Path]:
    return sorted(file.with_suffix("") for file in folder.glob("*/*.hea"))


def marks_of(path: Path) -> Any:
    with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
        return wfdb.rdann(str(path), "atr")


def failures(metrics: SegmentMetrics) -> float:
    value = metrics.registry.get_sample_value("ecg_monitor_recording_failures_total")
    assert value is not None
    return value


def leads(*parts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return dict(zip(("II", "V1", "V5"), parts, strict=False))


def test_annotations_are_as_the_library_reads_them(tmp_path: Path) -> None:
    given = [
        Annotation(0, "N"),
        Annotation(5, "+", "(VFIB"),
        Annotation(1028, "V"),
        Annotation(1028, '"', "even"),
        Annotation(70_000, "~"),
        Annotation(2_000_000_000, "N", "odd"),
    ]
    parts = encoding.annotations(given[:3], 0) + encoding.annotations(given[3:], 1028)
    (tmp_path / "x.atr").write_bytes(parts + encoding.END)
    read = marks_of(tmp_path / "x")
    assert read.sample.tolist() == [each.sample for each in given]
    assert read.symbol == [each.symbol for each in given]
    assert [text.rstrip("\0") for text in read.aux_note] == [each.text for each in given]


def test_a_recording_is_what_came(tmp_path: Path, metrics: SegmentMetrics) -> None:
    """With a hole, lost samples, an offset beyond 32 mV, and beats that come late."""
    ours = recorder(tmp_path, metrics, per_millivolt=1000.0)
    one, other = 1000 * SIGNAL[: 20 * RATE], 1000 * (0.5 * SIGNAL[: 20 * RATE] - 300)
    one[RATE + 3] = np.nan
    for second in range(20):
        if second in (7, 8):
            continue
        part = slice(second * RATE, (second + 1) * RATE)
        moment = BEGUN + second
        ours.samples(1, "bed/7", 5000 + part.start, RATE, moment, leads(one[part], other[part]))
        ours.annotate(1, 5000 + max(0, part.start - 700), "N")
    ours.annotate(1, 5000 + 6 * RATE, "+", "(VT")
    ours.end(1)
    ours.close(WITHIN)
    (path,) = records(tmp_path)
    assert path.parent.name == "bed%2F7"
    read = wfdb.rdrecord(str(path))
    assert (read.fs, read.sig_name, read.units) == (RATE, ["II", "V1"], ["mV", "mV"])
    assert read.sig_len == 20 * RATE
    assert read.base_datetime.timestamp() % 86400 == pytest.approx(BEGUN % 86400, abs=86400)
    whole = np.column_stack([one, other]) / 1000
    whole[7 * RATE : 9 * RATE] = np.nan
    np.testing.assert_allclose(read.p_signal, whole, atol=6e-4)
    assert any("bed/7" in comment for comment in read.comments)
    digital = wfdb.rdrecord(str(path), physical=False)
    sums = digital.d_signal.astype(np.int64).sum(axis=0) % 65536
    assert [each % 65536 for each in digital.checksum] == sums.tolist()
    assert digital.init_value == digital.d_signal[0].tolist()
    marks = marks_of(path)
    assert marks.sample.tolist() == sorted(marks.sample.tolist())
    assert marks.symbol.count("N") == 18 and "(VT" in "".join(marks.aux_note)
    assert failures(metrics) == 0
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}


def test_what_is_being_written_can_be_read(tmp_path: Path, metrics: SegmentMetrics) -> None:
    ours = recorder(tmp_path, metrics)
    for second in range(12):
        part = SIGNAL[second * RATE : (second + 1) * RATE]
        ours.samples(1, "bed-7", second * RATE, RATE, BEGUN + second, leads(part))
    wait_until(lambda: records(tmp_path) and ours._waiting.empty())
    (path,) = records(tmp_path)
    wait_until(lambda: wfdb.rdrecord(str(path)).sig_len >= 10 * RATE)
    ours.close(WITHIN)
    assert wfdb.rdrecord(str(path)).sig_len == 12 * RATE


def test_a_record_ends_with_the_hour_its_leads_and_a_long_hole(
    tmp_path: Path, metrics: SegmentMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST", 10.0)
    ours = recorder(tmp_path, metrics)
    one = np.ones(RATE)
    for second in (*range(25), 200):
        ours.samples(1, "bed-7", second * RATE, RATE, BEGUN + second, leads(one))
    ours.samples(1, "bed-7", 201 * RATE, RATE, BEGUN + 201, {"aVR": one})
    ours.samples(2, "bed-7", 0, RATE, BEGUN, leads(one))  # begins when another one did
    ours.close(WITHIN)
    lengths = [wfdb.rdheader(str(path)).sig_len / RATE for path in records(tmp_path)]
    assert sorted(lengths) == [1, 1, 1, 3, 11, 11]


def test_the_oldest_go(
    tmp_path: Path, metrics: SegmentMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRIM_INTERVAL", 0.1)
    ours = recorder(tmp_path, metrics, megabytes=1)
    noise = np.random.default_rng(1).standard_normal(150_000)
    for stream in range(8):  # 300 kB each
        ours.samples(stream, f"bed-{stream}", 0, RATE, BEGUN, leads(noise))
        ours.end(stream)
    wait_until(lambda: 0 < len(records(tmp_path)) <= 3 and ours._waiting.empty())
    wait_until(
        lambda: [path.parent.name for path in records(tmp_path)] == ["bed-5", "bed-6", "bed-7"]
    )
    old = time.time() - 8 * 86400
    for file in records(tmp_path)[0].parent.iterdir():
        os.utime(file, (old, old))
    wait_until(lambda: [path.parent.name for path in records(tmp_path)] == ["bed-6", "bed-7"])
    ours.close(WITHIN)


def test_a_disk_that_fails_is_counted_and_tried_again(
    tmp_path: Path, metrics: SegmentMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.1)
    folder = tmp_path / "records"
    folder.write_text("in the way")
    ours = recorder(folder, metrics)
    one = np.ones(RATE)
    ours.samples(1, "bed-7", 0, RATE, BEGUN, leads(one))
    wait_until(lambda: failures(metrics) >= 1)
    folder.unlink()
    time.sleep(0.2)
    for second in range(1, 4):
        ours.samples(1, "bed-7", second * RATE, RATE, BEGUN + second, leads(one))
    ours.close(WITHIN)
    (path,) = records(folder)
    assert wfdb.rdheader(str(path)).sig_len == 3 * RATE


def test_a_disk_that_hangs_costs_no_more_than_a_bound(
    tmp_path: Path, metrics: SegmentMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = threading.Event()
    monkeypatch.setattr(module.Recorder, "_add", lambda *_: hung.wait())
    ours = recorder(tmp_path, metrics)
    for i in range(MAX_WAITING + 100):  # none of which waits
        ours.samples(1, "bed-7", i, RATE, BEGUN, {})
    assert 98 <= failures(metrics) <= 100
    hung.set()
    ours.close(WITHIN)


def test_no_name_leads_out_of_the_folder() -> None:
    for name in ("..", ".", "../../etc", "a/b", "~", "C:", "bed 7", "ü" * 128):
        plain = folder_of(name)
        assert plain.isascii() and set(plain).isdisjoint("/.\\:~ ") and 0 < len(plain) <= 200


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path, ANYBODY) as running:
        yield running


def test_the_daemon_records_what_it_cuts(tmp_path: Path, broker: Mosquitto) -> None:
    folder = tmp_path / "records"
    bed, known = Bed(broker), expected(SIGNAL[: 40 * RATE])
    try:
        with RunningDaemon(
            tmp_path, broker.url, command="segment", SEGMENT__RECORD=str(folder)
        ) as running:
            play(bed, "a", 0, 40)
            bed.raw("ecg/b/samples", b"nonsense")
            bed.wait(lambda: bed.beats("a") == known)
            assert running.stop() == 0
            assert running.log.read_text().count("not recorded") == 0
    finally:
        bed.close()
    (path,) = records(folder)
    read = wfdb.rdrecord(str(path))
    np.testing.assert_allclose(read.p_signal[:, 0], SIGNAL[: 40 * RATE], atol=6e-4)
    marks = marks_of(path)
    assert marks.sample.tolist() == known
    assert set(marks.symbol) == {"N"}
