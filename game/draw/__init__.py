"""Drawing a keep: its map as data (``plan.py``) and the board that a person draws it on (``board.py``)."""
