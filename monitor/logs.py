"""Log coloured lines on a terminal, JSON lines elsewhere."""

import logging
import sys
import time
from collections.abc import Hashable

import msgspec
import structlog
from prometheus_client import Counter

from monitor.errors import Reason
from monitor.text import printable


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


LINES = 50
"""Most lines of each kind in a second: a flood must not wait for the log."""


class Throttle:
    """Limits logging to once a second for the same thing, and to a number of things.

    Attributes:
        withheld: the number of lines suppressed since the last call of `take_withheld`.
    """

    def __init__(self, most: int) -> None:
        self.withheld = 0
        self._most = most
        self._second = 0
        self._said: set[Hashable] = set()
        self._before: set[Hashable] = set()  # in the second before

    def admits(self, thing: Hashable, now: float) -> bool:
        """Return whether `thing` may be logged at `now`, in seconds."""
        second = int(now)
        if second != self._second:
            self._before = self._said if second == self._second + 1 else set()
            self._second, self._said = second, set()
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
