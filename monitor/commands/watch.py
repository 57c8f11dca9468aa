"""Show alerts in the terminal as they arrive.

Anyone who may publish on the topic decides what an alert contains, so only its printable text
reaches the terminal.
"""

import json
import sys
from queue import Queue

import msgspec
from msgspec import UNSET
from paho.mqtt.reasoncodes import ReasonCode
from rich.console import Console
from rich.text import Text

from monitor.alarms.messages import Alert, decode_alert
from monitor.commands.drawing import draw
from monitor.ecg.beat import SAMPLES
from monitor.errors import Failure, UsageError
from monitor.mqtt import client
from monitor.settings import Settings
from monitor.text import printable
from monitor.topics import topic_of

_COLOURS = {"high": "bold red", "medium": "yellow", "low": "cyan"}
_MARKS = {"raised": "▲", "escalated": "⏫", "cleared": "✓"}


def watch(settings: Settings, device: str | None, as_json: bool) -> None:
    """Subscribe to the alerts of one device, or of all, and print them until interrupted.

    Raises:
        Failure: the broker cannot be reached, refuses the subscription, or drops the connection.
    """
    if device is not None and set("/+#") & set(device):
        raise UsageError(f"--device {device!r}: a device ID must not contain /, + or #")
    arrivals: Queue[bytes | Failure] = Queue()
    where = settings.mqtt.where
    watcher = client.join(settings.mqtt, "watch")
    watcher.on_message = lambda _client, _data, message: arrivals.put(bytes(message.payload))
    watcher.on_disconnect = lambda *_: arrivals.put(Failure(f"lost the connection to {where}"))

    def on_subscribe(
        _client: object, _data: object, _mid: int, reasons: list[ReasonCode], _: object
    ) -> None:
        if reasons[0].is_failure:
            arrivals.put(Failure(f"{where} refused the subscription ({reasons[0]})"))

    watcher.on_subscribe = on_subscribe
    watcher.subscribe(topic_of(settings.output.topic, device or "+", "alerts"), qos=1)
    console = Console(highlight=False)
    print(f"listening at {where}; press Ctrl-C to stop", file=sys.stderr)
    try:
        while True:
            arrival = arrivals.get()
            if isinstance(arrival, Failure):
                raise arrival
            if as_json:
                print_json(arrival)
            else:
                show(console, arrival)
    finally:
        watcher.on_disconnect = None
        client.leave(watcher)


def print_json(payload: bytes) -> None:
    """Print one alert as a line of JSON in ASCII; report anything else on standard error."""
    try:
        alert = _decode(payload)
    except (ValueError, RecursionError) as error:
        print(f"not an alert: {printable(str(error))}", file=sys.stderr)
        return
    print(json.dumps(msgspec.to_builtins(alert)), flush=True)


def show(console: Console, payload: bytes) -> None:
    """Print one alert: a line, and the beat that caused it if there is one."""
    try:
        alert = _decode(payload)
    except (ValueError, RecursionError) as error:
        console.print(Text(f"not an alert: {printable(str(error))}", "dim"))
        return
    console.print(headline(alert), soft_wrap=True)
    if alert.beat and alert.event != "cleared":
        console.print(draw(alert.beat, alert.reconstruction, console.width), end="")


def _decode(payload: bytes) -> Alert:
    alert = decode_alert(payload)
    for samples in (alert.beat, alert.reconstruction):
        if samples is not None and len(samples) != SAMPLES:
            raise msgspec.DecodeError(f"{len(samples)} samples, not {SAMPLES}")
    return alert


def headline(alert: Alert) -> Text:
    """Return an alert as a line of text."""
    colour = "green" if alert.event == "cleared" else _COLOURS[alert.priority]
    head = f"{alert.time[11:23]} {_MARKS[alert.event]} {alert.event:9} {alert.kind:14}"
    line = f" {alert.device}"
    if alert.heart_rate is not UNSET:
        line += f"  {alert.heart_rate:.0f}/min"
    if alert.pause_s is not UNSET:
        line += f"  pause {alert.pause_s:.1f} s"
    if alert.beats_seen:
        line += f"  {alert.beats_anomalous} of {alert.beats_seen} beats"
    if alert.score is not None:
        line += f"  score {alert.score:.3g} (threshold {alert.threshold:.3g})"
    return Text.assemble((printable(f"{head} {alert.priority:6}"), colour), printable(line))
