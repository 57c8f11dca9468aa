"""The ids of alerts, derived from what causes each, so that the same cause gives the same id. Pure.

An alarm of beats is named by the first one in sight that spoke for it, not by the one that raised
it: whoever takes the device over between the two raises the same alarm, also if the broker delivers
again in another order. Silence is named by the last beat. Beats without a number may be the same
again and again, such as those of a lead that is off; there the number of the change tells one alarm
from the next, and the hour of the alarm from those before the device was forgotten. The same holds
for silence, which may come again after the same beat. An alarm of the rhythm is named by when it
began. Once it is raised, an alarm escalates once and is cleared once, whoever finds so: the ids of
these alerts are derived from the alarm's.
"""

import hashlib

from monitor.alarms.device import FORGET_AFTER, ActiveAlarm, Device
from monitor.alarms.kinds import RHYTHM_KINDS
from monitor.alarms.lifecycle import Event, Trigger
from monitor.alarms.messages import Kind
from monitor.times import rfc3339


def alert_id(
    trigger: Trigger, name: str, device: Device, kind: Kind, event: Event, alarm: ActiveAlarm
) -> str:
    """Return the id of the alert of a change.

    Args:
        trigger: what has changed the alarm.
        name: of the device.
        device: as it is now, this change counted.
        kind: of the alarm.
        event: of the alert.
        alarm: without this alert's own id.
    """
    if trigger is Trigger.UNSHELVE:  # it was withheld, and has its id
        return alarm.id if event == "raised" else alarm.escalation or alarm.id
    if kind in RHYTHM_KINDS and trigger is not Trigger.FORGET:
        return _digest(name, kind, event, rfc3339(alarm.since))
    if event != "raised":
        return _digest(alarm.id, event)
    window, keys = device.window(kind), device.keys()
    named = window.first if window else None
    if named is None:
        named = keys[-1] if keys else 0
    change = f"{device.changes}\0{alarm.since // FORGET_AFTER:.0f}"
    number = change if device.seq < 0 or kind == "silent" else "0"
    return _digest(name, kind, event, str(named), number)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
