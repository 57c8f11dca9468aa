"""Model files, and which of them scores which device."""
