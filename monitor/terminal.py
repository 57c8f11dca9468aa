"""Run a program in a terminal: exit codes and one-line errors."""

import os
import sys
from typing import NoReturn

import typer

from monitor.errors import USAGE, Failure
from monitor.text import printable


def run(app: typer.Typer) -> NoReturn:
    """Run a command line, and exit with the exit code of its result."""
    try:
        code = app(standalone_mode=False)
    except Failure as failure:
        line = " ".join(str(failure).split())
        print(f"error: {printable(line)}", file=sys.stderr)
        code = failure.code
    except typer.TyperException as error:
        error.show()  # type: ignore[attr-defined]  # those that are raised have show()
        code = USAGE
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:  # the reader of the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.filename is None:  # no file that the user named, but a bug
            raise
        print(f"error: {printable(str(error.filename))}: {error.strerror}", file=sys.stderr)
        code = Failure.code
    raise SystemExit(code or 0)
