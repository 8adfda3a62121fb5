"""Drawing a keep: its map as data (``plan.py``), the canvas for the mouse (``map_canvas.py``), ``map_editor.py``."""
