"""What stands in docker/cluster/: three nodes as they are shipped, with their rights."""

import subprocess
import threading
from collections import defaultdict
from pathlib import Path

import yaml
from paho.mqtt.client import Client, MQTTMessage

from monitor.mqtt import client
from monitor.settings import MqttSettings
from tests.harness.cluster import Cluster
from tests.harness.shipped import DOCKER, make_certificates
from tests.harness.waiting import WITHIN, wait_until

SHIPPED = DOCKER / "cluster"


def joined(cluster: Cluster, node: int, secrets: Path, user: str) -> tuple[Client, list[str]]:
    """Return a client of a node that asks for everything, and the topics that come to it."""
    joined = client.join(login(cluster.urls[node], secrets, user), user)
    topics: list[str] = []

    def on_message(_client: Client, _data: object, message: MQTTMessage) -> None:
        topics.append(message.topic)

    answered = threading.Event()
    joined.on_subscribe = lambda *_: answered.set()
    joined.on_message = on_message
    filters = "beats/+/+", "samples/+/+", "ecg/+/alarm", "ecg-monitor/+/status"
    joined.subscribe([(each, 1) for each in filters])
    assert answered.wait(WITHIN)
    return joined, topics


def login(url: str, secrets: Path, user: str) -> MqttSettings:
    return MqttSettings.model_validate(
        {
            "broker": url,
            "protocol": "3.1.1",
            "username": user,
            "password_file": secrets / user / "password",
            "ca_file": secrets / "tls" / "ca.crt",
        }
    )


def test_the_nodes_grant_what_each_login_needs_and_no_more(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    subprocess.run([SHIPPED / "passwords.sh", secrets], check=True, stdout=subprocess.PIPE)
    make_certificates(secrets / "tls", "localhost", "127.0.0.1")
    conf = (SHIPPED / "nats.conf").read_text().replace('"/tls/', f'"{secrets}/tls/')
    monitor_login = login("mqtts://127.0.0.1:1", secrets, "monitor")
    with Cluster(tmp_path, 3, conf, monitor_login) as cluster:
        monitor, heard = joined(cluster, 0, secrets, "monitor")
        viewer, seen = joined(cluster, 1, secrets, "viewer")
        device, told = joined(cluster, 2, secrets, "device")
        for user in (viewer, device):
            user.publish("ecg/bed-7/alarm", b"forged", 1)
        for number in range(20):
            device.publish(f"ecg/bed-{number}/samples", b"chunk", 1)
            # Cut from samples, by a daemon with the login of the monitors.
            cutter = monitor if number % 2 else device
            cutter.publish(f"ecg/bed-{number}/beats", b"beat", 1)
        monitor.publish("ecg/bed-7/alarm", b"alarm", 1, retain=True)
        monitor.publish("ecg-monitor/ward-0/status", b"online", 1, retain=True)
        wait_until(lambda: len(set(heard)) == 42, said=lambda: heard)
        wait_until(lambda: len(set(seen)) == 2, said=lambda: seen)
        partitions = defaultdict(set)
        for topic in heard:
            if topic.startswith(("beats/", "samples/")):
                partitions[topic.split("/")[2]].add(topic.split("/")[1])
        assert set.union(*partitions.values()) == {"0", "1", "2"}
        assert all(len(numbers) == 1 for numbers in partitions.values())  # of beats as of samples
        assert not told
        for each in (monitor, viewer, device):
            client.leave(each)


def test_each_partition_has_two_monitors_and_a_subscription_of_its_own() -> None:
    services = yaml.safe_load((SHIPPED / "compose.yaml").read_text())["services"]
    wards = {name: each for name, each in services.items() if name.startswith("ward-")}
    assert len(wards) == 6
    for name, ward in wards.items():
        number = name.split("-")[1]
        own = ward["environment"]
        assert own["ECG_MONITOR_MQTT__CLIENT_ID"] == f"ward-{number}"
        assert own["ECG_MONITOR_INPUT__TOPIC"] == f"beats/{number}/{{device}}"
        assert ward["command"] == ["run", "--standby"]
        broker = MqttSettings.model_validate({"broker": own["ECG_MONITOR_MQTT__BROKER"]})
        assert broker.addresses == [(f"nats-{i}", 8883) for i in range(3)]
    assert {f"nats-{i}" for i in range(3)} <= set(services)
