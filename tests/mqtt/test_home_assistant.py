"""What Home Assistant is told, and what its templates make of the alarms that we publish."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined

from monitor.alarms.messages import Kind, OpenAlarm, RetainedAlarm, encode
from monitor.ecg.simulator import Simulator
from monitor.mqtt import client
from monitor.mqtt.home_assistant import announcement, topic
from monitor.settings import MqttSettings
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.waiting import wait_until

NAMES = ["bed-7", "bed_7", "bed 7", "bed.7", "Bett ä", "{{ 7 * 7 }}", '"quoted"', "x" * 256]


def announced(device: str) -> Any:
    return json.loads(announcement(device, f"ecg/{device}/alarm", "ecg-monitor/ward/status"))


def render(template: str, value: str) -> str:
    """As Home Assistant does."""
    environment = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701 - no HTML
    variables: dict[str, Any] = {"value": value}
    if value.startswith("{"):
        variables["value_json"] = json.loads(value)
    return environment.from_string(template).render(variables)


def alarm(*kinds: Kind) -> str:
    standing = [OpenAlarm("0" * 32, k, "medium", "2026-11-21T12:00:00.000Z") for k in kinds]
    return encode(
        RetainedAlarm(
            device="bed-7",
            state="alarm" if kinds else "ok",
            priority="medium" if kinds else None,
            time="2026-11-21T12:00:00.000Z",
            alarms=standing,
            anomalous="",
            poor="",
            seq=None,
            counted=[],
            changes=1,
        )
    ).decode()


@pytest.mark.parametrize(
    ("kinds", "problem", "connectivity"),
    [
        ((), "OFF", "ON"),
        (("anomaly",), "ON", "ON"),
        (("signal-quality",), "ON", "ON"),
        (("silent",), "OFF", "OFF"),
        (("anomaly", "silent"), "ON", "OFF"),
    ],
)
def test_the_sensors_show_the_alarms(
    kinds: tuple[Kind, ...], problem: str, connectivity: str
) -> None:
    said = announced("bed-7")
    assert said["state_topic"] == "ecg/bed-7/alarm"
    sensors = said["components"]
    assert {sensors[name]["device_class"] for name in sensors} == {"problem", "connectivity"}
    payload = alarm(*kinds)
    assert render(sensors["problem"]["value_template"], payload) == problem
    assert render(sensors["connectivity"]["value_template"], payload) == connectivity
    attributes = json.loads(render(sensors["problem"]["json_attributes_template"], payload))
    assert [standing["kind"] for standing in attributes["alarms"]] == list(kinds)


@pytest.mark.parametrize(
    ("status", "available"), [("online", "online"), ("stopped", "offline"), ("offline", "offline")]
)
def test_the_sensors_are_there_while_the_monitor_is(status: str, available: str) -> None:
    said = announced("bed-7")
    assert said["availability_topic"] == "ecg-monitor/ward/status"
    assert render(said["availability_template"], status) == available


def test_every_device_has_a_place_and_names_of_its_own() -> None:
    assert len({topic(name) for name in NAMES}) == len(NAMES)
    identities = [announced(name)["device"]["identifiers"][0] for name in NAMES]
    assert len(set(identities)) == len(NAMES)
    for name, identity in zip(NAMES, identities, strict=True):
        assert re.fullmatch(r"homeassistant/device/[A-Za-z0-9_-]+/config", topic(name))
        said = announced(name)
        assert said["device"]["name"] == name
        sensors = said["components"].values()
        assert {sensor["platform"] for sensor in sensors} == {"binary_sensor"}
        assert {s["unique_id"].startswith(identity) for s in sensors} == {True}
        assert said["origin"]["name"] == "ecg-monitor"


def test_the_name_of_a_device_is_never_a_template() -> None:
    templates = [
        value
        for sensor in announced("{{ 7 * 7 }}")["components"].values()
        for key, value in sensor.items()
        if key.endswith("_template")
    ]
    assert templates
    assert not any("7 * 7" in template for template in templates)


@pytest.mark.parametrize("wanted", [False, True])
def test_a_device_is_announced_when_it_is_first_heard_if_that_is_wanted(
    tmp_path: Path, wanted: bool
) -> None:
    seen: dict[str, bytes] = {}
    with (
        Mosquitto(tmp_path) as broker,
        RunningDaemon(tmp_path, broker.url, OUTPUT__HOME_ASSISTANT=str(wanted)) as daemon,
    ):
        hub = client.join(MqttSettings(broker=broker.url), "hub")
        (beat,) = Simulator(1).normal(1)
        hub.publish("ecg/bed-7/beats", beat.tobytes(), qos=1)
        hub.publish("ecg/bed-7/beats", beat.tobytes(), qos=1)
        daemon.wait_until("ecg_monitor_beats_received_total", 2)
        daemon.stop()
        hub.on_message = lambda _client, _data, message: seen.update(
            {message.topic: bytes(message.payload)}
        )
        hub.subscribe("#", qos=1)
        hub.publish("after/what/is/retained", qos=1)
        wait_until(lambda: "after/what/is/retained" in seen)
        hub.disconnect()
        hub.loop_stop()
    assert (topic("bed-7") in seen) == ("ecg/bed-7/alarm" in seen) == wanted
    if wanted:
        said = json.loads(seen[topic("bed-7")])
        assert said["availability_topic"] == "ecg-monitor/test/status"
        sensor = said["components"]["connectivity"]
        assert render(sensor["value_template"], seen[said["state_topic"]].decode()) == "ON"
