"""What Home Assistant is told, and what its templates make of the alarms that we publish."""

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from jinja2 import Environment, StrictUndefined
from pydantic import ValidationError

from monitor.alarms.decisions import Alarms
from monitor.alarms.messages import Kind, OpenAlarm, RetainedAlarm, encode
from monitor.daemon.changes import Changes
from monitor.daemon.sinks import MqttSink
from monitor.ecg.simulator import Simulator
from monitor.mqtt import client
from monitor.mqtt.alert_sender import AlertSender
from monitor.mqtt.home_assistant import announcement, topic
from monitor.settings import MqttSettings, OutputSettings, Settings
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.waiting import wait_until

NAMES = ["bed-7", "bed_7", "bed 7", "bed.7", "Bett ä", "{{ 7 * 7 }}", '"quoted"', "x" * 256]


def announced(device: str, client_id: str = "ward") -> Any:
    status = f"ecg-monitor/{client_id}/status"
    return json.loads(announcement(device, client_id, f"ecg/{device}/alarm", status))


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
    assert len({topic(name, "ward") for name in NAMES}) == len(NAMES)
    identities = [announced(name)["device"]["identifiers"][0] for name in NAMES]
    assert len(set(identities)) == len(NAMES)
    for name, identity in zip(NAMES, identities, strict=True):
        assert re.fullmatch(r"homeassistant/device/[A-Za-z0-9_-]+/config", topic(name, "ward"))
        said = announced(name)
        assert said["device"]["name"] == name
        sensors = said["components"].values()
        assert {sensor["platform"] for sensor in sensors} == {"binary_sensor"}
        assert {s["unique_id"].startswith(identity) for s in sensors} == {True}
        assert said["origin"]["name"] == "ecg-monitor"


def test_two_monitors_have_an_identity_each_for_the_same_device() -> None:
    pairs = [("ward", "bed-7"), ("ward-bed", "7"), ("ward ", "bed-7"), ("ward_", "bed-7")]
    said = [announced(device, client_id) for client_id, device in pairs]
    for identities in (
        {topic(device, client_id) for client_id, device in pairs},
        {each["device"]["identifiers"][0] for each in said},
        {each["components"]["problem"]["unique_id"] for each in said},
    ):
        assert len(identities) == len(pairs)
    assert topic("bed-7", "ward") == topic("bed-7", "ward")


def test_a_forgotten_device_leaves_no_ghost_though_another_process_announced_it() -> None:
    settings = Settings.model_validate(
        {
            "mqtt": {"client_id": "ward"},
            "output": {"home_assistant": True, "home_assistant_prefix": "home/discovery"},
        }
    )
    published: dict[str, bytes] = {}

    class Sender:
        def publish(self, topic: str, payload: bytes, **_: object) -> None:
            published[topic] = payload

        def send(self) -> None: ...

        def write(self) -> None: ...

    sink = MqttSink(settings, Alarms(settings.alarm.policy), cast(AlertSender, Sender()))
    changes = Changes()
    changes.save("bed-7")
    sink.publish(changes, 0.0)
    assert published == {"ecg/bed-7/alarm": b"", topic("bed-7", "ward", "home/discovery"): b""}


@pytest.mark.parametrize("prefix", ["", "/", "home/", "/home", "home/#", "home/+/x", "a//b"])
def test_a_prefix_that_is_no_topic_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError):
        OutputSettings(home_assistant_prefix=prefix)


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
        client.leave(hub)
    assert (topic("bed-7", "test") in seen) == ("ecg/bed-7/alarm" in seen) == wanted
    if wanted:
        said = json.loads(seen[topic("bed-7", "test")])
        assert said["availability_topic"] == "ecg-monitor/test/status"
        sensor = said["components"]["connectivity"]
        assert render(sensor["value_template"], seen[said["state_topic"]].decode()) == "ON"
