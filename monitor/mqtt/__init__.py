"""The connections to the broker."""
