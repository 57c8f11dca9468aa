"""Sockets that nobody waits for any more are closed, whenever they are made."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from monitor.metrics import Metrics
from monitor.mqtt.beat_consumer import BeatConsumer
from monitor.mqtt.dial import CONNECT_TIMEOUT, dial, give_up
from monitor.settings import MqttSettings
from tests.harness.ports import free_port

HOST = "127.0.0.1"


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(10 * CONNECT_TIMEOUT)
        yield server


def assert_hung_up(listening: socket.socket) -> None:
    line, _ = listening.accept()
    with line:
        line.settimeout(10 * CONNECT_TIMEOUT)
        while line.recv(1000):  # where it was fast, it has said who it is already
            pass


def test_a_socket_that_is_made_already(listening: socket.socket) -> None:
    dialled = dial(HOST, listening.getsockname()[1], None)
    dialled.result(10 * CONNECT_TIMEOUT)
    give_up(dialled)
    assert_hung_up(listening)


def test_a_socket_that_is_made_later(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, connect = threading.Event(), socket.create_connection

    def slow(address: tuple[str, int], timeout: float) -> socket.socket:
        go_on.wait(10 * CONNECT_TIMEOUT)
        return connect(address, timeout)

    monkeypatch.setattr(socket, "create_connection", slow)
    dialled = dial(HOST, listening.getsockname()[1], None)
    give_up(dialled)
    go_on.set()
    assert_hung_up(listening)


def test_a_socket_that_could_not_be_made() -> None:
    dialled = dial(HOST, free_port(), None)
    with pytest.raises(ConnectionRefusedError):
        dialled.result(10 * CONNECT_TIMEOUT)
    give_up(dialled)


def test_who_disconnects_while_dialling_leaves_no_socket(listening: socket.socket) -> None:
    settings = MqttSettings(broker=f"mqtt://{HOST}:{listening.getsockname()[1]}")
    beats = BeatConsumer(settings, ["ecg/+/beats"], 1, Metrics(CollectorRegistry()))
    beats.maintain()
    time.sleep(0.1)  # so that it is made in most runs; else it is closed once it is
    beats.disconnect()
    assert_hung_up(listening)
