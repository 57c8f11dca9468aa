"""What an alarm is, and when it is raised and cleared. Pure."""
