"""A new model beside the one in use: what either makes of the same beats. Pure, and silent."""

from collections.abc import Sequence

from monitor.alarms.decisions import Alarms, Policy
from monitor.alarms.kinds import NORMAL, POOR
from monitor.alarms.patients import Trial
from monitor.times import rfc3339

DEVICE = "tried"
"""The only device of a shadow: its alarms are counted and never made known."""


class _Shadow:
    """The alarms that a model would have raised, on the policy of the real ones.

    Rhythm is left out: an arrhythmia that explains an anomaly would do so for either model.
    """

    def __init__(self, policy: Policy) -> None:
        self.anomalous = self.raised = 0
        self._alarms = Alarms(policy)

    def knows(self, key: int) -> bool:
        device = self._alarms.find(DEVICE)
        return device is not None and device.knows(key)

    def observe(
        self,
        verdicts: bytes,
        keys: Sequence[int],
        times: Sequence[float],
        seq: int | None,
        redelivered: bool,
        seqs: Sequence[int] | None,
    ) -> None:
        device = self._alarms.hear(DEVICE, 0.0)
        for decision in self._alarms.observe(
            DEVICE, device, verdicts, keys, times, seq, redelivered, seqs
        ):
            self.raised += decision.kind == "anomaly" and decision.event == "raised"
        self.anomalous += len(verdicts) - verdicts.count(NORMAL) - verdicts.count(POOR)


class Comparison:
    """Counts for one device what its old and its new model make of its beats."""

    def __init__(self, policy: Policy, begun: float, model: str, sha256: str) -> None:
        """Begin to count.

        Args:
            policy: when an alarm is raised.
            begun: in seconds since 1970.
            model: the name of the new one.
            sha256: of its file.
        """
        self.sha256 = sha256
        self._old, self._new = _Shadow(policy), _Shadow(policy)
        self._begun, self._model, self._beats = begun, model, 0

    def observe(
        self,
        old: bytes,
        new: bytes,
        keys: Sequence[int],
        times: Sequence[float],
        seq: int | None,
        redelivered: bool,
        seqs: Sequence[int] | None,
    ) -> None:
        """Take in the beats of a message; one that came before as a whole counts once.

        Args:
            old: for each beat its verdict by the model in use, one of those of `kinds`.
            new: the same by the new one.
            keys: what tells each beat from others.
            times: when each was, in seconds since 1970.
            seq: the number of the first; None where the device does not number them.
            redelivered: whether the broker marked the message as delivered before.
            seqs: the number of each, where they do not follow one another.
        """
        if not keys or ((redelivered or seq is not None) and self._old.knows(keys[-1])):
            return
        self._beats += len(old) - old.count(POOR)
        self._old.observe(old, keys, times, seq, redelivered, seqs)
        self._new.observe(new, keys, times, seq, redelivered, seqs)

    def result(self) -> Trial:
        """Return what was counted so far."""
        return Trial(
            since=rfc3339(self._begun),
            beats=self._beats,
            old_beats=self._old.anomalous,
            new_beats=self._new.anomalous,
            old_alarms=self._old.raised,
            new_alarms=self._new.raised,
            model=self._model,
            sha256=self.sha256,
        )
