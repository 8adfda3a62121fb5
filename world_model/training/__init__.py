"""Training a world's model from recordings; ``command.py`` is the way in."""


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says why and what to do."""
