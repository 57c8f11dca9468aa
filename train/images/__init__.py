"""The autoencoders of images."""
