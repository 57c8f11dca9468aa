"""The demo's broker bears what clients do to it."""

import gc
import logging
import socket
import struct

import pytest

from monitor.commands.demo import EmbeddedBroker
from monitor.configuration import load
from monitor.mqtt import client
from tests.harness.waiting import WITHIN

CONNECT = {
    version: bytes([0x10, 12 + len(properties)])
    + b"\x00\x04MQTT"
    + bytes([version, 0x02, 0, 60])
    + properties
    + b"\x00\x00"
    for version, properties in ((4, b""), (5, b"\x00"))
}
RESETS = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset, so that the broker's answer finds no connection."""


@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize(
    "said",
    [b"", CONNECT[4][:3], CONNECT[5], CONNECT[4], b"GET / HTTP/1.1\r\n\r\n"],
    ids=["nothing", "half", "mqtt-5", "mqtt-3.1.1", "http"],
)
def test_clients_that_do_not_wait_for_an_answer_leave_nothing_behind(
    said: bytes, resets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("amqtt")
    with EmbeddedBroker() as broker, caplog.at_level(logging.WARNING):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", broker.port)) as rude:
                if resets:
                    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
                rude.sendall(said)
        polite = client.join(load(None, {"mqtt": {"broker": broker.url}}).mqtt, "polite")
        polite.publish("ecg/bed-1/beats", b"", qos=1).wait_for_publish(WITHIN)
        client.leave(polite)
    gc.collect()  # what was left open warns, and warnings are errors here
    assert not caplog.records


def test_a_port_that_is_taken_is_named() -> None:
    pytest.importorskip("amqtt")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Exception, match=f"embedded broker cannot be started: .*{port}"):
            EmbeddedBroker(port).__enter__()
