"""Fits models in a process of its own: a fit never holds up the loop, nor does its death end it.

The loop writes a line for each fit to the process' standard input, and reads one from its output.
When the input ends, the process does, too: it never outlives the loop.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from train.learn.journal import Admission, Journal

FIT_TIMEOUT: Final = 600.0
"""Seconds after which a fit is given up; it takes 3.5 s of a core, and 8 with the import."""

FITS: Final = 10
"""Fits of a process, after which another takes over: TensorFlow keeps 60 MB of each, beside the
1 GB that the first one takes."""

NICENESS: Final = 10
"""Of the process that fits: monitoring comes first."""


class Job(msgspec.Struct, frozen=True):
    """A fit: whose, from which journal, to which file."""

    admission: Admission
    journal: str
    out: str
    epochs: int


class Result(msgspec.Struct, frozen=True):
    """How a fit ended.

    Attributes:
        outcome: "fitted"; "refused", for what the beats are; "unwritable", for the model folder; or
            "died", for anything else.
        reason: why it was not fitted, in one line.
    """

    outcome: str
    reason: str = ""


class Worker:
    """The process that fits, as the loop sees it. It is started by the first fit.

    Attributes:
        job: the fit under way.
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._answer = bytearray()
        self._started = 0.0
        self._fits = 0

    def start(self, job: Job) -> None:
        """Begin a fit; none is under way."""
        self._fits += 1
        if self._process is None or self._process.poll() is not None or self._fits > FITS:
            self.stop()
            self._fits = 1
            self._process = subprocess.Popen(
                [sys.executable, "-m", "train.learn.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdout.fileno(), False)
        assert self._process.stdin is not None
        self.job, self._started = job, time.monotonic()
        self._answer.clear()
        with contextlib.suppress(BrokenPipeError):  # `poll` finds that it died
            self._process.stdin.write(msgspec.json.encode(job) + b"\n")
            self._process.stdin.flush()

    def poll(self) -> Result | None:
        """Return how the fit under way ended, None while it goes on."""
        process = self._process
        if self.job is None or process is None or process.stdout is None:
            return None
        with contextlib.suppress(BlockingIOError):
            self._answer += os.read(process.stdout.fileno(), 65536)
        if self._answer.endswith(b"\n"):
            result = msgspec.json.decode(self._answer, type=Result)
        elif (code := process.poll()) is not None:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            result = Result("died", f"the process that fits ended with {how}")
        elif self.seconds > FIT_TIMEOUT:
            self.stop()
            result = Result("died", f"the fit took more than {FIT_TIMEOUT:.0f} s")
        else:
            return None
        self.job = None
        return result

    @property
    def seconds(self) -> float:
        """For how long the fit under way has run, or the last one did."""
        return time.monotonic() - self._started

    def stop(self) -> None:
        """End the process; the next fit starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self.job = None


def main() -> None:
    """Fit what the standard input asks for, until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the loop, which ends this process
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    with contextlib.suppress(OSError):  # where memory runs out, it is this process that goes
        Path("/proc/self/oom_score_adj").write_text("1000")
    answers = os.dup(1)
    os.dup2(2, 1)  # libraries that print must not do so in between
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    while True:
        result = _fit(msgspec.json.decode(jobs.get(), type=Job))
        os.write(answers, msgspec.json.encode(result) + b"\n")


def _read(jobs: "queue.SimpleQueue[bytes]") -> None:
    for line in sys.stdin.buffer:
        jobs.put(line)
    os._exit(0)  # also in the middle of a fit


def _fit(job: Job) -> Result:
    from train.learn import fitting

    journal = Journal(Path(job.journal))
    try:
        collected = journal.beats(job.admission.device)
    finally:
        journal.close()
    try:
        fitting.fit(job.admission, collected, Path(job.out), job.epochs)
    except OSError as error:
        return Result("unwritable", f"{error.strerror or error}")
    except fitting.Mixed as mixed:
        return Result("refused", str(mixed))
    except Exception as error:  # a fault of ours must not pass for one of the patient
        return Result("died", f"{type(error).__name__}: {error}"[:200])
    return Result("fitted")


if __name__ == "__main__":
    main()
