"""How a program of ours ends on a terminal: its exit codes and its one-line errors."""

import os
import sys
from typing import NoReturn

import typer

from monitor.errors import USAGE, Failure
from monitor.text import printable


def run(app: typer.Typer) -> NoReturn:
    """Run a command line to its end and exit with the code that its outcome deserves."""
    try:
        code = app(standalone_mode=False)
    except Failure as failure:
        line = " ".join(str(failure).split())
        print(f"error: {printable(line)}", file=sys.stderr)
        code = failure.code
    except typer.TyperException as error:
        error.show()  # type: ignore[attr-defined]  # every one that is raised shows itself
        code = USAGE
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.filename is None:  # not a file that the user named: a bug, to be seen whole
            raise
        print(f"error: {printable(str(error.filename))}: {error.strerror}", file=sys.stderr)
        code = Failure.code
    raise SystemExit(code or 0)
