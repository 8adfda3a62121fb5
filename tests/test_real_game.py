"""A world's real game is found by its id, whoever registers it and whatever Gymnasium loads by itself."""

from __future__ import annotations

import gymnasium
import pytest

from world_model.play.real_game import PLUGINS, open_game
from world_model.play.runtime import WorldError

GAME = """
import gymnasium

class Room(gymnasium.Env):
    def __init__(self, height, width):
        self.size = height, width

def register():
    gymnasium.register("strangers/Room-v0", Room)
"""


def test_a_game_of_an_installed_package_is_found(tiny, tmp_path, monkeypatch):
    told = tmp_path / "strangers-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Name: strangers\nVersion: 1\n")
    (told / "entry_points.txt").write_text(f"[{PLUGINS}]\nstrangers = strangers_room:register\n")
    (tmp_path / "strangers_room.py").write_text(GAME)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(gymnasium.error.NamespaceNotFound):
        gymnasium.make("strangers/Room-v0")
    game = open_game(tiny.world.model_copy(update={"env": "strangers/Room-v0"}))
    assert game.unwrapped.size == (tiny.world.height, tiny.world.width)


@pytest.mark.parametrize("name", ["nobody/Room-v0", "rollplay/Nothing-v0"])
def test_what_is_no_game_is_refused_in_a_line(tiny, name):
    with pytest.raises(WorldError, match="no such game") as refused:
        open_game(tiny.world.model_copy(update={"env": name}))
    assert "\n" not in str(refused.value)


def test_a_size_that_the_game_does_not_have_is_refused(tiny_keep):
    import game.register  # noqa: F401

    with pytest.raises(WorldError, match="at 8x8"):
        open_game(tiny_keep.world.model_copy(update={"height": 8, "width": 8}))
