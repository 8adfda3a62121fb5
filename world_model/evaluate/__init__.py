"""How good a world is, by one command: ``python -m world_model.evaluate --world keep``.

The real game, driven by the same keys, is the reference for everything; beside each figure stand the autoencoder's own
floor and the copy of the last frame, which is what a model must beat to have learned anything.
"""
