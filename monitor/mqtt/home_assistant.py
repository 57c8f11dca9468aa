"""Announces devices to Home Assistant, which then shows them without being set up.

A device gets a problem sensor, which is on while it has an alarm, and a connectivity sensor, which
is off while it is silent. Both read what is published anyway: the device's alarm as it stands, and
the monitor's status. Pure: the caller publishes, retained.

The form is Home Assistant's discovery for devices, https://www.home-assistant.io/integrations/mqtt
"""

import hashlib
import re

import msgspec

from monitor import __version__

PREFIX = "homeassistant"
"""Where Home Assistant listens unless it is told otherwise."""

_SILENT = "value_json.alarms | selectattr('kind', 'eq', 'silent') | list"
_OTHERS = "value_json.alarms | rejectattr('kind', 'eq', 'silent') | list"


def topic(device: str) -> str:
    """Where a device is announced. An empty payload there takes it back.

    >>> topic("bed-7")
    'homeassistant/device/ecg-monitor-bed-7/config'
    """
    return f"{PREFIX}/device/{_identity(device)}/config"


def announcement(device: str, alarm: str, status: str) -> bytes:
    """What is said of a device.

    Args:
        device: its name.
        alarm: the topic of its alarm as it stands.
        status: the topic of the monitor's status.
    """
    identity = _identity(device)
    return msgspec.json.encode(
        {
            "device": {"identifiers": [identity], "name": device, "model": "ECG device"},
            "origin": {"name": "ecg-monitor", "sw_version": __version__},
            "availability_topic": status,
            "availability_template": "{{ 'online' if value == 'online' else 'offline' }}",
            "state_topic": alarm,
            "qos": 1,
            "components": {
                "problem": {
                    "platform": "binary_sensor",
                    "device_class": "problem",
                    "name": "Alarm",
                    "unique_id": f"{identity}-problem",
                    "value_template": f"{{{{ 'ON' if {_OTHERS} else 'OFF' }}}}",
                    "json_attributes_topic": alarm,
                    "json_attributes_template": "{{ {'priority': value_json.priority, "
                    "'alarms': value_json.alarms} | tojson }}",
                },
                "connectivity": {
                    "platform": "binary_sensor",
                    "device_class": "connectivity",
                    "name": "Connection",
                    "unique_id": f"{identity}-connectivity",
                    "value_template": f"{{{{ 'OFF' if {_SILENT} else 'ON' }}}}",
                },
            },
        }
    )


def _identity(device: str) -> str:
    """A name of the letters that Home Assistant allows; no two devices share it."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", device)
    if plain != device:
        plain += "_" + hashlib.blake2b(device.encode(), digest_size=6).hexdigest()
    return f"ecg-monitor-{plain}"
