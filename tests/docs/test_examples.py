"""The settings, payloads and programs in README and docs: each is taken, and each is heard."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from monitor.configuration import load
from monitor.ecg import chunks, codec
from monitor.mqtt import client
from monitor.settings import MqttSettings
from tests.harness.brokers import Mosquitto, program
from tests.harness.daemons import RunningDaemon
from tests.harness.pages import Block, blocks, named


@pytest.mark.parametrize("block", blocks("toml"), ids=named)
def test_settings_can_be_loaded(tmp_path: Path, block: Block) -> None:
    file = tmp_path / "monitor.toml"
    file.write_text(block.text)
    settings = load(file)
    for table, keys in tomllib.loads(block.text).items():
        given = getattr(settings, table).model_dump(include=set(keys), exclude_unset=True)
        assert plain(given) == keys


def plain(value: Any) -> Any:
    """Return settings as TOML has them, secrets included."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value


@pytest.mark.parametrize("block", blocks("json"), ids=named)
def test_a_payload_is_taken(block: Block) -> None:
    full, replaced = re.subn(r'"… [^"]+"', ", ".join(["0.5"] * 138), block.text)
    assert replaced == 1
    if "samples" in full:
        chunk = chunks.decode(full.encode())
        assert (len(chunk), chunk.rate, chunk.seq) == (141, 360, 72000)
    else:
        beats = codec.decode(full.encode())
        assert (len(beats), beats.seq, beats.rr_ms) == (1, 12, [812])


def beats_received(folder: Path, broker: Mosquitto) -> Iterator[RunningDaemon]:
    with RunningDaemon(folder, broker.url) as daemon:
        yield daemon
        daemon.wait_until("ecg_monitor_beats_scored_total", 1)
        assert daemon.value("ecg_monitor_beats_received_total") == 1
        assert daemon.value("ecg_monitor_devices") <= 1


@pytest.mark.parametrize("block", blocks("python"), ids=named)
def test_a_device_in_python_is_heard(tmp_path: Path, block: Block) -> None:
    with Mosquitto(tmp_path) as broker:
        here = block.text.replace('connect("localhost")', f'connect("localhost", {broker.port})')
        here = here.replace("[0.0] * 140", "[abs(i - 70) / 70 for i in range(140)]")
        assert here.count(str(broker.port)) == 1
        for _ in beats_received(tmp_path, broker):
            subprocess.run([sys.executable, "-c", here], check=True, timeout=30)


STUBS = {
    "WiFi.h": """
        #pragma once
        struct { void begin(const char *, const char *) {} } WiFi;
    """,
    # The names and types of https://github.com/espressif/esp-mqtt/blob/master/include/mqtt_client.h
    "mqtt_client.h": r"""
        #pragma once
        #include <cstdio>
        typedef struct esp_mqtt_client *esp_mqtt_client_handle_t;
        typedef int esp_err_t;
        struct esp_mqtt_client_config_t {
            struct broker_t { struct address_t { const char *uri; } address; } broker;
        };
        inline esp_mqtt_client_handle_t esp_mqtt_client_init(
                const esp_mqtt_client_config_t *config) {
            printf("%s\n", config->broker.address.uri);
            return (esp_mqtt_client_handle_t)config;
        }
        inline esp_err_t esp_mqtt_client_start(esp_mqtt_client_handle_t) { return 0; }
        inline int esp_mqtt_client_enqueue(esp_mqtt_client_handle_t, const char *topic,
                const char *data, int len, int qos, int retain, bool store) {
            printf("%s %d %d %d ", topic, qos, retain, (int)store);
            for (int i = 0; i < len; i++) printf("%02x", (unsigned char)data[i]);
            printf("\n");
            return 1;
        }
    """,
    "main.cpp": """
        #include "sketch.h"
        bool nextBeat(float beat[140]) {
            for (int i = 0; i < 140; i++) beat[i] = (i < 70 ? 70 - i : i - 70) / 70.0f;
            return true;
        }
        int main() { setup(); loop(); }
    """,
}


@pytest.mark.parametrize("block", blocks("cpp"), ids=named)
def test_an_esp32_is_heard(tmp_path: Path, block: Block) -> None:
    """The sketch runs here, against headers with the names of Espressif's; its bytes are sent."""
    compiler = program("g++")
    for name, text in {**STUBS, "sketch.h": block.text}.items():
        (tmp_path / name).write_text(text)
    build = [compiler, "-std=c++17", "-Wall", "-Werror", "-I.", "main.cpp", "-o", "sketch"]
    subprocess.run(build, cwd=tmp_path, check=True)
    ran = subprocess.run([tmp_path / "sketch"], capture_output=True, text=True, check=True)
    url, sent = ran.stdout.splitlines()
    load(None, {"mqtt": {"broker": url}})
    topic, qos, retain, store, payload = sent.split()
    assert (topic, qos, retain, store) == ("ecg/bed-7/beats", "1", "0", "1")
    with Mosquitto(tmp_path) as broker:
        for _ in beats_received(tmp_path, broker):
            device = client.join(MqttSettings(broker=broker.url), "device")
            device.publish(topic, bytes.fromhex(payload), int(qos)).wait_for_publish(20)
            client.leave(device)
