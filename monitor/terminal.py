"""How a program of ours ends: its exit codes and its one-line errors."""

import os
import sys
from typing import NoReturn

import typer

from monitor.text import printable

USAGE = 64
"""Exit code for a command line that cannot be understood (`EX_USAGE` of sysexits.h)."""

CONFIGURATION = 78
"""Exit code for a setting that cannot be used (`EX_CONFIG` of sysexits.h)."""


class Failure(Exception):
    """The work cannot be done; its text is the one line that the user reads. Exit code 1."""

    code = 1


class UsageError(Failure):
    """The command line asks for something that does not exist or does not fit together."""

    code = USAGE


class ConfigurationError(Failure):
    """A setting cannot be used; the text names the setting, the value and what is allowed."""

    code = CONFIGURATION


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
