"""Collect the data of the live page: open alarms, devices, and the last beats of watched devices.

The loop owns all state. Every `REFRESH_INTERVAL` it makes an immutable snapshot of part of it, and
the threads that serve pages use the latest one, without locks. While nobody watches, no snapshots
are made, and the cost is one truth test per turn of the loop.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor import __version__
from monitor.alarms.decisions import Alarms
from monitor.alarms.device import HIGHEST_FIRST, Device, priority_of, shelved
from monitor.alarms.messages import Priority
from monitor.alarms.patients import Patient
from monitor.detector.per_device import Detectors, Scored
from monitor.ecg.beat import Beats
from monitor.topics import LONGEST_NAME
from monitor.web.live_signal import LiveSignal, ShownSignal
from monitor.web.snapshot import (
    VERDICTS,
    DetectorInUse,
    DeviceRow,
    ShownBeat,
    Snapshot,
    open_alarms,
    shorten,
)

REFRESH_INTERVAL = 0.2
"""Seconds between two snapshots: a page that changes five times a second looks live."""

WATCH_TIMEOUT = 10.0
"""Seconds after its last request during which a page counts as open."""

FIRST_SNAPSHOT_TIMEOUT = 1.0
"""Seconds that a first request waits for a snapshot; the loop needs at most a quarter of it."""

MAX_WATCHED = 8
"""Devices that can be watched at the same time, which limits the loop's work for pages."""

BEATS_KEPT = 16
"""Beats kept for each watched device: more than arrive between two requests of a page."""

BEATS_PER_SECOND = 10.0
"""Average rate at which beats are kept for each watched device; no heart beats faster."""

MAX_IN_ALARM, MAX_HEARD = 200, 100
"""Most devices in alarm, and most other devices, in a snapshot."""


class LiveFeed:
    """Makes snapshots for open pages.

    Attributes:
        watched: whether any page is open.
    """

    def __init__(
        self,
        topics: list[str],
        patient: Callable[[str], Patient | None] = lambda _: None,
        signal: Callable[[], LiveSignal] = lambda: LiveSignal(None, 1),
    ) -> None:
        """Show devices.

        Args:
            topics: where to publish beats.
            patient: tells what was made known of the patient at a device.
            signal: makes what takes the raw signal of one.
        """
        self._new_signal = signal
        self.watched = False
        self._topics, self._patient = topics, patient
        self._requests: deque[tuple[str, float]] = deque(maxlen=1000)
        self._until = self._next = -math.inf
        self._snapshot: Snapshot | None = None
        self._available = threading.Event()
        self._watched_devices: dict[str, _WatchedDevice] = {}
        self._open: dict[Priority, dict[str, Device]] = {priority: {} for priority in HIGHEST_FIRST}
        self._listed: dict[str, None] = {}

    def snapshot(self, device: str) -> Snapshot | None:
        """Return the latest snapshot, with the beats of one device, which is watched from now on.

        May be called from any thread. Return None if there is no recent snapshot. The name "",
        which no device has, watches none.
        """
        self._requests.append((device[:LONGEST_NAME], time.monotonic()))
        self.watched = True
        self._available.wait(FIRST_SNAPSHOT_TIMEOUT)
        view = self._snapshot
        if view is None:
            return None
        theirs = {name: beats for name, beats in view.beats.items() if name == device}
        return msgspec.structs.replace(view, beats=theirs)

    def signal(self, device: str, after: int) -> ShownSignal | None:
        """Return the raw signal of a watched device from this sample on; None if there is none.

        May be called from any thread.
        """
        watched = self._watched_devices.get(device)
        return None if watched is None else watched.signal.since(after)

    # -- called by the loop

    @property
    def watched_devices(self) -> list[str]:
        """The devices that somebody watches."""
        return list(self._watched_devices)

    def take_samples(self, device: str, payload: bytes) -> None:
        """Take a chunk of the raw signal of a device, if it is watched."""
        watched = self._watched_devices.get(device)
        if watched is not None:
            watched.signal.take(payload, time.monotonic())

    def update_device(self, name: str, device: Device | None) -> None:
        """Record that an alarm of a device has changed; `device` is None if it was forgotten."""
        for devices in self._open.values():
            devices.pop(name, None)
        priority = priority_of(device) if device else None
        if device and priority:
            self._open[priority][name] = device

    def take_beats(
        self,
        heard: Iterable[tuple[str, Beats, int]],
        batch: NDArray[np.float32],
        scored: Scored,
        verdicts: bytes,
        wall: float,
    ) -> None:
        """Keep the last beats of the watched devices, within `BEATS_PER_SECOND`.

        Args:
            heard: the device of each message, its beats, and their offset in the batch.
            batch: float32 [N, 140].
            scored: the detectors' scores of the batch.
            verdicts: one of those of `alarms.kinds` for each beat.
            wall: now, in seconds since 1970 UTC.
        """
        theirs: dict[str, list[tuple[Beats, int]]] = {}
        for name, beats, start in heard:
            if name in self._watched_devices:
                theirs.setdefault(name, []).append((beats, start))
        for name, messages in theirs.items():
            watched = self._watched_devices[name]
            for number, beats, i, at in watched.choose(messages, time.monotonic()):
                verdict = VERDICTS[verdicts[at]]
                believed = verdict != "poor"
                watched.beats.append(
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

    def refresh(self, alarms: Alarms, detectors: Detectors, now: float) -> None:
        """Make a new snapshot if one is due.

        Args:
            alarms: of all devices.
            detectors: of all devices.
            now: on the monotonic clock, in seconds.
        """
        if now < self._next:
            return
        self._next = now + REFRESH_INTERVAL
        self._update_watched(now)
        if not self.watched:
            return
        wall = time.time()
        in_alarm = list(islice(self._in_alarm(), MAX_IN_ALARM))
        self._snapshot = Snapshot(
            time=wall,
            version=__version__,
            models=[
                DetectorInUse(each.name, each.sha256, each.threshold) for each in detectors.all
            ],
            policy=alarms.policy,
            alarms=open_alarms(in_alarm),
            in_alarm=sum(map(len, self._open.values())),
            devices=[
                DeviceRow(
                    device=name,
                    priority=priority_of(device),
                    heard=wall - (now - device.heard) if name in alarms.devices else None,
                    model=detectors.for_device(name).name,
                    scale=float(f"{detectors.scales.factor(name):.3g}"),
                    shelved=shelved(device),
                    patient=self._patient(name),
                    quiet=device.shelf is not None and all(map(device.withholds, device.open)),
                )
                for name, device in self._to_list(in_alarm, alarms)
            ],
            known=len(alarms.devices) + len(alarms.silent),
            beats={name: list(watched.beats) for name, watched in self._watched_devices.items()},
            full=len(self._watched_devices) == MAX_WATCHED,
            topics=self._topics,
            connection=alarms.lost.as_it_stands(wall) if alarms.lost.members else None,
        )
        self._available.set()

    def _update_watched(self, now: float) -> None:
        """Update which devices are watched, and drop the snapshot if no page is open."""
        while self._requests:
            name, when = self._requests.popleft()
            self._until = when + WATCH_TIMEOUT
            if name and (name in self._watched_devices or len(self._watched_devices) < MAX_WATCHED):
                if name not in self._watched_devices:
                    self._watched_devices[name] = _WatchedDevice(when, self._new_signal())
                self._watched_devices[name].until = self._until
        self._watched_devices = {
            name: watched for name, watched in self._watched_devices.items() if watched.until > now
        }
        if self._until <= now:
            self.watched, self._snapshot = False, None
            self._available.clear()
            self.watched = bool(self._requests)  # a request may have arrived just now

    def _in_alarm(self) -> Iterator[tuple[str, Device]]:
        """Return the devices with an open alarm, by priority, the last changed first."""
        return chain.from_iterable(reversed(self._open[each].items()) for each in HIGHEST_FIRST)

    def _to_list(
        self, in_alarm: list[tuple[str, Device]], alarms: Alarms
    ) -> Iterator[tuple[str, Device]]:
        """Yield the devices of a snapshot. A listed device stays listed, so that it can be read."""
        self._listed = {name: None for name in self._listed if alarms.find(name)}
        for name in reversed(alarms.devices):
            if len(self._listed) >= MAX_HEARD:
                break
            self._listed[name] = None
        names = dict.fromkeys(
            chain((name for name, _ in in_alarm), self._watched_devices, self._listed)
        )
        for name in names:
            device = alarms.find(name)
            if device is not None:
                yield name, device


class _WatchedDevice:
    """The last beats of a watched device, or some of them if it sends thousands a second."""

    def __init__(self, now: float, signal: LiveSignal) -> None:
        self.until = now
        self.signal = signal
        self.beats: deque[ShownBeat] = deque(maxlen=BEATS_KEPT)
        self._number = 0
        self._room, self._since = float(BEATS_KEPT), now

    def choose(
        self, messages: list[tuple[Beats, int]], now: float
    ) -> list[tuple[int, Beats, int, int]]:
        """Return the last beats: number, message, index in the message, index in the batch."""
        room = min(BEATS_KEPT, self._room + BEATS_PER_SECOND * (now - self._since))
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
