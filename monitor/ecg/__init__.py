"""What a beat and a signal are. No network, no clock."""
