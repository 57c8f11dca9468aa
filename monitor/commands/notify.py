"""Show who is called of alarms, or call everybody once to see whether they can be reached."""

import time
from concurrent.futures import Future
from datetime import datetime
from threading import Thread

from rich.console import Console
from rich.table import Table

from monitor.errors import ConfigurationError, Failure
from monitor.notify.channels import Channel, channel
from monitor.notify.duty import on_duty
from monitor.notify.line import TIME_LIMIT
from monitor.notify.notifier import sender_of
from monitor.settings import CalledPerson, Settings
from monitor.text import printable


def show(settings: Settings) -> None:
    """Print who is called of which alarms, and whether they are on duty; never how.

    Raises:
        ConfigurationError: nobody is to be called.
    """
    table = Table("Who", "From priority", "Kinds", "Devices", "Hours", "After", "On duty")
    moment = datetime.now(settings.notify.zone)
    for name, each in _people(settings).items():
        table.add_row(
            printable(name),
            each.priority,
            ", ".join(each.kinds) or "all",
            printable(", ".join(each.devices)),
            f"{each.hours} {' '.join(each.days)}".strip(),
            f"{each.after:g} s",
            "yes" if on_duty(each, moment) else "no",
        )
    Console(markup=False).print(table)


def test(settings: Settings) -> None:
    """Make a test call to everybody, on duty or not, and print how each ended.

    Raises:
        ConfigurationError: nobody is to be called, or a line cannot be used.
        Failure: not everybody was reached.
    """
    sender = sender_of(settings)
    calls: dict[str, Future[None]] = {}
    for name, person in _people(settings).items():
        calls[name] = Future()
        line = channel(name, person, sender)
        Thread(target=_call, args=(line, calls[name]), daemon=True).start()
    deadline = time.monotonic() + TIME_LIMIT
    failed = 0
    for name, call in calls.items():
        try:
            call.result(max(0.0, deadline - time.monotonic()))
            outcome = "delivered"
        except (Failure, TimeoutError) as error:
            outcome = f"not delivered: {error}" if str(error) else "not delivered: no answer"
            failed += 1
        print(f"{printable(name)}: {printable(outcome)}", flush=True)
    if failed:
        raise Failure(f"{failed} of {len(calls)} calls were not delivered")


def _call(line: Channel, ended: Future[None]) -> None:
    try:
        line.test(time.time())
    except Failure as failure:
        ended.set_exception(failure)
    except Exception as error:  # of a library: what it says may contain the URL
        ended.set_exception(Failure(type(error).__name__))
    else:
        ended.set_result(None)


def _people(settings: Settings) -> dict[str, CalledPerson]:
    if not settings.notify.people:
        raise ConfigurationError("notify.people: nobody is to be called")
    return settings.notify.people
