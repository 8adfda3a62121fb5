"""The window: frames scaled up beside the HUD, and pygame's events as ours. Only it and ``panel.py`` use pygame."""

from __future__ import annotations

import sys
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
    MENU_WIDTH,
    WIDTH,
    Pen,
    draw_beside,
    draw_canvas,
    draw_menu,
    draw_overlays,
    draw_panel,
    picture_surface,
)
from game.play.screen import Hud

REFERENCE_HEIGHT = 640  # the frame height, in window pixels, that the panel is drawn for
PIXEL_ART = 96  # frames up to this many pixels a side are shown as squares
MOUSE = {1: "press", 3: "erase"}
KINDS = {pygame.MOUSEBUTTONUP: "let_go", pygame.WINDOWFOCUSLOST: "blur", pygame.QUIT: "quit"}
Layout = tuple[int, float, bool]
"""Number of frames side by side, the panel's width at zoom 1, and whether they fill the screen."""
DECORATION = 64  # window pixels of height that a desktop's own bars take


class DisplayError(RuntimeError):
    """No window can be opened here; the message says why."""


class KeyNameError(ValueError):
    """A world's key that pygame does not know."""


class Window:
    """A pygame window. ``poll`` returns the events since the last poll, ``show`` draws and flips.

    keys: the world's keys, as pygame names them; also: more keys to report. frame_shape: (H, W). scale: window pixels
    a frame pixel; None: about 640 window pixels for the frame. Where that does not fit the screen, and where a person
    resized the window, the frame is as large as fits. pixels: frame pixels are squares, as they always are in small
    frames (pixel art); otherwise frames are smoothed.
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
        self._pixels, self._smoothing = pixels, cv2.INTER_NEAREST if pixels else cv2.INTER_CUBIC
        self._gamepad, self._pads = Gamepad(keys), {}
        self._layout: Layout | None = None
        self._set_size = self._size = (0, 0)
        self._place: tuple[int, int] | None = None  # the window's position before it filled the screen
        pygame.display.set_caption(title)

    def poll(self) -> list[Event]:
        at = time.perf_counter()
        return [ours for event in pygame.event.get() for ours in self._translated(event, at)]

    def show(self, frame: np.ndarray, hud: Hud) -> None:
        self._arrange(_layout_of(hud))
        big = cv2.resize(frame, self._frame_size, interpolation=self._smoothing)
        self._surface.blit(picture_surface(big), self._frame_area)
        draw_overlays(self._surface, self._frame_area, hud, self._pen)
        if hud.menu is not None:
            draw_menu(self._surface, self._panel_area, hud.menu, self._pen)
        elif hud.canvas is not None:
            draw_canvas(self._surface, self._second_area, hud, self._pen)
        elif hud.visible:
            draw_panel(self._surface, self._panel_area, hud, self._pen)
        if hud.beside is not None and hud.canvas is None:
            other = cv2.resize(hud.beside[1], self._frame_size, interpolation=self._smoothing)
            draw_beside(self._surface, self._second_area, other, frame, hud, self._pen)
        pygame.display.flip()

    def close(self) -> None:
        pygame.quit()

    def _arrange(self, layout: Layout) -> None:
        """Open a window for a new layout; put everything in the middle of the window, as large as fits."""
        if layout != self._layout:
            self._open(layout)
        size = pygame.display.get_window_size()
        if (layout, size) == (self._layout, self._size):
            return
        self._layout, self._size, (frames, panel, _) = layout, size, layout
        width, height, zoom = self._fitting(size, layout)
        self._frame_size, self._pen = (width, height), Pen(zoom)
        self._surface = pygame.display.get_surface()
        self._surface.fill(BACKGROUND)
        panel_width, panel_height = self._pen.px(panel), min(size[1], max(height, self._pen.px(HEIGHT)))
        left, top = (size[0] - frames * width - panel_width) // 2, (size[1] - height) // 2
        self._frame_area = pygame.Rect(left, top, width, height)
        self._second_area = self._frame_area.move(width, 0)
        self._panel_area = pygame.Rect(left + frames * width, (size[1] - panel_height) // 2, panel_width, panel_height)

    def _open(self, layout: Layout) -> None:
        """Full screen, or a window of the size that ``layout`` takes at ``scale``, unless a person resized it."""
        frames, panel, fullscreen = layout
        was_full = self._layout is None or self._layout[2]  # no person resized it
        if fullscreen:
            self._place = self._place if was_full else pygame.display.get_window_position()
            pygame.display.set_window_position((0, 0))  # for where there is no window manager
            pygame.display.set_mode(self._desktop, pygame.FULLSCREEN)
        elif was_full or pygame.display.get_window_size() == self._set_size:
            space = self._desktop[0], self._desktop[1] - DECORATION
            width, height, zoom = self._fitting(space, layout, self._scale * self._frame_shape[0])
            window_height = max(height, round(zoom * HEIGHT)) if panel else height
            self._set_size = frames * width + round(zoom * panel), window_height
            pygame.display.set_mode(self._set_size, pygame.RESIZABLE)
            if was_full and self._place:
                pygame.display.set_window_position(self._place)
            _keep_on_screen(self._set_size, self._desktop)

    def _fitting(self, space: tuple[int, int], layout: Layout, most: int = sys.maxsize) -> tuple[int, int, float]:
        """Width and height of the largest frame, at most ``most`` high, that fits ``space`` with all that stands beside
        it, and the panel's zoom. Square frame pixels are whole window pixels, unless even one each does not fit."""
        frames, panel, _ = layout
        height, width = self._frame_shape
        step = height if self._pixels else 1
        highest = min(space[1], most)
        for high in (*range(highest // step * step, 0, -step), *range(min(height, highest), 1, -1)):
            wide, zoom = round(high * width / height), _zoom(high)
            zoom = min(zoom, space[1] / HEIGHT) if panel else zoom
            if frames * wide + round(zoom * panel) <= space[0]:
                return wide, high, zoom
        return 1, 1, zoom

    def _translated(self, event: pygame.event.Event, at: float) -> list[Event]:
        if event.type == pygame.JOYDEVICEADDED:
            pad = pygame.joystick.Joystick(event.device_index)
            self._pads[pad.get_instance_id()] = pad  # SDL closes a pad that is garbage collected
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
            return self._pointed(MOUSE[event.button], event.pos, at)
        if event.type == pygame.MOUSEMOTION:
            return self._pointed("drag" if any(event.buttons) else "hover", event.pos, at)
        if event.type == pygame.MOUSEWHEEL and event.y:
            return Event("wheel", "up" if event.y > 0 else "down", at)
        if event.type == pygame.DROPFILE:
            return Event("drop", event.file, at)
        return Event(KINDS[event.type], at=at) if event.type in KINDS else None

    def _pointed(self, kind: str, position: tuple[int, int], at: float) -> Event:
        """A mouse event, with its position on the frame, and on the map canvas or the panel."""
        if self._layout is None:
            return Event(kind, at=at, where=(-1.0, -1.0))  # before the first frame
        frame, other = self._frame_area, self._second_area if self._layout[0] == 2 else self._panel_area
        where = (position[0] - other.left) / max(1, other.height), (position[1] - other.top) / max(1, other.height)
        over = (position[0] - frame.left) / frame.width, (position[1] - frame.top) / frame.height
        return Event(kind, at=at, where=where, over=over)


def _layout_of(hud: Hud) -> Layout:
    """The map canvas replaces the panel; another frame stands between frame and panel."""
    if hud.menu is not None:
        return 1, MENU_WIDTH, hud.fullscreen
    beside = hud.canvas is not None or hud.beside is not None
    return 1 + beside, WIDTH if hud.visible and hud.canvas is None else 0, hud.fullscreen


def _open_display() -> None:
    """DisplayError without a display, where SDL would silently draw off screen."""
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
    """Move a window that grew over an edge of the screen back inside."""
    at = pygame.display.get_window_position()
    inside = tuple(max(0, min(place, whole - side)) for place, side, whole in zip(at, size, desktop, strict=True))
    if inside != tuple(at):
        pygame.display.set_window_position(inside)


def _zoom(frame_height: int) -> float:
    """The panel's zoom beside a frame of ``frame_height`` window pixels."""
    return min(2.0, max(0.75, frame_height / REFERENCE_HEIGHT))


def _key_code(name: str) -> int:
    try:
        return pygame.key.key_code(name)
    except ValueError:
        raise KeyNameError(f"{name!r} is no key that pygame knows; use names such as w, left, space, f1") from None
