"""Devices that fall silent together: one lost connection instead of a `silent` alarm for each.

Theory of operation: when the bridge of a broker or an access point dies, the last beats of all
devices behind it came within one interval between their messages. So when the first of them has
been silent for long enough, the others are counted that were heard just before, and not since. If
they are many, they are withheld from people as single alarms, and made known as one number. Nobody
can tell a device that has failed by itself at that moment from those behind the bridge. So each is
reported by itself after a time, whatever became of the others, and at once if most are back.
"""

from collections.abc import Container, Iterable
from itertools import takewhile
from math import inf
from typing import Final

from monitor.alarms.messages import Connection
from monitor.times import rfc3339

TOGETHER: Final = 5.0
"""Seconds between the last beats of devices that fall silent together, at most: a device sends a
beat a second, or some of them in one message. A sixth of `alarm.silent_after` where that is less:
what is counted must have been silent for most of that time."""

MANY: Final = 5
"""Devices that are many. Of 1,000 that each are switched off three times a day, one is every 29 s,
and five in the same five seconds once in two months."""

FEW, SHARE = 3, 0.5
"""Fewer are many, too, if they are three and half of all: a small ward behind one access point. Of
one or two devices, each is reported by itself."""

MOST_NAMES: Final = 20
"""Names that are made known: as many as are read, in 5 kB at most."""


class LostConnection:
    """The devices that fell silent together, and are not heard yet.

    Attributes:
        members: when each is to be reported by itself, on the caller's clock; never once it is.
        changed: those whose retained alarm is to be saved, until somebody empties it.
        since: when the first of them was last heard, in seconds since 1970.
    """

    def __init__(self, hold: float, silent_after: float) -> None:
        """Withhold each for `hold` seconds after it counts as silent; 0 for never."""
        self.members: dict[str, float] = {}
        self.changed: dict[str, None] = {}
        self.since = 0.0
        self._hold, self._within = hold, min(TOGETHER, silent_after / 6)
        self._until = -inf  # who was last heard by then is one of them
        self._of = 0
        self._published: tuple[int, int] | None = None

    def takes(
        self, name: str, heard: float, now: float, wall: float, all_heard: list[float]
    ) -> bool:
        """Return whether a device that counts as silent now is withheld as one of many.

        Args:
            name: of the device.
            heard: when it was last, in seconds on the clock of `now`.
            now: the time.
            wall: `now` in seconds since 1970.
            all_heard: when each device was that did not count as silent yet, in their order.
        """
        if not self._hold:
            return False
        if heard > self._until:
            last = heard + self._within
            together = sum(heard <= each <= last for each in all_heard)
            if together < MANY and (together < FEW or together < SHARE * len(all_heard)):
                return False
            self._until = last
            if not self.members:
                self.since = wall - (now - heard)
            self._of = len(self.members) + len(all_heard)
        self.members[name] = now + self._hold
        self.changed[name] = None
        return True

    def review(self, silent: Container[str], all_heard: Iterable[float], now: float) -> list[str]:
        """Let those go that are not `silent` any more; return who is to be reported by itself.

        Those that were last heard with them and do not count as silent yet are expected to.
        """
        for name in [each for each in self.members if each not in silent]:
            del self.members[name]
            self.changed[name] = None
        expected = sum(1 for _ in takewhile(lambda heard: heard <= self._until, all_heard))
        if few := len(self.members) + expected < FEW:
            self._until = -inf
        due = [name for name, when in self.members.items() if when <= now or (few and when < inf)]
        if few and not due:
            self.members.clear()
        return due

    def report(self, name: str) -> float:
        """Note that a device is reported by itself; return since when it has counted as silent."""
        since, self.members[name] = self.members[name] - self._hold, inf
        return since

    def news(self, wall: float) -> Connection | None:
        """Return what is to be made known; None if nothing has changed since the last call."""
        counts = self._counts()
        if counts == self._published:
            return None
        self._published = counts
        return self.as_it_stands(wall)

    def as_it_stands(self, wall: float) -> Connection:
        """Return what is made known at `wall` seconds since 1970."""
        number, reported = self._counts()
        return Connection(
            state="lost" if number else "ok",
            time=rfc3339(wall),
            since=rfc3339(self.since) if number else None,
            devices=number,
            of=self._of if number else 0,
            reported=reported,
            names=sorted(self.members)[:MOST_NAMES],
        )

    def _counts(self) -> tuple[int, int]:
        return len(self.members), sum(when == inf for when in self.members.values())

    def repeat(self) -> None:
        """Have it made known again, for a broker that has lost its memory."""
        self._published = None
