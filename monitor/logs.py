"""Log coloured lines on a terminal, JSON lines elsewhere."""

import logging
import sys
import time
import warnings
from collections.abc import Hashable
from typing import TextIO

import msgspec
import structlog
from prometheus_client import Counter

from monitor.errors import Reason
from monitor.text import printable
from monitor.times import rfc3339


def _to_json(event: structlog.types.EventDict, **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


def _printable(
    _logger: object, _method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Escape topics and details, which may contain anything, so that they cannot forge lines."""
    return {
        name: printable(value) if isinstance(value, str) else value for name, value in event.items()
    }


def set_up() -> None:
    """Set up logging to standard error."""
    steps: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        _printable,
    ]
    if sys.stderr.isatty():
        steps.append(structlog.dev.ConsoleRenderer())
        factory: structlog.types.WrappedLogger = structlog.PrintLoggerFactory(sys.stderr)
    else:  # an alarm flood must not wait for the log
        steps.append(structlog.processors.JSONRenderer(_to_json))
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=steps,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    # Libraries warn, too, and would write lines of another form between ours.
    warnings.showwarning = _log_warning
    logging.basicConfig(handlers=[_Forwarding(logging.WARNING)], force=True)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - given by name
    line: str | None = None,  # noqa: ARG001
) -> None:
    structlog.get_logger().warning(
        "warning", kind=category.__name__, detail=str(message), at=f"{filename}:{lineno}"
    )


class _Forwarding(logging.Handler):
    """Hands over what is logged with Python's own `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record in our form, with its traceback if it has one."""
        detail = record.getMessage()
        if record.exc_info:
            detail += "\n" + logging.Formatter().formatException(record.exc_info)
        structlog.get_logger().log(record.levelno, "warning", kind=record.name, detail=detail)


LINES = 50
"""Most lines of each kind in a second: a flood must not wait for the log."""


MAX_DEVICES = 1000
"""Most devices of which something is said in an hour."""


class Throttle:
    """Limits logging to once a period for the same thing, and to a number of things.

    Attributes:
        withheld: the number of lines suppressed since the last call of `take_withheld`.
    """

    def __init__(self, most: int, period: float = 1.0) -> None:
        """Admit at most `most` things in a period, in seconds."""
        self.withheld = 0
        self._most, self._period = most, period
        self._now = 0  # the number of the period
        self._said: set[Hashable] = set()
        self._before: set[Hashable] = set()  # in the period before

    def admits(self, thing: Hashable, now: float) -> bool:
        """Return whether `thing` may be logged at `now`, in seconds."""
        period = int(now / self._period)
        if period != self._now:
            self._before = self._said if period == self._now + 1 else set()
            self._now, self._said = period, set()
        if thing in self._said or thing in self._before or len(self._said) >= self._most:
            self.withheld += 1
            return False
        self._said.add(thing)
        return True

    def take_withheld(self) -> int:
        """Return the number of lines suppressed, and reset it."""
        number, self.withheld = self.withheld, 0
        return number


class RejectionLog:
    """Counts the messages that cannot be understood, and logs them.

    The log has at most one line a second for each reason and topic.
    """

    def __init__(self, counter: Counter) -> None:
        """Count on `counter`, which has the label `reason`."""
        self._counter = counter
        self._lines = Throttle(LINES)

    def add(self, topic: bytes, reason: Reason, detail: str) -> None:
        """Count a message, and log it."""
        self._counter.labels(reason).inc()
        if self._lines.admits((reason, topic), time.monotonic()):
            structlog.get_logger().warning(
                "rejected",
                topic=topic.decode(errors="backslashreplace")[:100],
                reason=reason,
                detail=detail[:200],
                withheld=self._lines.take_withheld(),
            )


class ClockLog:
    """Counts the messages whose time is not credible, and says it once an hour for each device."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._lines = Throttle(MAX_DEVICES, 3600.0)

    def add(self, device: str, given: float, arrival: float) -> None:
        """Count a message of `given` that arrived at `arrival`, both in seconds since 1970."""
        self._counter.inc()
        if self._lines.admits(device, arrival):
            structlog.get_logger().warning(
                "a time that is not credible; the time of arrival counts",
                device=device,
                time=rfc3339(given),
                off_by=f"{abs(given - arrival):,.0f} s {'ahead' if given > arrival else 'behind'}",
            )
