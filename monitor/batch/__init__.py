"""Processing of files, without a broker."""
