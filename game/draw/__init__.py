"""Drawing a keep: its map as data (``plan.py``), the board (``board.py``), what a person does to it (``desk.py``)."""
