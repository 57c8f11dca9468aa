"""What can go wrong, and the exit code that it deserves."""

from typing import Literal, get_args

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


Reason = Literal["empty", "length", "json", "shape", "not_finite", "time", "topic", "retained"]
"""Why a message was rejected."""

REASONS: tuple[Reason, ...] = get_args(Reason)


class Rejected(ValueError):
    """A message that cannot be understood; a redelivery would not mend it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
