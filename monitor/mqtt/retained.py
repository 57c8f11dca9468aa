"""Reads back the retained alarms, so that a device in alarm stays in alarm across a restart."""

import time
from queue import Empty, Queue

import structlog
from paho.mqtt.client import MQTTMessage

from monitor.alarms.messages import RetainedAlarm, decode_alarm
from monitor.mqtt import client
from monitor.settings import Settings
from monitor.topics import topic_of

log = structlog.get_logger()

WITHIN = 5.0
"""Seconds that the broker may take to begin with them."""

QUIET = 0.2
"""Seconds without another alarm after which there is none left."""


def read_retained_alarms(settings: Settings) -> list[RetainedAlarm]:
    """The alarms that stand retained with the broker.

    They are read at QoS 0 over a connection of their own: the daemon's own session may be full of
    beats that wait for us. What cannot be read is left out, and said in the log.
    """
    arrivals: Queue[MQTTMessage | None] = Queue()
    reader = client.join(settings.mqtt, "recovery")
    reader.on_message = lambda _client, _data, message: arrivals.put(message)
    reader.on_subscribe = lambda *_: arrivals.put(None)
    try:
        reader.subscribe(topic_of(settings.output.topic, "+", "alarm"), qos=0)
        return _read(arrivals, settings)
    finally:
        client.leave(reader)


def _read(arrivals: Queue[MQTTMessage | None], settings: Settings) -> list[RetainedAlarm]:
    alarms: dict[str, RetainedAlarm] = {}  # by topic: one may change as we read
    wait = WITHIN
    until = time.monotonic() + wait
    while True:
        try:
            message = arrivals.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            if wait == WITHIN:
                log.warning("the retained alarms were not read", seconds=WITHIN)
            return list(alarms.values())
        if message is None:  # subscribed
            wait = QUIET
        if message is None or message.retain:  # those of another monitor may never cease
            until = time.monotonic() + wait
        if message is None:
            continue
        try:
            alarm = decode_alarm(message.payload)
        except (ValueError, RecursionError) as error:
            log.warning("a retained alarm cannot be read", detail=str(error)[:200])
            continue
        # We shall publish under the name that it tells: it must be the one that it stands under.
        if topic_of(settings.output.topic, alarm.device, "alarm") != message.topic:
            log.warning("a retained alarm is another device's", topic=message.topic[:100])
            continue
        alarms[message.topic] = alarm
