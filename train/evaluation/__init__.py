"""How detectors, R peaks and whole chains are judged on recordings."""
