"""Draws the HUD on pygame surfaces: the side panel, the menu, the map canvas, and overlays over the frame."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import pygame

from game.draw.map_canvas import BUTTONS, ROOM_BOXES, Box
from game.play.screen import Hud, Menu
from world_model.play.pictures import CELL, cells_apart

BACKGROUND = (17, 19, 24)
RAISED = (27, 30, 37)
LINE = (47, 52, 62)
TEXT = (222, 226, 233)
MUTED = (128, 136, 150)
ACCENT = (122, 178, 255)
RED = (240, 82, 82)
AMBER = (236, 178, 74)

WIDTH = 216  # of the panel at zoom 1, that is beside a frame of 640 window pixels
MENU_WIDTH = 340
HEIGHT = 600  # that the panel's parts need at zoom 1

FINER = 4  # scale at which text and boxes are drawn before they are scaled down

HELP = (
    ("Esc", "quit"),
    ("P", "pause, go on"),
    ("N", "next room"),
    ("Home", "this room from its start"),
    ("R", "start, stop recording"),
    ("H", "hide, show the panel"),
    ("F", "full screen, and back"),
    ("Backspace", "hold: time runs back"),
    ("F5", "save this moment"),
    ("F9", "back to the saved one"),
    ("Tab", "draw the map"),
    ("T", "into another map"),
    ("G", "pin this view"),
    ("V", "the real game beside"),
    ("B", "another future beside"),
    ("Enter", "take that one"),
    ("F11", "film of the last 10 s"),
    ("F12", "picture"),
    ("F3", "figures for researchers"),
    ("F1", "this help"),
)
ROWS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
ROW_SHIFT = (-0.5, 0.0, 0.25, 0.75)
ARROWS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}


def keycaps(keys: tuple[str, ...]) -> dict[str, tuple[float, float, float]]:
    """Positions of the key caps, {key: (x, y, width)} in caps, from (0, 0) and without gaps.

    Letters and digits are placed as on a keyboard, arrows to their right, all others in rows below.
    """
    places = {k: (ROW_SHIFT[y] + row.index(k), y, 1.0) for y, row in enumerate(ROWS) for k in keys if k in row}
    left = min((x for x, _, _ in places.values()), default=0.0)
    places = {k: (x - left, y, w) for k, (x, y, w) in places.items()}
    right = max((x + 1 for x, _, _ in places.values()), default=-0.5) + 0.5
    bottom = max((y for _, y, _ in places.values()), default=1)
    for key in set(ARROWS) & set(keys):
        x = {"left": 0, "up": 1, "down": 1, "right": 2}[key] if {"up", "down"} & set(keys) else key == "right"
        places[key] = (right + x, bottom - (key == "up"), 1.0)
    width = max((x + w for x, _, w in places.values()), default=4.0)
    x, y = 0.0, bottom + 1
    for key in (k for k in keys if k not in places):
        cap = width if key == "space" else max(1.0, 0.35 * len(key) + 0.5)
        if x and x + cap > width:
            x, y = 0.0, y + 1
        places[key] = (x, y, cap)
        x += cap
    left, top = (min((place[axis] for place in places.values()), default=0.0) for axis in (0, 1))
    return {key: (x - left, y - top, width) for key, (x, y, width) in places.items()}


class Pen:
    """Draws text, boxes and pictures at one zoom, from caches.

    Text and boxes are drawn larger and scaled down: so small fonts keep their spacing, and edges are smooth.
    """

    def __init__(self, zoom: float):
        self.zoom = zoom
        self._font = lru_cache(16)(lambda size: pygame.font.Font(None, size * FINER))
        self._text = lru_cache(256)(self._render_text)
        self._box = lru_cache(64)(self._render_box)
        self.lines = lru_cache(64)(self._lines)
        self._thumbnails: tuple[object, list[pygame.Surface]] = (None, [])

    def px(self, length: float) -> int:
        return round(length * self.zoom)

    def text(self, surface, text, at, size=18, color=TEXT, align="left") -> None:
        """Draw ``text`` vertically centred on ``at``, which is its left end, its centre or its right end."""
        picture = self._text(text, self.px(size), color)
        place = {"left": "midleft", "center": "center", "right": "midright"}[align]
        surface.blit(picture, picture.get_rect(**{place: at}))

    def text_width(self, text, size=18) -> int:
        return self._font(self.px(size)).size(text)[0] // FINER

    def _lines(self, text, width, size=18, most=1) -> list[str]:
        """The text in up to ``most`` lines of ``width`` pixels; a longer text ends in …, wider words are broken."""
        lines, rest = [], text.strip()
        while rest and len(lines) < most:
            fits = next((n for n in range(len(rest), 1, -1) if self.text_width(rest[:n], size) <= width), 1)
            if len(lines) + 1 == most and fits < len(rest):
                return [*lines, rest[: fits - 1].rstrip() + "…"]
            space = rest.rfind(" ", 0, fits + 1) if fits < len(rest) else -1
            fits = space if space > 0 else fits
            lines.append(rest[:fits])
            rest = rest[fits:].lstrip()
        return lines

    def box(self, surface, area, fill, radius, border=None) -> None:
        """A filled box with round corners and, if it has a colour, a thin border."""
        surface.blit(self._box(area.size, fill, self.px(radius), border), area)

    def thumbnails(self, pictures: np.ndarray, size: tuple[int, int]) -> list[pygame.Surface]:
        """Small copies of pictures uint8 [n, H, W, 3], made once an array."""
        if self._thumbnails[0] is not pictures:
            small = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pictures]
            self._thumbnails = pictures, [picture_surface(p) for p in small]
        return self._thumbnails[1]

    def _render_text(self, text, size, color):
        big = self._font(size).render(text, True, color).convert_alpha()
        return pygame.transform.smoothscale(big, (big.get_width() // FINER, big.get_height() // FINER))

    def _render_box(self, size, fill, radius, border):
        big = pygame.Surface((size[0] * FINER, size[1] * FINER), pygame.SRCALPHA)
        edge = max(1, self.px(1)) * FINER
        pygame.draw.rect(big, border or fill, big.get_rect(), border_radius=radius * FINER)
        if border:
            inside = big.get_rect().inflate(-2 * edge, -2 * edge)
            pygame.draw.rect(big, fill, inside, border_radius=radius * FINER - edge)
        return pygame.transform.smoothscale(big, size)


def picture_surface(picture: np.ndarray) -> pygame.Surface:
    """uint8 RGB [H, W, 3] -> surface."""
    height, width = picture.shape[:2]
    return pygame.image.frombuffer(np.ascontiguousarray(picture), (width, height), "RGB")


def draw_panel(surface: pygame.Surface, area: pygame.Rect, hud: Hud, pen: Pen) -> None:
    """The side panel: title, frames a second, keys, map, recording light; for researchers also figures, runtime, and
    the sink frames of a world without a map."""
    surface.fill(BACKGROUND, area)
    inner = area.inflate(-pen.px(40), -pen.px(40))
    y = _draw_lines(surface, inner, inner.top + pen.px(9), hud.title, pen, 27)
    y = _draw_lines(surface, inner, y, hud.place, pen, 17, MUTED, 2)
    if hud.scored:
        y = _draw_lines(surface, inner, y, hud.scored, pen, 22)
    y = _draw_lines(surface, inner, y, hud.rate, pen, 16, MUTED if hud.slow_of is None else AMBER, 2)
    if hud.research or hud.slow_of is not None:
        y = _draw_lines(surface, inner, y, hud.runs and f"runs: {hud.runs}", pen, 15, MUTED, 3)
    if hud.research:
        y = _draw_figures(surface, inner, y, hud, pen)
    y = _draw_keys(surface, inner, y + pen.px(12), hud, pen)
    if hud.anchors is not None and len(hud.anchors) and (hud.research or hud.present is not None):
        _draw_anchors(surface, inner, y + pen.px(24), hud, pen)
    _draw_collapse(surface, inner, hud, pen)
    _draw_recording(surface, inner, hud, pen)


def draw_canvas(surface: pygame.Surface, area: pygame.Rect, hud: Hud, pen: Pen) -> None:
    """The map being drawn: four rooms, and the buttons for tiles and actions."""
    canvas = hud.canvas
    surface.fill(BACKGROUND, area)
    for number, box in enumerate(ROOM_BOXES):
        place = _placed(box, area)
        border = ACCENT if number == hud.present else MUTED if number == canvas.room else LINE
        pygame.draw.rect(surface, border, place.inflate(pen.px(4), pen.px(4)), pen.px(2))
        big = cv2.resize(canvas.pictures[number], place.size, interpolation=cv2.INTER_NEAREST)
        surface.blit(picture_surface(big), place)
    for name, box in BUTTONS.items():
        _draw_cap(surface, _placed(box, area), name, name == canvas.kind or (name == "fill" and canvas.filling), pen)
    left, top = _placed(BUTTONS["save"], area).left, _placed(ROOM_BOXES[2], area).top
    pen.text(surface, "right button: floor", (left, top), 15, MUTED)
    pen.text(surface, "U undo, Tab back", (left, top + pen.px(20)), 15, MUTED)


def _placed(box: Box, area: pygame.Rect) -> pygame.Rect:
    """The pixels of a box in units of the area's height."""
    x, y, width, height = (round(length * area.height) for length in (box.x, box.y, box.width, box.height))
    return pygame.Rect(area.left + x, area.top + y, width, height)


def draw_menu(surface: pygame.Surface, area: pygame.Rect, menu: Menu, pen: Pen) -> None:
    """The worlds, one below the other: moving picture, number and name, a few words; the chosen one has a frame."""
    surface.fill(BACKGROUND, area)
    inner = area.inflate(-pen.px(40), -pen.px(40))
    pen.text(surface, "Rollplay", (inner.left, inner.top + pen.px(9)), 27)
    for number, box in menu.rows():
        _draw_entry(surface, _placed(box, area).clip(inner), menu.entries[number], number, number == menu.chosen, pen)
    ways = "Enter plays, D draws its map" if menu.entries[menu.chosen].drawable else "Enter plays"
    for words, up in (("mouse, up and down, or a number", 50), (ways, 30), ("Esc leaves", 10)):
        pen.text(surface, words, (inner.left, inner.bottom - pen.px(up)), 16, MUTED)


def _draw_entry(surface, row, entry, number, is_chosen, pen) -> None:
    place = pygame.Rect(row.left, row.top, *[row.height - pen.px(14)] * 2)
    pen.box(surface, place, RAISED, 4, LINE)
    if entry.picture is not None:
        small = cv2.resize(entry.picture, place.size, interpolation=cv2.INTER_AREA)
        surface.blit(picture_surface(small), place)
    if is_chosen:
        pygame.draw.rect(surface, ACCENT, place.inflate(pen.px(4), pen.px(4)), pen.px(2))
    left = place.right + pen.px(12)
    name = pen.lines(f"{number + 1}  {entry.name}", row.right - left, 19)
    pen.text(surface, *name, (left, place.top + pen.px(8)), 19, TEXT if is_chosen else MUTED)
    for line, words in enumerate(pen.lines(entry.about, row.right - left, 16, 3)):
        pen.text(surface, words, (left, place.top + pen.px(28 + 17 * line)), 16, MUTED)


def draw_beside(surface, area, other: np.ndarray, frame: np.ndarray, hud: Hud, pen: Pen) -> None:
    """Another frame, scaled for the window, with a mark on every cell in which the first frame differs from it."""
    whose, small = hud.beside
    surface.blit(picture_surface(other), area)
    apart = cells_apart(frame, small)
    height, width = area.height * CELL / frame.shape[0], area.width * CELL / frame.shape[1]
    for row, column in np.argwhere(apart):
        cell = pygame.Rect(round(column * width), round(row * height), round(width), round(height))
        pygame.draw.rect(surface, RED, cell.move(area.topleft), max(1, pen.px(2)))
    pygame.draw.line(surface, BACKGROUND, area.topleft, area.bottomleft, pen.px(4))
    equal, room = 100 * (1 - apart.mean()), area.width - pen.px(28)
    words, *_ = pen.lines(f"{whose}: {equal:.1f} % of the picture equal", room, 17)
    chip = pygame.Rect(0, 0, pen.text_width(words, 17) + pen.px(28), pen.px(30))
    chip.midtop = area.centerx, area.top + pen.px(14)
    pen.box(surface, chip, BACKGROUND, 8, LINE)
    pen.text(surface, words, chip.center, 17, TEXT, "center")


def draw_overlays(surface: pygame.Surface, area: pygame.Rect, hud: Hud, pen: Pen) -> None:
    """Over the frame: notice, pause, help, rewound time, timeline."""
    if hud.help:
        _dim(surface, area)
        _draw_help(surface, area, hud, pen)
    elif hud.paused:
        _dim(surface, area)
        x, y = area.center
        pen.text(surface, "Paused", (x, y - pen.px(14)), 48, TEXT, "center")
        pen.text(surface, "P to go on", (x, y + pen.px(22)), 20, TEXT, "center")
    if hud.rewound is not None:
        _draw_time(surface, area, hud, pen)
    if hud.timeline is not None:
        _draw_timeline(surface, area, hud.timeline, pen)
        area = area.inflate(0, -2 * pen.px(56))
    if hud.notice:
        _draw_notice(surface, area, hud.notice, pen)


def _heading(surface, left, y, text, pen) -> int:
    pen.text(surface, text, (left, y), 17, MUTED)
    return y + pen.px(14)


def _draw_lines(surface, inner, y, text, pen, size, color=TEXT, most=1) -> int:
    """Draw the text from ``y`` on; the y of what comes below."""
    for words in pen.lines(text, inner.width, size, most):
        pen.text(surface, words, (inner.left, y), size, color)
        y += pen.px(size)
    return y + pen.px(8)


def _draw_figures(surface, inner, y, hud, pen) -> int:
    for name, value in (("tick", hud.tick_ms), ("key to photon", hud.key_to_photon_ms)):
        pen.text(surface, name, (inner.left, y), 17, MUTED)
        pen.text(surface, "–" if value is None else f"{value:.0f} ms", (inner.right, y), 17, TEXT, "right")
        y += pen.px(22)
    return y


def _draw_keys(surface, inner, y, hud, pen) -> int:
    y = _heading(surface, inner.left, y, "keys", pen)
    places = keycaps(hud.keys)
    unit = min(pen.px(34), int(inner.width / max(x + w for x, _, w in places.values())))
    held = hud.held if hud.held is not None else [0] * len(hud.keys)
    for key, down in zip(hud.keys, held, strict=True):
        x, row, width = places[key]
        cap = pygame.Rect(inner.left + round(x * unit), y + round(row * unit), round(width * unit), unit)
        _draw_cap(surface, cap.inflate(-pen.px(4), -pen.px(4)), key, bool(down), pen)
    return y + (1 + int(max(row for _, row, _ in places.values()))) * unit


def _draw_cap(surface, cap, key, down, pen) -> None:
    pen.box(surface, cap, ACCENT if down else RAISED, 6, None if down else LINE)
    color = BACKGROUND if down else MUTED
    if key in ARROWS:
        _draw_arrow(surface, cap.center, ARROWS[key], pen.px(5), color)
    else:
        name = key.upper() if len(key) == 1 else key
        pen.text(surface, name, cap.center, 18 if len(key) == 1 else 16, color, "center")


def _draw_arrow(surface, center, way, size, color) -> None:
    (x, y), (dx, dy) = center, way
    tip = (x + dx * size, y + dy * size)
    back = [(x - dx * size + s * dy * size, y - dy * size + s * dx * size) for s in (-1, 1)]
    pygame.draw.polygon(surface, color, [tip, *back])


def _draw_anchors(surface, inner, y, hud, pen) -> None:
    y = _heading(surface, inner.left, y, "map" if hud.present is not None else "sink frames", pen)
    gap = pen.px(6)
    width = (inner.width - gap) // 2
    height = round(width * hud.anchors.shape[1] / hud.anchors.shape[2])
    for i, picture in enumerate(pen.thumbnails(hud.anchors, (width, height))):
        place = pygame.Rect(inner.left + (i % 2) * (width + gap), y + (i // 2) * (height + gap), width, height)
        if i == hud.present:
            pygame.draw.rect(surface, ACCENT, place.inflate(pen.px(4), pen.px(4)), pen.px(2))
        surface.blit(picture, place)


def _draw_collapse(surface, inner, hud, pen) -> None:
    """A small line above the last one, where the picture collapsed or, for researchers, was primed again."""
    y = inner.bottom - pen.px(26)
    if hud.collapse:
        pen.text(surface, f"picture {hud.collapse}", (inner.left, y), 16, AMBER)
    if hud.reprimes and hud.research:
        pen.text(surface, f"primed again {hud.reprimes}×", (inner.right, y), 16, MUTED, "right")


def _draw_recording(surface, inner, hud, pen) -> None:
    y = inner.bottom - pen.px(6)
    if hud.recording is None:
        pen.text(surface, "F1 help", (inner.left, y), 18, MUTED)
        return
    minutes, seconds = divmod(int(hud.recording), 60)
    light = pygame.Rect(inner.left, 0, pen.px(12), pen.px(12))
    light.centery = y
    pen.box(surface, light, RED, 6)
    pen.text(surface, f"recording  {minutes}:{seconds:02d}", (inner.left + pen.px(20), y))


def _dim(surface, area) -> None:
    shade = pygame.Surface(area.size, pygame.SRCALPHA)
    shade.fill((*BACKGROUND, 170))
    surface.blit(shade, area)


def _draw_help(surface, area, hud, pen) -> None:
    play = [(key, hud.meanings.get(key, "a key of this world")) for key in hud.keys]
    commands = [(key, meaning) for key, meaning in HELP if key != "Tab" or hud.drawable]
    lines = len(play) + len(commands) + 1
    line = min(pen.px(26), (area.height - pen.px(48)) // lines)
    card = pygame.Rect(0, 0, min(area.width, pen.px(320)), line * lines + pen.px(48))
    card.center = area.center
    pen.box(surface, card, BACKGROUND, 12, LINE)
    y = card.top + pen.px(24) + line // 2
    for key, meaning in (*play, ("", ""), *commands):
        if key:
            _draw_help_line(surface, card, y, key, meaning, pen)
        y += line


def _draw_help_line(surface, card, y, key, meaning, pen) -> None:
    width = 24 if len(key) == 1 or key in ARROWS else 72
    cap = pygame.Rect(card.left + pen.px(28), y - pen.px(11), pen.px(width), pen.px(22))
    _draw_cap(surface, cap, key, False, pen)
    pen.text(surface, meaning, (card.left + pen.px(116), y))


def _draw_time(surface, area, hud, pen) -> None:
    """How far back in time one is, on a line from the oldest kept moment to the one when Backspace was pressed."""
    line = pygame.Rect(area.left + pen.px(28), area.top + pen.px(52), area.width - pen.px(56), pen.px(6))
    share = hud.behind / max(hud.behind + hud.rewound, 1e-9)
    pen.box(surface, line, RAISED, 3, LINE)
    pen.box(surface, pygame.Rect(*line.topleft, max(line.height, round(line.width * share)), line.height), ACCENT, 3)
    chip = pygame.Rect(0, 0, pen.px(150), pen.px(30))
    chip.midtop = area.centerx, area.top + pen.px(14)
    pen.box(surface, chip, BACKGROUND, 8, LINE)
    pen.text(surface, f"{hud.rewound:.1f} s back", chip.center, 17, TEXT, "center")


def _draw_timeline(surface, area, timeline, pen) -> None:
    """A recording from end to end: the part behind the present frame, damaged frames, and the time."""
    line = pygame.Rect(area.left + pen.px(28), area.bottom - pen.px(44), area.width - pen.px(56), pen.px(8))
    last = max(1, timeline.length - 1)
    pen.box(surface, line.inflate(pen.px(28), pen.px(44)).move(0, pen.px(8)), BACKGROUND, 8, LINE)
    pen.box(surface, line, RAISED, 3, LINE)
    done = max(line.height, round(line.width * timeline.at / last))
    pen.box(surface, pygame.Rect(*line.topleft, done, line.height), ACCENT, 3)
    for x in {line.left + round(line.width * frame / last) for frame in timeline.damaged}:
        pygame.draw.line(surface, RED, (x, line.top - pen.px(3)), (x, line.bottom + pen.px(3)), max(1, pen.px(2)))
    words = f"{timeline.at / timeline.fps:.2f} of {last / timeline.fps:.2f} s    frame {timeline.at} of {last}"
    if timeline.damaged:
        words += f"    {len(timeline.damaged)} damaged"
    pen.text(surface, words, (line.centerx, line.bottom + pen.px(16)), 16, TEXT, "center")


def _draw_notice(surface, area, notice, pen) -> None:
    lines = pen.lines(notice, area.width - pen.px(56), 17, 3)
    width = max(pen.text_width(words, 17) for words in lines)
    chip = pygame.Rect(0, 0, width + pen.px(28), pen.px(11 + 19 * len(lines)))
    chip.midbottom = area.centerx, area.bottom - pen.px(14)
    pen.box(surface, chip, BACKGROUND, 8, LINE)
    for line, words in enumerate(lines):
        pen.text(surface, words, (chip.centerx, chip.top + pen.px(15 + 19 * line)), 17, TEXT, "center")
