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

_SILENT = "value_json.alarms | selectattr('kind', 'eq', 'silent') | list"
_OTHERS = "value_json.alarms | rejectattr('kind', 'eq', 'silent') | list"


def topic(device: str, client_id: str, prefix: str = "homeassistant") -> str:
    """Return the topic on which a monitor announces a device; an empty payload takes it back.

    Args:
        device: its name.
        client_id: the monitor's.
        prefix: where Home Assistant listens.

    >>> topic("bed-7", "ward-3")
    'homeassistant/device/ward-3-bed-7-b350456f3818/config'
    """
    return f"{prefix}/device/{_identity(device, client_id)}/config"


def announcement(device: str, client_id: str, alarm: str, status: str) -> bytes:
    """Return the announcement of a device.

    Args:
        device: its name.
        client_id: the monitor's. Two monitors of one device are two devices in Home Assistant.
        alarm: the topic of its alarm as it stands.
        status: the topic of the monitor's status.
    """
    identity = _identity(device, client_id)
    return msgspec.json.encode(
        {
            "device": {
                "identifiers": [identity],
                "name": device,
                "model": f"ECG device, monitored by {client_id}",
            },
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


def _identity(device: str, client_id: str) -> str:
    """Return a name in the characters that Home Assistant allows.

    No two devices share it, nor do two monitors of one device.
    """
    names = f"{client_id}\0{device}"
    digest = hashlib.blake2b(names.encode(), digest_size=6).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', f'{client_id}-{device}')}-{digest}"
