"""Scores heartbeats with an autoencoder and raises alarms when they stop looking normal."""

__version__ = "0.1.0"
