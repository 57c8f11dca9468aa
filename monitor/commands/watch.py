"""Show alerts in the terminal as they arrive, which alarms are latched, and lost connections.

Anyone who may publish on the topic decides what an alert contains, so only its printable text
reaches the terminal.
"""

import json
import math
import sys
from queue import Queue

import msgspec
from msgspec import UNSET
from paho.mqtt.client import Client
from paho.mqtt.reasoncodes import ReasonCode
from rich.console import Console
from rich.text import Text

from monitor.alarms.messages import Alert, decode_alarm, decode_alert, decode_connection
from monitor.commands.drawing import draw
from monitor.ecg.beat import SAMPLES
from monitor.errors import Failure, UsageError
from monitor.mqtt import client
from monitor.settings import Settings
from monitor.text import printable
from monitor.topics import topic_of

_COLOURS = {"high": "bold red", "medium": "yellow", "low": "cyan"}
_MARKS = {"raised": "▲", "escalated": "⏫", "cleared": "✓"}

CONNECTION = "ecg-monitor/+/connection"


Arrivals = Queue[tuple[str, bytes] | Failure | None]
"""Topic and payload of what came, a refusal; None for the end of the connection."""


def watch(settings: Settings, device: str | None, as_json: bool) -> None:
    """Subscribe to the alerts of one device, or of all, and print them until interrupted.

    As JSON, the alerts alone are printed. A connection that is lost is made again; the alerts
    meanwhile are not shown.

    Raises:
        Failure: the broker cannot be reached at the start, or refuses the subscription.
    """
    if device is not None and set("/+#") & set(device):
        raise UsageError(f"--device {device!r}: a device ID must not contain /, + or #")
    topics = [topic_of(settings.output.topic, device or "+", "alerts")]
    if not as_json:
        topics += [topic_of(settings.output.topic, device or "+", "alarm"), CONNECTION]
    arrivals: Arrivals = Queue()
    where = settings.mqtt.where
    watcher = client.join(settings.mqtt, "watch")
    _listen(watcher, topics, where, arrivals)
    latched = LatchedAlarms()
    console = Console(highlight=False)
    print(f"listening at {where}; press Ctrl-C to stop", file=sys.stderr)
    try:
        while True:
            arrival = arrivals.get()
            if isinstance(arrival, Failure):
                raise arrival
            if arrival is None:
                print(f"lost the connection to {where}; connecting again", file=sys.stderr)
                watcher.on_disconnect = None
                client.leave(watcher)
                watcher = client.join_again(settings.mqtt, "watch", math.inf)
                _listen(watcher, topics, where, arrivals)
                said = f"listening at {where} again; alerts of the meantime are not shown"
                print(said, file=sys.stderr)
                continue
            topic, payload = arrival
            if as_json:
                print_json(payload)
            elif topic.startswith("ecg-monitor/"):
                show_connection(console, payload)
            elif topic.endswith("/alarm"):
                latched.show(console, payload)
            else:
                show(console, payload)
    finally:
        watcher.on_disconnect = None
        client.leave(watcher)


def _listen(watcher: Client, topics: list[str], where: str, arrivals: Arrivals) -> None:
    """Have all that comes on these topics put into a queue."""

    def on_subscribe(
        _client: object, _data: object, _mid: int, reasons: list[ReasonCode], _: object
    ) -> None:
        if reasons[0].is_failure:
            arrivals.put(Failure(f"{where} refused the subscription ({reasons[0]})"))

    watcher.on_message = lambda _client, _data, message: arrivals.put(
        (message.topic, bytes(message.payload))
    )
    watcher.on_disconnect = lambda *_: arrivals.put(None)
    watcher.on_subscribe = on_subscribe
    watcher.subscribe([(topic, 1) for topic in topics])


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


class LatchedAlarms:
    """Prints each alarm whose condition is over and that nobody has seen, once."""

    def __init__(self) -> None:
        self._shown: dict[str, set[str]] = {}

    def show(self, console: Console, payload: bytes) -> None:
        """Print the latched ones of a device that are new; `payload`: its retained alarm."""
        if b'"latched":true' not in payload and not self._shown:
            return  # nearly always
        try:
            alarm = decode_alarm(payload)
        except (ValueError, RecursionError):
            return
        latched = {each.id: each for each in alarm.alarms if each.latched is True}
        for each in latched.values():
            if each.id not in self._shown.get(alarm.device, ()):
                since = "" if each.over_since is UNSET else each.over_since[11:19]
                head = f"{alarm.time[11:23]} ◷ latched   {each.kind:14} {each.priority:6}"
                line = f" {alarm.device}  over since {since}, to be acknowledged: {each.id[:8]}"
                text = Text.assemble((printable(head), _COLOURS[each.priority]), printable(line))
                console.print(text, soft_wrap=True)
        self._shown[alarm.device] = set(latched)
        if not latched:
            del self._shown[alarm.device]


def show_connection(console: Console, payload: bytes) -> None:
    """Print that many devices have fallen silent together, if they have."""
    try:
        found = decode_connection(payload)
    except (ValueError, RecursionError):
        return
    if found.state == "lost":
        names = ", ".join(found.names[:5]) + (", …" if found.devices > 5 else "")
        head = f"{found.time[11:23]} ▲ connection lost, {found.devices} of {found.of} devices"
        line = f" {names}" + (f"  {found.reported} reported as silent" if found.reported else "")
        text = Text.assemble((printable(head), _COLOURS["high"]), printable(line))
        console.print(text, soft_wrap=True)


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
    if alert.over_since is not UNSET:
        line += f"  over since {alert.over_since[11:19]}"
    if alert.score is not None:
        line += f"  score {alert.score:.3g} (threshold {alert.threshold:.3g})"
    return Text.assemble((printable(f"{head} {alert.priority:6}"), colour), printable(line))
