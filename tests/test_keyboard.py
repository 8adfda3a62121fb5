"""Keys as events: held, tapped, repeated, lost with the focus; and the player's commands."""

from __future__ import annotations

import numpy as np

from game.play.keyboard import Event, Keyboard

KEYS = ("w", "a", "left", "e")


def held(keyboard: Keyboard) -> list[str]:
    return [key for key, bit in zip(KEYS, keyboard.sample().action, strict=True) if bit]


def test_a_tap_shorter_than_a_tick_is_not_lost():
    keyboard = Keyboard(KEYS)
    keyboard.feed([Event("down", "e", 1.0), Event("up", "e", 1.01)])
    assert held(keyboard) == ["e"]
    assert held(keyboard) == []


def test_two_taps_of_two_keys_in_one_tick_both_count():
    keyboard = Keyboard(KEYS)
    events = [Event("down", "w"), Event("up", "w"), Event("down", "left"), Event("up", "left")]
    keyboard.feed(events)
    assert held(keyboard) == ["w", "left"]


def test_a_held_key_stays_until_it_is_let_go():
    keyboard = Keyboard(KEYS)
    keyboard.feed([Event("down", "w")])
    assert held(keyboard) == held(keyboard) == ["w"]
    keyboard.feed([Event("up", "w")])
    assert held(keyboard) == []


def test_keys_do_not_stick_when_the_window_loses_them():
    keyboard = Keyboard(KEYS)
    keyboard.feed([Event("down", "w"), Event("blur")])
    keyboard.sample()
    assert held(keyboard) == []


def test_arrivals_are_stamped_once_for_the_tick_that_shows_them():
    keyboard = Keyboard(KEYS)
    keyboard.feed([Event("down", "w", 1.0), Event("down", "w", 1.5)])  # the second is the system's key repeat
    assert keyboard.sample().arrivals == (1.0,)
    assert keyboard.sample().arrivals == ()
    keyboard.feed([Event("up", "w", 2.0)])
    assert keyboard.sample().arrivals == (2.0,)


def test_arrows_walk_where_letters_do():
    letters, both = Keyboard(("w", "a", "s", "d")), Keyboard(("w", "a", "s", "d", "left", "right"))
    for keyboard in (letters, both):
        keyboard.feed([Event("down", "left"), Event("down", "up")])
    assert letters.sample().action.tolist() == [1, 1, 0, 0]
    assert both.sample().action.tolist() == [0, 0, 0, 0, 1, 0]
    letters.feed([Event("up", "left"), Event("up", "up")])
    assert not letters.sample().action.any()


def test_commands_are_not_keys_and_keys_are_not_commands():
    keyboard = Keyboard(("w", "p"))
    keyboard.feed([Event("down", "escape"), Event("down", "p"), Event("down", "f1"), Event("quit")])
    assert keyboard.commands() == ["quit", "help", "close"], "P belongs to this world"
    assert np.array_equal(keyboard.sample().action, [0, 1])
    assert keyboard.commands() == []


def test_a_key_stands_for_one_of_the_worlds_and_for_no_command_then():
    keyboard = Keyboard(("w", "a", "e"), {"z": "w", "p": "e"})
    keyboard.feed([Event("down", "z"), Event("down", "p"), Event("down", "left")])
    assert keyboard.sample().action.tolist() == [1, 1, 1] and keyboard.commands() == []
    keyboard.feed([Event("up", "z")])
    assert keyboard.sample().action.tolist() == [0, 1, 1]


def test_where_a_press_is_a_turn_a_held_key_rests_before_it_acts_again():
    keyboard = Keyboard(KEYS, rest=2)
    keyboard.feed([Event("down", "e")])
    assert [held(keyboard) for _ in range(5)] == [["e"], [], [], ["e"], ["e"]]
    keyboard.feed([Event("up", "e"), Event("down", "e"), Event("down", "e")])
    assert [held(keyboard) for _ in range(3)] == [["e"], [], []], "pressed again, and repeated by the system"
