"""What a page may look at: the open alarms, the devices, and the last beats of a few of them.

The loop owns all state. Now and then it shows some of it, as a view that is never changed again;
the threads that serve pages take the view that was shown last. Neither waits for the other's lock.
While nobody looks, nothing is shown, and the loop pays for one truth test a turn.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor import __version__
from monitor.alarms.decisions import Alarms
from monitor.alarms.device import HIGHEST_FIRST, Device, priority_of, shelved
from monitor.alarms.messages import Priority
from monitor.detector.per_device import Detectors, Scored
from monitor.ecg.beat import Beats
from monitor.topics import LONGEST_NAME
from monitor.web.snapshot import (
    VERDICTS,
    DetectorInUse,
    Row,
    ShownBeat,
    Snapshot,
    open_alarms,
    shorten,
)

EVERY = 0.2
"""Seconds from one view to the next."""

ATTENTION = 10.0
"""Seconds for which whoever has looked is taken to look on."""

PATIENCE = 1.0
"""Seconds that a first look waits for the loop."""

EYES = 8
"""Devices whose beats can be looked at at once."""

KEPT = 16
"""Beats that are kept of each of them."""

RATE = 10.0
"""Beats a second of each of them that are kept, in the long run."""

IN_ALARM, HEARD = 200, 100
"""Devices in alarm, and devices that are heard, of which a view tells at most."""


class LiveFeed:
    """What is shown, and to whom.

    Attributes:
        watched: whether anybody looks.
    """

    def __init__(self, topics: list[str]) -> None:
        self.watched = False
        self._topics = topics
        self._asked: deque[tuple[str, float]] = deque(maxlen=1000)
        self._until = self._next = -math.inf
        self._view: Snapshot | None = None
        self._shown = threading.Event()
        self._eyes: dict[str, _WatchedDevice] = {}
        self._open: dict[Priority, dict[str, Device]] = {priority: {} for priority in HIGHEST_FIRST}
        self._listed: dict[str, None] = {}

    def look(self, device: str) -> Snapshot | None:
        """See what was shown last, of all beats a device's alone, which are kept from now on.

        For any thread. Gives None where the loop has shown nothing for a while. No device has the
        name "".
        """
        self._asked.append((device[:LONGEST_NAME], time.monotonic()))
        self.watched = True
        self._shown.wait(PATIENCE)
        view = self._view
        if view is None:
            return None
        theirs = {name: beats for name, beats in view.beats.items() if name == device}
        return msgspec.structs.replace(view, beats=theirs)

    # -- what the loop does

    def note(self, name: str, device: Device | None) -> None:
        """Take notice that an alarm of a device has changed; None: it was forgotten."""
        for devices in self._open.values():
            devices.pop(name, None)
        priority = priority_of(device) if device else None
        if device and priority:
            self._open[priority][name] = device

    def see(
        self,
        heard: Iterable[tuple[str, Beats, int]],
        batch: NDArray[np.float32],
        scored: Scored,
        verdicts: bytes,
        wall: float,
    ) -> None:
        """Keep the last beats of the devices that are looked at, as far as there is room for them.

        Args:
            heard: for each message its device, its beats, and where in the batch they begin.
            batch: float32 [N, 140].
            scored: what the detectors said of it.
            verdicts: for each beat NORMAL, ANOMALOUS or POOR.
            wall: now, in seconds since 1970 UTC.
        """
        theirs: dict[str, list[tuple[Beats, int]]] = {}
        for name, beats, start in heard:
            if name in self._eyes:
                theirs.setdefault(name, []).append((beats, start))
        for name, messages in theirs.items():
            eye = self._eyes[name]
            for number, beats, i, at in eye.choose(messages, time.monotonic()):
                verdict = VERDICTS[verdicts[at]]
                believed = verdict != "poor"
                eye.beats.append(
                    ShownBeat(
                        number=number,
                        time=beats.times(wall)[i],
                        seq=beats.number(i),
                        rr_ms=None if beats.rr_ms is None else beats.rr_ms[i],
                        verdict=verdict,
                        score=float(scored.scores[at]) if believed else None,
                        threshold=float(np.broadcast_to(scored.thresholds, len(batch))[at]),
                        beat=shorten(batch[at]),
                        reconstruction=shorten(scored.reconstructions[at]) if believed else None,
                    )
                )

    def show(self, alarms: Alarms, detectors: Detectors, now: float) -> None:
        """Show a new view, if it is time for one.

        Args:
            alarms: of all devices.
            detectors: of all devices.
            now: on the monotonic clock, in seconds.
        """
        if now < self._next:
            return
        self._next = now + EVERY
        self._attend(now)
        if not self.watched:
            return
        wall = time.time()
        in_alarm = list(islice(self._in_alarm(), IN_ALARM))
        self._view = Snapshot(
            time=wall,
            version=__version__,
            models=[
                DetectorInUse(each.name, each.sha256, each.threshold) for each in detectors.all
            ],
            policy=alarms.policy,
            alarms=open_alarms(in_alarm),
            in_alarm=sum(map(len, self._open.values())),
            devices=[
                Row(
                    device=name,
                    priority=priority_of(device),
                    heard=wall - (now - device.heard) if name in alarms.devices else None,
                    model=detectors.for_device(name).name,
                    shelved=shelved(device),
                )
                for name, device in self._to_list(in_alarm, alarms)
            ],
            known=len(alarms.devices) + len(alarms.silent),
            beats={name: list(eye.beats) for name, eye in self._eyes.items()},
            full=len(self._eyes) == EYES,
            topics=self._topics,
        )
        self._shown.set()

    def _attend(self, now: float) -> None:
        """Find out who looks at what, and stop showing where nobody does."""
        while self._asked:
            name, when = self._asked.popleft()
            self._until = when + ATTENTION
            if name and (name in self._eyes or len(self._eyes) < EYES):
                self._eyes.setdefault(name, _WatchedDevice(when)).until = self._until
        self._eyes = {name: eye for name, eye in self._eyes.items() if eye.until > now}
        if self._until <= now:
            self.watched, self._view = False, None
            self._shown.clear()
            self.watched = bool(self._asked)  # somebody may have come in this moment

    def _in_alarm(self) -> Iterator[tuple[str, Device]]:
        """The devices with an open alarm, by priority, and the one that changed last first."""
        return chain.from_iterable(reversed(self._open[each].items()) for each in HIGHEST_FIRST)

    def _to_list(
        self, in_alarm: list[tuple[str, Device]], alarms: Alarms
    ) -> Iterator[tuple[str, Device]]:
        """The devices of a view. Who was on the list stays on it, that it may be read."""
        self._listed = {name: None for name in self._listed if alarms.find(name)}
        for name in reversed(alarms.devices):
            if len(self._listed) >= HEARD:
                break
            self._listed[name] = None
        names = dict.fromkeys(chain((name for name, _ in in_alarm), self._eyes, self._listed))
        for name in names:
            device = alarms.find(name)
            if device is not None:
                yield name, device


class _WatchedDevice:
    """On one device: its last beats. Of one that sends thousands a second it takes a few."""

    def __init__(self, now: float) -> None:
        self.until = now
        self.beats: deque[ShownBeat] = deque(maxlen=KEPT)
        self._number = 0
        self._room, self._since = float(KEPT), now

    def choose(
        self, messages: list[tuple[Beats, int]], now: float
    ) -> list[tuple[int, Beats, int, int]]:
        """The last of some beats: number, message, and the places in message and batch of each."""
        room = min(KEPT, self._room + RATE * (now - self._since))
        self._number += sum(len(beats) for beats, _ in messages)
        chosen: list[tuple[int, Beats, int, int]] = []
        newest_first = (
            (beats, i, start + i)
            for beats, start in reversed(messages)
            for i in reversed(range(len(beats)))
        )
        for back, (beats, i, at) in enumerate(islice(newest_first, int(room))):
            chosen.append((self._number - back, beats, i, at))
        self._room, self._since = room - len(chosen), now
        return chosen[::-1]
