"""Call people when there is an alarm: who, when, over which line, and whether it got through."""
