"""The line to one person: what is to be said over it, and whether it works. Pure.

What is due for a person is said in one call, and while a call is made no other one is: whatever
comes meanwhile goes with the next. A call that fails is made again, after pauses that grow, as long
as there is something to say. So a line needs no queue, and however many alarms there are, a person
is not called more often than calls get through.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, NamedTuple

from monitor.notify.duty import UnansweredAlarm

TIME_LIMIT: Final = 20.0
"""Seconds that a call may take: mail servers that look up who calls take some. What takes longer
has failed, and is made again."""

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds until a call that failed is made again; twice as many after each further failure. A
minute is the longest that nobody may know for, once a mail server is back."""

PAUSE: Final = 3.0
"""Seconds between two calls of a person: of a flood of alarms each call tells of those that came
meanwhile, and no alarm waits for long."""

MAX_HANGING: Final = 2
"""Calls that took too long and still hang, above which no further one is made: each has a thread,
and the shipped unit allows for 64 of them (`TasksMax`)."""

UNREACHABLE_AFTER: Final = 3
"""Failures in a row after which the next person is called at once: 6 s after the first failure, so
not for one lost packet or a server that restarts."""

REPEAT: Final = 60.0
"""Seconds after which Alertmanager is told again of what it was told."""

MAX_REMEMBERED: Final = 10_000
"""Alerts of the past that a person is not called of again, should they be repeated: more than the
redeliveries of a broker can raise again."""


class Call(NamedTuple):
    """What is said at once.

    Attributes:
        number: of the call.
        alarms: to be told of.
        over: of those that were told, which are not to be attended to any more. Only where the
            other side keeps alarms.
    """

    number: int
    alarms: tuple[UnansweredAlarm, ...]
    over: tuple[UnansweredAlarm, ...]


class Told(NamedTuple):
    """What got through.

    Attributes:
        alarms: that had not been told before.
        over: which the other side does not keep any more.
    """

    alarms: tuple[UnansweredAlarm, ...] = ()
    over: tuple[UnansweredAlarm, ...] = ()


class Line:
    """The line to one person, or to Alertmanager. Times are in seconds on one clock.

    Attributes:
        failures: calls in a row that failed.
    """

    def __init__(self, keeps: bool, told: Iterable[UnansweredAlarm] = ()) -> None:
        """Go on from what was told before, the oldest first.

        `keeps` is whether the other side keeps alarms until it is told that they are over; what was
        told is what it still keeps then.
        """
        self.failures = 0
        self._keeps = keeps
        self._told = {each.alert: each for each in told}
        self._due: Mapping[str, UnansweredAlarm] = {}
        self._pending: dict[str, UnansweredAlarm] = {}
        self._running: dict[int, Call] = {}  # those that were given up, too
        self._call: Call | None = None
        self._numbers = 0
        self._begun = self._next = self._repeat = 0.0

    @property
    def busy(self) -> bool:
        """Whether a call is being made that has not been given up."""
        return self._call is not None

    @property
    def undelivered(self) -> int:
        """How many alarms were to be told, or said to be over, and could not."""
        return len(self._to_tell()) + len(self._over()) if self.failures else 0

    def unreachable(self, alert: str) -> bool:
        """Return whether the person cannot be told of an alarm, as it was tried."""
        return self.failures >= UNREACHABLE_AFTER and alert in self._pending

    def update(self, due: Mapping[str, UnansweredAlarm]) -> int:
        """Take over what is due, by alert.

        Return how many alarms the person was never told of, although they had been due: they are
        over, or somebody has seen to them.
        """
        self._due = due
        under_way = {each.alert for each in self._call.alarms} if self._call else ()
        missed = [each for each in self._pending if each not in due and each not in under_way]
        for alert in missed:
            del self._pending[alert]
        for alert, alarm in due.items():
            if alert not in self._told:
                self._pending[alert] = alarm
        if self._call is None and not self._to_tell() and not self._over():
            self.failures, self._next = 0, 0.0  # the next alarm has nothing to do with those
        return len(missed)

    def expire(self, now: float) -> bool:
        """Give up the call that takes too long; return whether there was one."""
        if self._call is None or now - self._begun < TIME_LIMIT:
            return False
        self._fail(now)
        return True

    def next_call(self, now: float) -> Call | None:
        """Return the call to make now, if any."""
        if self._call is not None or now < self._next or len(self._running) > MAX_HANGING:
            return None
        over = self._over()
        again = self._keeps and self._due and now >= self._repeat
        if not (self._pending or over or again):
            return None
        self._numbers += 1
        self._call = Call(self._numbers, tuple(self._to_tell().values()), over)
        self._running[self._numbers] = self._call
        self._begun = now
        return self._call

    def finish(self, number: int, delivered: bool, now: float) -> Told:
        """Take over how a call ended, also one that had been given up."""
        call = self._running.pop(number)
        last = self._call is not None and self._call.number == number
        if not delivered:
            if last:
                self._fail(now)
            return Told()
        if last:
            self._call = None
        self.failures, self._repeat = 0, now + REPEAT
        self._next = now if self._keeps else now + PAUSE
        new = tuple(each for each in call.alarms if each.alert not in self._told)
        for alarm in call.alarms:
            self._pending.pop(alarm.alert, None)
            self._told[alarm.alert] = alarm
        over = tuple(each for each in call.over if each.alert not in self._due)
        for alarm in over:
            self._told.pop(alarm.alert, None)
        self._forget()
        return Told(new, over)

    def _to_tell(self) -> Mapping[str, UnansweredAlarm]:
        return self._due if self._keeps else self._pending

    def _over(self) -> tuple[UnansweredAlarm, ...]:
        if not self._keeps:
            return ()
        return tuple(each for alert, each in self._told.items() if alert not in self._due)

    def _fail(self, now: float) -> None:
        self._call = None
        self._next = now + min(FIRST_PAUSE * 2**self.failures, LONGEST_PAUSE)
        self.failures += 1

    def _forget(self) -> None:
        if self._keeps:
            return
        surplus = max(0, len(self._told) - MAX_REMEMBERED)
        for alert in list(islice(self._told, surplus)):
            if alert not in self._due:
                del self._told[alert]
