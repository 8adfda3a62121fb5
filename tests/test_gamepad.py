"""A pad's sticks and buttons as keys."""

from game.actions import ARENA_KEYS, KEEP_KEYS
from game.play.gamepad import Gamepad


def test_a_stick_walks_and_lets_go():
    pad = Gamepad(KEEP_KEYS)
    assert pad.lean("stick", 0, -0.9) == [("down", "a")]
    assert pad.lean("stick", 0, -1.0) == []
    assert pad.lean("stick", 1, 0.8) == [("down", "s")]
    assert pad.lean("stick", 0, 0.7) == [("up", "a"), ("down", "d")]
    assert pad.lean("stick", 0, 0.2) == [("up", "d")]
    assert pad.lean("stick", 1, 0.0) == [("up", "s")]
    assert pad.lean("trigger", 5, 1.0) == []


def test_stick_and_cross_hold_a_key_together():
    pad = Gamepad(KEEP_KEYS)
    assert pad.lean("stick", 0, 1) == [("down", "d")]
    assert pad.lean("cross", 0, 1) == [] == pad.lean("stick", 0, 0)
    assert pad.lean("cross", 0, 0) == [("up", "d")]


def test_where_arrows_turn_the_stick_turns_and_walks():
    pad = Gamepad(ARENA_KEYS)
    assert pad.lean("stick", 0, -1) == [("down", "left")] and pad.lean("stick", 1, -1) == [("down", "w")]
    assert pad.press(0, True) == [("down", "space")] and pad.press(4, False) == [("up", "backspace")]
    assert pad.press(13, True) == []
