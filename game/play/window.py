"""The window: frames scaled up beside the HUD, pygame's events as our own. All of pygame is in here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import pygame

from game.play.gamepad import Changes, Gamepad
from game.play.keyboard import ARROWS, COMMANDS, REWIND, Event
from game.play.panel import (
    BACKGROUND,
    HEIGHT,
    WIDTH,
    Pen,
    draw_beside,
    draw_board,
    draw_menu,
    draw_overlays,
    draw_panel,
    picture_surface,
)
from game.play.screen import Hud

REFERENCE_HEIGHT = 640  # the frame height, in window pixels, that the panel is drawn for
PIXEL_ART = 96  # frames up to this many pixels a side are shown as squares
MOUSE = {1: "press", 3: "erase"}
DECORATION = 64  # what a desktop's own bars take of its height, window pixels


class DisplayError(RuntimeError):
    """No window can be opened here; the message says why."""


class KeyNameError(ValueError):
    """A world's key that pygame does not know."""


class Window:
    """A pygame window. ``poll`` gives the events since the last poll, ``show`` draws and flips.

    keys: the world's keys, as pygame names them; also: others that it tells of. frame_shape: (H, W). scale: window
    pixels a frame pixel; None, about 640 for the frame. What does not fit the screen is made as large as fits.
    Frames are smoothed: edges of a 3-D view look better so than as stairs of squares. ``pixels`` keeps the squares, as
    small frames, which are drawn pixel by pixel, do by themselves.
    Raises DisplayError without a display, KeyNameError for a key that pygame does not know.
    """

    def __init__(
        self,
        keys: Sequence[str],
        frame_shape: tuple[int, int],
        scale: int | None = None,
        title: str = "Rollplay",
        pixels: bool = False,
        also: Iterable[str] = (),
    ):
        _open_display()
        self._names = {_key_code(key): key for key in (*COMMANDS, REWIND, *ARROWS, *keys, *also)}
        self._desktop, self._frame_shape = pygame.display.get_desktop_sizes()[0], frame_shape
        self._scale = scale or max(1, REFERENCE_HEIGHT // max(frame_shape))
        pixels = pixels or max(frame_shape) <= PIXEL_ART
        self._smoothing = cv2.INTER_NEAREST if pixels else cv2.INTER_CUBIC
        self._gamepad, self._pads = Gamepad(keys), {}
        self._arranged: tuple[bool, bool, bool] | None = None
        pygame.display.set_caption(title)

    def poll(self) -> list[Event]:
        at = time.perf_counter()
        return [ours for event in pygame.event.get() for ours in self._translated(event, at)]

    def show(self, frame: np.ndarray, hud: Hud) -> None:
        beside = hud.board is not None or hud.beside is not None
        if (hud.visible, hud.fullscreen, beside) != self._arranged:
            self._arrange(hud.visible, hud.fullscreen, beside)
        big = cv2.resize(frame, self._frame_size, interpolation=self._smoothing)
        self._surface.blit(picture_surface(big), self._frame_area)
        draw_overlays(self._surface, self._frame_area, hud, self._pen)
        if hud.menu is not None:
            draw_menu(self._surface, self._panel_area, hud.menu, self._pen)
        elif hud.board is not None:
            draw_board(self._surface, self._panel_area, hud, self._pen)
        elif hud.beside is not None:
            other = cv2.resize(hud.beside[1], self._frame_size, interpolation=self._smoothing)
            draw_beside(self._surface, self._panel_area, other, frame, hud, self._pen)
        elif hud.visible:
            draw_panel(self._surface, self._panel_area, hud, self._pen)
        pygame.display.flip()

    def close(self) -> None:
        pygame.quit()

    def _arrange(self, panel: bool, fullscreen: bool, twice: bool) -> None:
        """Size the window for the frame, with or without the panel, which changes no frame's size, or with as much
        again beside it; or fill the screen: the largest frame that fits, in the middle of it."""
        scale = self._fitting(panel, fullscreen, twice)
        height, width = (side * scale for side in self._frame_shape)
        self._frame_size = width, height
        self._pen = Pen(_zoom(height))
        panel_width = width if twice else self._pen.px(WIDTH) if panel else 0
        window_height = max(height, self._pen.px(HEIGHT)) if panel and not twice else height
        size = self._desktop if fullscreen else (width + panel_width, window_height)
        self._surface = pygame.display.set_mode(size, pygame.FULLSCREEN if fullscreen else 0)
        if not fullscreen:
            _keep_on_screen(size, self._desktop)
        self._surface.fill(BACKGROUND)
        left, top = (size[0] - width - panel_width) // 2, (size[1] - window_height) // 2
        self._frame_area = pygame.Rect(left, (size[1] - height) // 2, width, height)
        self._panel_area = pygame.Rect(left + width, top, panel_width, window_height)
        self._arranged = panel, fullscreen, twice

    def _fitting(self, panel: bool, fullscreen: bool, twice: bool) -> int:
        """Window pixels a frame pixel: what was asked for, if frame and panel fit the desktop with it; in full screen,
        the most that fit."""
        height, width = self._frame_shape
        space = self._desktop[1] - (0 if fullscreen else DECORATION)
        most = min(space // height, self._desktop[0] // width)

        def beside(n: int) -> float:
            return n * width if twice else WIDTH * _zoom(n * height) if panel or not fullscreen else 0

        fit = (n for n in range(most, 0, -1) if n * width + beside(n) <= self._desktop[0])
        return next(fit, 1) if fullscreen else min(self._scale, next(fit, 1))

    def _translated(self, event: pygame.event.Event, at: float) -> list[Event]:
        if event.type == pygame.JOYDEVICEADDED:
            pad = pygame.joystick.Joystick(event.device_index)
            self._pads[pad.get_instance_id()] = pad  # which is closed when it is forgotten
        changes = self._of_pad(event)
        ours = [Event(kind, key, at) for kind, key in changes] or [self._translate(event, at)]
        return [event for event in ours if event]

    def _of_pad(self, event: pygame.event.Event) -> Changes:
        if event.type == pygame.JOYHATMOTION:
            across, up = event.value
            return self._gamepad.lean("cross", 0, across) + self._gamepad.lean("cross", 1, -up)
        if event.type == pygame.JOYAXISMOTION:
            return self._gamepad.lean("stick", event.axis, event.value)
        if event.type in (pygame.JOYBUTTONDOWN, pygame.JOYBUTTONUP):
            return self._gamepad.press(event.button, event.type == pygame.JOYBUTTONDOWN)
        return []

    def _translate(self, event: pygame.event.Event, at: float) -> Event | None:
        if event.type in (pygame.KEYDOWN, pygame.KEYUP) and event.key in self._names:
            return Event("down" if event.type == pygame.KEYDOWN else "up", self._names[event.key], at)
        if event.type == pygame.MOUSEBUTTONDOWN and event.button in MOUSE:
            return Event(MOUSE[event.button], at=at, where=self._on_board(event.pos), over=self._over_frame(event.pos))
        if event.type == pygame.MOUSEMOTION and any(event.buttons):
            return Event("drag", at=at, where=self._on_board(event.pos), over=self._over_frame(event.pos))
        if event.type == pygame.MOUSEBUTTONUP:
            return Event("let_go", at=at)
        if event.type == pygame.DROPFILE:
            return Event("drop", event.file, at)
        if event.type == pygame.WINDOWFOCUSLOST:
            return Event("blur", at=at)
        if event.type == pygame.QUIT:
            return Event("quit", at=at)
        return None

    def _on_board(self, place: tuple[int, int]) -> tuple[float, float]:
        """A place of the window in units of the board's side; the board stands where the panel does."""
        if self._arranged is None:
            return -1.0, -1.0  # before the first frame
        area = self._panel_area
        return (place[0] - area.left) / max(1, area.height), (place[1] - area.top) / max(1, area.height)

    def _over_frame(self, place: tuple[int, int]) -> tuple[float, float]:
        """A place of the window in units of the frame's sides."""
        if self._arranged is None:
            return -1.0, -1.0
        area = self._frame_area
        return (place[0] - area.left) / area.width, (place[1] - area.top) / area.height


def _open_display() -> None:
    """Where there is no display, SDL quietly draws off screen; nobody could play there."""
    try:
        pygame.display.init()
    except pygame.error as error:
        raise DisplayError(f"no display ({error})") from error
    if pygame.display.get_driver() == "offscreen":
        pygame.display.quit()
        raise DisplayError("no display (none found)")
    pygame.font.init()
    pygame.joystick.init()


def _keep_on_screen(size: tuple[int, int], desktop: tuple[int, int]) -> None:
    """A window that grew over an edge of the screen comes back."""
    at = pygame.display.get_window_position()
    inside = tuple(max(0, min(place, whole - side)) for place, side, whole in zip(at, size, desktop, strict=True))
    if inside != tuple(at):
        pygame.display.set_window_position(inside)


def _zoom(frame_height: int) -> float:
    """Of the panel beside a frame so many window pixels high."""
    return min(2.0, max(0.75, frame_height / REFERENCE_HEIGHT))


def _key_code(name: str) -> int:
    try:
        return pygame.key.key_code(name)
    except ValueError:
        raise KeyNameError(f"{name!r} is no key that pygame knows; use names such as w, left, space, f1") from None
