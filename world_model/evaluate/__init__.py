"""Measures of a world's quality, in one command: ``python -m world_model.evaluate --world keep``.

The reference of every measure is the real game under the same keys; the baselines beside it are the autoencoder's own
error and a copy of the last frame.
"""
