"""Scores heartbeats with an autoencoder and raises alarms when they stop looking normal."""

import os

__version__ = "0.1.0"

# Read when onnxruntime is imported, which happens after this: without it, it writes to the user's
# cache and reports its use to its makers.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
