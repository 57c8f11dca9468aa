"""Model files, and which device uses which."""
