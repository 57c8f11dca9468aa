"""Work on files, without a broker."""
