"""One module for each command that is not the daemon."""
