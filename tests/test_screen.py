"""The window's picture, drawn without a display, and pygame's events as ours."""

from __future__ import annotations

import itertools

import numpy as np
import pygame
import pytest

from game.actions import ARENA_KEYS
from game.play.keyboard import Event
from game.play.panel import ACCENT, BACKGROUND, HEIGHT, RED, Pen, keycaps
from game.play.screen import Hud
from game.play.window import KeyNameError, Window

SCALE = 5
ORANGE = (200, 120, 40)


@pytest.fixture
def driver(monkeypatch):
    """SDL's own way to draw without a display."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    yield
    pygame.quit()


@pytest.fixture
def window(driver) -> Window:
    return Window(ARENA_KEYS, (128, 128), SCALE, pixels=True)


def hud(**changed) -> Hud:
    anchors = np.full((4, 128, 128, 3), 90, np.uint8)
    fields = {"title": "arena", "place": "room 3", "keys": ARENA_KEYS, "held": np.zeros(8, np.int8), "anchors": anchors}
    return Hud(**(fields | changed))


def shown(window: Window, frame: np.ndarray | None = None, **changed) -> np.ndarray:
    """uint8 [H, W, 3] of the whole window after one ``show``."""
    frame = np.full((128, 128, 3), ORANGE, np.uint8) if frame is None else frame
    window.show(frame, hud(**changed))
    return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)


def count(picture: np.ndarray, color) -> int:
    return int((picture == color).all(-1).sum())


def test_every_frame_pixel_is_a_square_of_window_pixels(window):
    frame = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    picture = shown(window, frame)[:, : 128 * SCALE]
    assert np.array_equal(picture, frame.repeat(SCALE, 0).repeat(SCALE, 1))


def test_smoothing_keeps_flat_colours_and_the_place_of_edges(driver):
    frame = np.zeros((128, 128, 3), np.uint8)
    frame[:, 64:] = 200
    picture = shown(Window(ARENA_KEYS, (128, 128), SCALE), frame)[:, : 128 * SCALE, 0]
    assert (picture[:, : 62 * SCALE] == 0).all() and (picture[:, 66 * SCALE : 128 * SCALE] == 200).all()
    assert picture[0, 64 * SCALE - 1] < 100 < picture[0, 64 * SCALE]


def test_the_panel_stands_beside_the_frame_and_can_be_hidden(window):
    with_panel, without = shown(window), shown(window, visible=False)
    assert count(with_panel, ORANGE) == count(without, ORANGE) == (128 * SCALE) ** 2
    assert with_panel.shape[1] > without.shape[1] == 128 * SCALE
    assert shown(window).shape == with_panel.shape, "and come back"


def test_held_keys_light_up(window):
    one, two = np.zeros(8, np.int8), np.zeros(8, np.int8)
    one[0], two[[0, 6]] = 1, 1
    lit = [count(shown(window, held=held), ACCENT) for held in (np.zeros(8, np.int8), one, two)]
    assert lit[0] == 0 < lit[1] < lit[2]


def test_the_score_is_in_the_panel_of_a_game_that_has_one(window):
    none, nothing, some = (shown(window, score=score) for score in (None, 0.0, 12.5))
    assert not np.array_equal(none, nothing) and not np.array_equal(nothing, some)
    scores = {None: "", 0.0: "score 0", 12.5: "score 12.5", -0.001: "score 0", 0.1 + 0.2: "score 0.3", -21: "score -21"}
    assert {score: hud(score=score).scored for score in scores} == scores
    assert hud(score=1234567.0).scored == "score 1,234,567"


def test_the_recording_light(window):
    assert count(shown(window), RED) == 0
    assert count(shown(window, recording=61.0), RED) > 50


@pytest.mark.parametrize("fields", [{"collapse": "saturated"}, {"reprimes": 1234}])
@pytest.mark.parametrize("size", [SCALE, 3])
def test_a_collapse_has_a_line_of_its_own(driver, size, fields):
    """In the panel, below the sink frames and above the last line."""
    window = Window(ARENA_KEYS, (128, 128), size, pixels=True)
    plain, other, collapsed = (shown(window, research=True, **more) for more in ({}, {"recording": 1.0}, fields))
    rows = np.flatnonzero((plain != collapsed).any((1, 2)))
    last_line = np.flatnonzero((plain != other).any((1, 2)))
    pictures = np.flatnonzero((plain[:, -20 * size :] == 90).all(-1).any(1))
    assert len(rows) and pictures.max() < rows.min() and rows.max() < last_line.min()
    assert not (plain != collapsed)[:, : 128 * size].any()


def test_new_sink_frames_replace_the_old(window):
    colours = [np.full((4, 128, 128, 3), value, np.uint8) for value in (33, 99)]
    first, second = (shown(window, anchors=pictures, present=0) for pictures in colours)
    assert count(first, (33,) * 3) > 1000 and count(second, (33,) * 3) == 0 and count(second, (99,) * 3) > 1000


def test_figures_for_researchers_are_shown_to_those_alone(window):
    """Sink frames that are a map are for everybody; so is what runs the game where that is too slow."""
    asked = {"research": True, "tick_ms": 40.0}
    assert count(shown(window), (90,) * 3) == 0 < count(shown(window, **asked), (90,) * 3)
    assert count(shown(window, present=0), (90,) * 3) > 1000
    assert np.array_equal(shown(window, tick_ms=9.0, runs="onnx"), shown(window)), "no figure is for the player"
    slow = [shown(window, fps=9.0, slow_of=20.0, runs=words) for words in ("", "onnx on cpu")]
    red, blue = (np.stack([shown(window, fps=20.0), *slow])[:, :, 128 * SCALE :, i].astype(int) for i in (0, 2))
    amber = (red - blue > 60).sum((1, 2))
    assert amber[0] == 0 < 20 < amber[1] == amber[2] and not np.array_equal(*slow)


SIZES = [(1000, 500), (300, 900), (500, 200), (250, 180), (1700, 1000)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("beside", [None, ("another future", np.full((128, 128, 3), ORANGE, np.uint8))])
def test_everything_fits_whatever_window_a_person_makes(window, size, beside):
    """Frames as large as fit, in squares that are whole; the panel down to its last line, also beside two frames."""
    shown(window, beside=beside)
    pygame.display.set_mode(size, pygame.RESIZABLE)
    picture = shown(window, beside=beside, recording=1.0)
    assert picture.shape[:2] == size[::-1]
    areas = [window._frame_area, *([window._second_area] if beside else []), window._panel_area]
    assert all(window._surface.get_rect().contains(area) for area in areas)
    assert all(left.right <= right.left for left, right in itertools.pairwise(areas))
    side = areas[0].width
    assert areas[0].size == (side, side) and (side % 128 == 0 or side < 128), "squares, if there is room for any"
    assert count(picture, ORANGE) > 0.6 * side**2 * (len(areas) - 1)
    assert count(picture[:, areas[-1].left :], RED) > 2, "the recording light is in the panel's last line"
    hidden = shown(window, visible=False)
    assert hidden.shape[:2] == size[::-1], "a person's window stays as it is"
    assert count(hidden, ORANGE) == (min(size) // 128 * 128) ** 2


def test_text_is_broken_and_cut_with_care(driver):
    pen = Pen(1.0) if pygame.font.init() is None else None
    name = "20261126-154231-123456-seed12-ab12"
    for text in (name, "Four rooms seen from above. " * 3):
        lines = pen.lines(text, 176, 17, 9)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "") and len(lines) > 1
        assert all(pen.text_width(line, 17) <= 176 for line in lines)
        cut = pen.lines(text, 176, 17, 1)
        assert len(cut) == 1 and cut[0].endswith("…") and text.startswith(cut[0][:-1])
    assert pen.lines("short", 176, 17, 2) == ["short"] and pen.lines("", 176, 17, 2) == []


@pytest.mark.parametrize("overlay", [{"paused": True}, {"help": True}, {"notice": "recording to " + "x" * 300}])
def test_overlays_stay_over_the_frame(window, overlay):
    plain, over = shown(window), shown(window, **overlay)
    changed = (plain != over).any(-1)
    assert changed[:, : 128 * SCALE].any() and not changed[:, 128 * SCALE :].any()


def test_a_small_frame_is_centred_beside_a_panel_that_fits(driver):
    picture = shown(Window(ARENA_KEYS, (32, 32), 3, pixels=True))
    assert picture.shape[0] >= 0.75 * HEIGHT
    rows = np.flatnonzero((picture[:, :96] == ORANGE).all((1, 2)))
    assert len(rows) == 96 and abs((rows[0] + rows[-1]) - (picture.shape[0] - 1)) <= 1
    assert (picture[0, 0] == BACKGROUND).all()


@pytest.mark.parametrize("desktop", [(1024, 768), (1280, 1024), (1920, 1080)])
def test_full_screen_shows_the_largest_frame_that_fits_and_goes_back(driver, monkeypatch, desktop):
    window = Window(ARENA_KEYS, (64, 64), SCALE, pixels=True)
    monkeypatch.setattr(window, "_desktop", desktop)
    plain, full = shown64(window), shown64(window, fullscreen=True)
    bare = shown64(window, fullscreen=True, visible=False)
    assert full.shape[:2] == bare.shape[:2] == desktop[::-1]
    sides = [count(picture, ORANGE) ** 0.5 / 64 for picture in (full, bare)]
    assert sides[0] <= sides[1] == min(desktop) // 64 and all(side == int(side) >= 1 for side in sides)
    assert np.array_equal(shown64(window), plain)


def shown64(window: Window, **changed) -> np.ndarray:
    return shown(window, np.full((64, 64, 3), ORANGE, np.uint8), **changed)


def test_a_large_scale_leaves_room_for_the_panel(driver):
    window = Window(ARENA_KEYS, (128, 128), 1000, pixels=True)
    picture = shown(window)
    assert picture.shape[1] <= window._desktop[0] and count(picture, BACKGROUND) > 10_000


def test_events_are_named_and_stamped(window):
    shown(window)
    window.poll()
    for key in (pygame.K_LEFT, pygame.K_ESCAPE, pygame.K_q):
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
    pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.K_LEFT))
    pygame.event.post(pygame.event.Event(pygame.WINDOWFOCUSLOST))
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    events = window.poll()
    kinds = [(event.kind, event.key) for event in events]
    assert kinds == [("down", "left"), ("down", "escape"), ("up", "left"), ("blur", ""), ("quit", "")]
    assert all(isinstance(event, Event) and event.at > 0 for event in events)


def test_a_pad_and_the_mouse_are_heard(window):
    shown(window)
    window.poll()
    place = window._panel_area.center
    for event in (
        pygame.event.Event(pygame.JOYHATMOTION, value=(-1, 0)),
        pygame.event.Event(pygame.JOYAXISMOTION, axis=1, value=-0.9),
        pygame.event.Event(pygame.JOYBUTTONDOWN, button=0),
        pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=3, pos=place),
        pygame.event.Event(pygame.MOUSEMOTION, buttons=(0, 0, 1), pos=window._panel_area.topleft),
        pygame.event.Event(pygame.MOUSEBUTTONUP, button=3, pos=place),
        pygame.event.Event(pygame.DROPFILE, file="a.png"),
    ):
        pygame.event.post(event)
    events = window.poll()
    kinds = [(event.kind, event.key) for event in events]
    assert kinds == [("down", "left"), ("down", "w"), ("down", "space"), ("erase", ""), ("drag", ""), ("let_go", ""),
                    ("drop", "a.png")]  # fmt: skip
    assert 0 < events[3].where[0] < 1 and events[3].where[1] == pytest.approx(0.5, abs=0.01)
    assert events[4].where == (0, 0)


def test_a_key_that_no_keyboard_has_is_named(driver):
    with pytest.raises(KeyNameError, match="jumpp"):
        Window(("w", "jumpp"), (128, 128), SCALE)


LAYOUTS = [ARENA_KEYS, ("space",), ("up", "down"), ("w", "left shift", "f5"), ("z", "left", "up", "1"), tuple("qazp")]


@pytest.mark.parametrize("keys", LAYOUTS, ids=" ".join)
def test_key_caps_never_overlap(keys):
    places = keycaps(keys)
    assert set(places) == set(keys)
    assert min(x for x, _, _ in places.values()) == min(y for _, y, _ in places.values()) == 0
    for (ax, ay, aw), (bx, by, bw) in itertools.combinations(places.values(), 2):
        assert abs(ay - by) >= 1 or ax + aw <= bx or bx + bw <= ax


def test_key_caps_stand_as_on_the_keyboard():
    places = keycaps(ARENA_KEYS)
    assert places["w"][1] < places["s"][1] < places["space"][1]
    assert places["a"][0] < places["s"][0] < places["d"][0] < places["left"][0] < places["right"][0]
