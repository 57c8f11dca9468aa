"""Fits the autoencoders and writes the model files that `monitor` runs."""
