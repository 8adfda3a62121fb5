"""The window with a real X server and real key events: what a person does, without the person."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pygame
import pytest

from game.play.screen import Hud
from game.play.window import Window
from world_model.episode import END, Session, find_sessions

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ("--engine", "--config", "configs/tiny.yaml", "--scale", "8")

needs_x = pytest.mark.skipif(not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="needs Xvfb and xdotool")


@pytest.fixture(scope="module")
def display():
    """A virtual display of our own, as an environment to run things in."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield {**os.environ, "DISPLAY": f":{number}", "SDL_VIDEODRIVER": "x11"}
    server.terminate()
    server.wait()


def press(display, *words) -> None:
    subprocess.run(["xdotool", *words], env=display, check=True, timeout=20)


def start(display, *flags) -> subprocess.Popen:
    command = [sys.executable, "play.py", *map(str, flags)]
    reset = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    return subprocess.Popen(
        command, cwd=ROOT, env=display, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=reset
    )


def until(condition, what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)


def finish(game: subprocess.Popen) -> str:
    """Wait for the game to end by itself; what it printed on stderr."""
    _, errors = game.communicate(timeout=60)
    assert game.returncode == 0 and "Traceback" not in errors, errors
    return errors


def runs(bits) -> list[int]:
    """Lengths of the stretches of ones."""
    text = "".join(str(int(bit)) for bit in bits)
    return [len(stretch) for stretch in text.split("0") if stretch]


@needs_x
def test_keys_reach_the_game_and_the_recording(display, tmp_path):
    """W is held, E and Space are pressed for less than a tick; R stops and starts the recording."""
    game = start(display, *ENGINE, "--record", tmp_path)
    until(lambda: list(tmp_path.glob("*/chunk_*.csv")), "the first recorded chunk")
    press(display, "keydown", "w", "sleep", "0.5", "keyup", "w", "sleep", "0.2")
    press(display, "key", "--delay", "1", "e", "sleep", "0.2", "key", "--delay", "1", "space", "sleep", "0.2")
    press(display, "key", "r", "sleep", "0.2", "keydown", "d", "sleep", "0.2", "keyup", "d", "key", "r", "sleep", "0.2")
    press(display, "key", "Escape")
    finish(game)
    check_keys(*map(Session.open, find_sessions(tmp_path)))


def check_keys(first: Session, second: Session) -> None:
    keys = first.meta.keys
    held = {key: runs(first.actions[:, i]) for i, key in enumerate(keys)}
    assert len(held["w"]) == 1 and held["w"][0] >= 4, held
    assert held["e"] == [1] and held["space"] == [1], "a tap shorter than a tick is held for one tick"
    assert held["d"] == [] and not second.actions[:, keys.index("d")].any(), "pressed while nothing was recorded"
    assert not first.damage and not second.damage and second.start_state is not None, "it began in mid-game"
    command = [sys.executable, "play.py", "--replay", str(second.path), "--verify", "--headless", "--fps", "0"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and "are bit-equal" in again.stdout, again.stdout + again.stderr


@needs_x
def test_a_closed_game_leaves_the_recording_whole(display, tmp_path):
    """Ctrl-C in the terminal, in the midst of a recorded game."""
    game = start(display, *ENGINE, "--record", tmp_path)
    until(lambda: list(tmp_path.glob("*/chunk_*.csv")), "the first recorded chunk")
    game.send_signal(2)
    _, errors = game.communicate(timeout=60)
    assert game.returncode == 130 and "Traceback" not in errors
    (session,) = map(Session.open, find_sessions(tmp_path))
    assert (session.path / END).is_file() and not session.damage


@pytest.fixture
def window(display, monkeypatch) -> Window:
    """On the virtual display, where no window manager helps."""
    for name in ("DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, display[name])
    window = Window(("w",), (64, 64), scale=4)
    yield window
    window.close()


@needs_x
def test_a_person_makes_the_window_larger_fills_the_screen_and_points(display, window):
    frame, events = np.full((64, 64, 3), 90, np.uint8), []

    def shown(**fields) -> np.ndarray:
        window.show(frame, Hud(keys=("w",), **fields))
        events.extend(window.poll())
        return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)

    shown()
    press(display, "windowsize", str(pygame.display.get_wm_info()["window"]), "700", "400")
    until(lambda: shown().shape[:2] == (400, 700), "the window's new size")
    assert (shown() == 90).all(-1).sum() == 384**2
    full = shown(fullscreen=True)
    assert full.shape[:2] == (600, 800)
    row, column = (int(places[0]) for places in np.nonzero((full == 90).all(-1)))
    events.clear()
    press(display, "mousemove", str(column), str(row), "click", "1", "click", "5")
    until(lambda: shown(fullscreen=True) is not None and "wheel" in [event.kind for event in events], "the mouse")
    by_kind = {event.kind: event for event in events}
    assert by_kind["press"].over == by_kind["hover"].over == (0, 0) and by_kind["wheel"].key == "down", events
