"""The neural game as a static site that any browser plays: ``site.py`` writes it, ``page/`` is run by the browser."""
