"""Recordings on disk: ``format.py`` writes a session, ``reading.py`` opens it, ``listing.py`` lists them."""

from world_model.episode.format import END, META, EpisodeError, SessionMeta, SessionWriter, session_name
from world_model.episode.reading import Session, find_sessions

__all__ = ["END", "META", "EpisodeError", "Session", "SessionMeta", "SessionWriter", "find_sessions", "session_name"]
