"""The game on a page: for machines without a screen, and for many who watch. ``page.py`` is its screen."""
