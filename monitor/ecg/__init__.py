"""Beats and signals. No network, no clock."""
