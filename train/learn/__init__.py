"""The service that learns patients' models: collect beats, fit, write, for whoever is admitted."""
