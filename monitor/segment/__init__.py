"""The daemon for raw samples: receive chunks, cut beats, publish, acknowledge."""
