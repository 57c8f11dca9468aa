"""A report to look at: what a recording, or a device's history, says of a heart."""
