"""Goes on where an earlier process stood: with its open alarms, and without patients who have left.

The broker retains the alarms with their windows, so they go before the history, which has none. It
serves where not all of them can be read. Only the history knows who was discharged.
"""

import time
from collections.abc import Iterable
from contextlib import suppress

import structlog

from monitor.alarms import messages
from monitor.alarms.decisions import IN_FLIGHT, IN_FLIGHT_AGAIN, Alarms
from monitor.alarms.messages import RetainedAlarm
from monitor.alarms.ownership import Ownership
from monitor.detector.per_device import Detectors
from monitor.errors import Failure
from monitor.history.query import discharges, open_alarms
from monitor.history.writer import HistoryWriter
from monitor.mqtt.retained import RetainedAlarms
from monitor.times import from_rfc3339

log = structlog.get_logger()


class Recovery:
    """Takes over the alarms that an earlier process left.

    Attributes:
        begun: whether the alarms are read back, and beats may come.
        finished: whether no late one is waited for any more.
    """

    def __init__(
        self,
        alarms: Alarms,
        ownership: Ownership,
        retained: RetainedAlarms,
        history: HistoryWriter,
        detectors: Detectors,
    ) -> None:
        """Restore these alarms, as far as their devices are ours, and use no model of these
        detectors that is of a patient who has left."""
        self._detectors = detectors
        self._alarms, self._ownership = alarms, ownership
        self._retained, self._history = retained, history
        self.begun = self.finished = False
        self._left: dict[str, float] = {}  # when the last patient of each device did

    @property
    def due(self) -> bool:
        """Whether something is to be taken over."""
        return not self.finished and self._retained.over

    def take(self, monotonic: float) -> list[RetainedAlarm]:
        """Take over what has come; return the alarms of our devices.

        A device that was decided on since stays as it is.
        """
        retained = self._retained
        if not self.begun:
            self._recall_discharges(monotonic)
        own = self._restore(retained.collect(), monotonic)
        if not self.begun and not retained.complete:
            own += self._restore_from_history(monotonic)
        for saved in own:
            if not self.is_of_who_left(saved.device, saved.time):
                # The next patient was heard already.
                self._alarms.discharged.pop(saved.device, None)
        self.begun, self.finished = True, retained.finished
        if retained.complete:
            for payload in self._ownership.elsewhere.values():
                saved = messages.decode_alarm(payload)
                self._history.move([alarm.id for alarm in saved.alarms], saved.monitor or "")
            self._history.end_others(self._alarms.open)
        return own

    def is_of_who_left(self, device: str, said: str) -> bool:
        """Return whether what was said of a device, RFC 3339, is of a patient who was discharged.

        The end came before it was removed then, or the broker has lost that. What was said later is
        of the next patient: only then are beats heard again.
        """
        left = self._left.get(device)
        return left is not None and from_rfc3339(said) < left + IN_FLIGHT

    def _recall_discharges(self, monotonic: float) -> None:
        """Recall who has left; if just before the start, the beats that the broker kept are theirs.

        Nobody has by a time that is still to come: the clock was wrong. Once it is past, it is
        believed.
        """
        now, left = time.time(), {}
        with suppress(Failure):  # nothing is known of them then
            if self._history.file is not None:
                left = discharges(self._history.file, now)
        for name, (when, unkept) in left.items():
            self._left[name] = when
            if unkept is not None:  # its file may still be there: the learner is to delete it
                self._detectors.discard(name, unkept)
            if now - when < IN_FLIGHT_AGAIN:
                self._alarms.discharged[name] = monotonic

    def _restore(self, alarms: Iterable[RetainedAlarm], monotonic: float) -> list[RetainedAlarm]:
        """Take over alarms of devices that nothing is known of; return those of our devices."""
        unknown = [each for each in alarms if self._alarms.find(each.device) is None]
        return [each for each in unknown if self._ownership.recover(each, monotonic)]

    def _restore_from_history(self, monotonic: float) -> list[RetainedAlarm]:
        file, problem = self._history.file, self._retained.problem
        restored: list[RetainedAlarm] = []
        try:
            if file is not None:
                restored = self._restore(open_alarms(file), monotonic)
        except Failure as failure:
            problem = f"{problem}; {failure}"
        log.warning("not all retained alarms were read", reason=problem, from_history=len(restored))
        return restored
