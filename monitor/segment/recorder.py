"""Whole recordings on disk, as WFDB: a record for each device and hour, with its annotations.

The loop hands over what came and goes on; a thread writes. Where the disk is slow or full, a
recording has a gap, which is counted: no beat waits for it.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from monitor.logs import LINES, Throttle
from monitor.metrics import SegmentMetrics
from monitor.segment import wfdb
from monitor.segment.wfdb import Annotation

log = structlog.get_logger()

LONGEST: Final = 3600.0
"""Seconds of a record: a viewer opens it at once, and it is a part of a day that can be deleted."""

LONGEST_HOLE: Final = 60.0
"""Seconds that may be missing within a record; after more of them another one begins."""

MAX_WAITING: Final = 2000
"""Most pieces that wait to be written: 48 MB of chunks of a second with twelve leads at 250 Hz."""

WRITE_INTERVAL: Final = 5.0
"""Seconds of signal that are written at once: 600 devices are then 120 small writes a second."""

LATE: Final = 30.0
"""Seconds after which no annotation of a sample comes any more, so that they are written in order:
a beat is cut 3.5 s late, a rhythm is told up to 20 s after its onset."""

TRIM_INTERVAL: Final = 60.0
"""Seconds between two looks at the bounds, which may be exceeded by what comes in between."""

RETRY_INTERVAL: Final = 10.0
"""Seconds after a failure in which nothing is written."""


class _Record:
    """A record that is being written."""

    def __init__(
        self, folder: Path, device: str, first: int, rate: float, begin: float, leads: list[str]
    ) -> None:
        self.device, self.first, self.rate, self.leads = device, first, rate, leads
        self.begin = begin
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(begin))
        names = (stamp if i == 1 else f"{stamp}-{i}" for i in range(1, 10_000))
        self.name = next(name for name in names if not (folder / f"{name}.hea").exists())
        self.path = folder / self.name
        self.length = 0  # samples handed over
        self._annotated = 0  # the sample of the last annotation that was written
        self._samples: list[wfdb.Digits] = []
        self._waiting = 0
        self._annotations: list[Annotation] = []
        self._leads: list[wfdb.Lead] = []

    def add(self, first: int, samples: NDArray[np.float32]) -> None:
        """Add samples in millivolts, [n, leads], of which the first has this number."""
        if not self._leads:
            middles = [
                np.median(own[np.isfinite(own)]) if np.isfinite(own).any() else 0.0
                for own in samples.T
            ]
            digits = wfdb.digits(samples[:1], baselines := [wfdb.baseline(m) for m in middles])[0]
            self._leads = [
                wfdb.Lead(*each)
                for each in zip(self.leads, baselines, digits.tolist(), strict=True)
            ]
            self._write_header(None)
        hole = first - self.first - self.length
        if hole > 0:
            self._take(np.full((hole, len(self.leads)), wfdb.LOST, "<i2"))
        self._take(wfdb.digits(samples, [lead.baseline for lead in self._leads]))
        if self._waiting >= WRITE_INTERVAL * self.rate:
            self.flush()

    def annotate(self, number: int, symbol: str, text: str) -> None:
        """Add an annotation at the sample of this number."""
        self._annotations.append(Annotation(max(0, number - self.first), symbol, text))

    def flush(self, everything: bool = False) -> None:
        """Write what waits, and the annotations that no other can precede any more.

        Raises:
            OSError: the disk will not take it.
        """
        samples, self._samples, self._waiting = self._samples, [], 0
        if samples:
            with self.path.with_suffix(".dat").open("ab") as file:
                file.write(np.concatenate(samples).tobytes())
        until = self.length - (0 if everything else round(LATE * self.rate))
        waiting = sorted(self._annotations)
        due = [each for each in waiting if everything or each.sample < until]
        self._annotations = waiting[len(due) :]
        due = [each._replace(sample=max(each.sample, self._annotated)) for each in due]
        payload = wfdb.annotations(due, self._annotated)
        if due:
            self._annotated = due[-1].sample
        if everything:
            payload += wfdb.END
        if payload:
            with self.path.with_suffix(".atr").open("ab") as file:
                file.write(payload)

    def close(self) -> None:
        """Write what waits, and how long the record is.

        Raises:
            OSError: the disk will not take it.
        """
        self.flush(everything=True)
        self._write_header(self.length)

    def _take(self, digits: wfdb.Digits) -> None:
        sums = digits.sum(axis=0, dtype=np.int64).tolist()
        self._leads = [
            lead._replace(checksum=lead.checksum + own)
            for lead, own in zip(self._leads, sums, strict=True)
        ]
        self._samples.append(digits)
        self.length += len(digits)
        self._waiting += len(digits)

    def _write_header(self, length: int | None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for suffix in (".dat", ".atr", ".hea"):
            self.path.with_suffix(suffix).touch(mode=0o600)  # recordings are about patients
        text = wfdb.header(self.name, self.rate, self.begin, self._leads, self.device, length)
        self.path.with_suffix(".hea").write_text(text, encoding="utf-8")


class Recorder:
    """Writes recordings. Its methods, called from the loop, never block."""

    def __init__(
        self,
        folder: Path,
        days: float,
        megabytes: int,
        per_millivolt: float,
        metrics: SegmentMetrics,
    ) -> None:
        """Start the thread.

        Args:
            folder: of the recordings, with a folder for each device.
            days: for which a recording is kept.
            megabytes: that all of them may have.
            per_millivolt: units of the samples in a millivolt.
            metrics: that are counted up.
        """
        self._folder, self._days, self._most = folder, days, megabytes * 1_000_000
        self._per_millivolt, self._metrics = per_millivolt, metrics
        self._waiting: Queue[Callable[[], None] | None] = Queue(MAX_WAITING)
        self._records: dict[int, _Record] = {}  # by the number of their stream
        self._notices = Throttle(LINES)
        self._pause_until = self._next_trim = 0.0
        self._full = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def samples(
        self,
        stream: int,
        device: str,
        first: int,
        rate: float,
        begin: float,
        leads: dict[str, NDArray[np.float64]],
    ) -> None:
        """Record samples of a stream.

        Args:
            stream: its number, which is of no other one.
            device: that sends it.
            first: the number of the first sample.
            rate: samples a second.
            begin: of the first sample, in seconds since 1970.
            leads: the samples of each lead, [n].
        """
        self._put(lambda: self._add(stream, device, first, rate, begin, leads))

    def annotate(self, stream: int, number: int, symbol: str, text: str = "") -> None:
        """Record an annotation at a sample of a stream."""
        self._put(lambda: self._annotate(stream, number, symbol, text))

    def end(self, stream: int) -> None:
        """Note that no more samples of a stream come."""
        self._put(lambda: self._close(stream))

    def close(self, timeout: float) -> None:
        """Finish all records, within `timeout` seconds."""
        try:
            self._waiting.put(None, timeout=timeout)
        except Full:
            return
        self._thread.join(timeout)

    def _put(self, work: Callable[[], None]) -> None:
        try:
            self._waiting.put_nowait(work)
        except Full:
            self._metrics.unrecorded.inc()

    # -- in the thread

    def _run(self) -> None:
        while True:
            try:
                work = self._waiting.get(timeout=TRIM_INTERVAL / 4)
            except Empty:
                work = self._nothing
            if work is None:
                for stream in list(self._records):
                    self._guard(partial(self._close, stream))
                return
            if time.monotonic() < self._pause_until:
                self._metrics.unrecorded.inc()
                continue
            self._guard(work)
            if time.monotonic() >= self._next_trim:
                self._next_trim = time.monotonic() + TRIM_INTERVAL
                self._guard(self._trim)

    def _nothing(self) -> None:
        """Wake up, to look at the bounds."""

    def _guard(self, work: Callable[[], None]) -> None:
        """Do something on the disk; where that fails, say so, and begin new records later."""
        try:
            work()
        except OSError as error:
            self._metrics.unrecorded.inc()
            self._records.clear()
            self._pause_until = time.monotonic() + RETRY_INTERVAL
            if self._notices.admits("record", time.monotonic()):
                log.error("not recorded", folder=str(self._folder), reason=str(error))

    def _add(
        self,
        stream: int,
        device: str,
        first: int,
        rate: float,
        begin: float,
        leads: dict[str, NDArray[np.float64]],
    ) -> None:
        if self._full:
            self._metrics.unrecorded.inc()
            return
        record = self._records.get(stream)
        if record is not None and (
            set(record.leads) - set(leads)
            or first - record.first > LONGEST * rate
            or first - record.first - record.length > LONGEST_HOLE * rate
        ):
            self._close(stream)
            record = None
        if record is None:
            folder = self._folder / folder_of(device)
            record = _Record(folder, device, first, rate, begin, list(leads))
            self._records[stream] = record
        millivolts = np.column_stack([leads[name] for name in record.leads]) / self._per_millivolt
        record.add(first, millivolts.astype(np.float32))

    def _annotate(self, stream: int, number: int, symbol: str, text: str) -> None:
        record = self._records.get(stream)
        if record is not None:
            record.annotate(number, symbol, text)

    def _close(self, stream: int) -> None:
        record = self._records.pop(stream, None)
        if record is not None:
            record.close()

    def _trim(self) -> None:
        """Delete the oldest records until the rest is within the bounds."""
        being_written = {record.path for record in self._records.values()}
        found: list[tuple[float, int, Path]] = []
        total = 0
        for file in self._folder.glob("*/*.hea"):
            parts = [file.with_suffix(suffix) for suffix in (".dat", ".atr", ".hea")]
            states = [part.stat() for part in parts if part.exists()]
            size = sum(state.st_size for state in states)
            total += size
            if file.with_suffix("") not in being_written:
                found.append((max(state.st_mtime for state in states), size, file))
        oldest = time.time() - 86400 * self._days
        for written, size, file in sorted(found):
            if written >= oldest and total <= self._most:
                break
            for suffix in (".dat", ".atr", ".hea"):
                file.with_suffix(suffix).unlink(missing_ok=True)
            total -= size
        self._full = total > self._most
        if self._full and self._notices.admits("full", time.monotonic()):
            log.error("not recorded: segment.record_megabytes are full of records of this hour")


def folder_of(device: str) -> str:
    """Return the name of a device's folder: what is no letter, digit, - or _ is written as %XX.

    >>> folder_of("bed-7"), folder_of("../x")
    ('bed-7', '%2E%2E%2Fx')
    """
    plain = "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or chr(byte) in "-_" else f"%{byte:02X}"
        for byte in device.encode()
    )
    return plain[:200]
