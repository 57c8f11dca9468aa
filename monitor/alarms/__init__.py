"""Alarms, and when they are raised and cleared. Pure."""
