"""The detectors of beats: networks, fits, scores, and how they are judged."""
