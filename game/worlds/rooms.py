"""A seed makes a room: walls, floor, roof, landmarks and baked light, as plain arrays.

A ``Rooms`` holds B rooms stacked, because renderer and physics work on many rooms at once. Lengths are metres, colours
sRGB in 0..1, angles radians; x is east, y north, left turns are positive. No feature is finer than about half a metre,
so that a small autoencoder can represent it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_WALLS, MAX_SOLIDS, MAX_LANDMARKS = 8, 12, 6
GRID = 64  # cells a side of the light map
PLAYER_RADIUS = 0.35
CLEARANCE = 0.85  # the narrowest gap, wider than the player, so that he never gets stuck

# Numba compiles these numbers in, and its cache does not watch this file: after changing one, save raycast.py and
# arena.py too.

# Columns of Rooms.walls. T is the unit tangent, N the unit normal that points into the room.
WALL_X, WALL_Y, WALL_TX, WALL_TY, WALL_NX, WALL_NY, WALL_LENGTH, WALL_LIT = range(8)
WALL_PATTERN, WALL_SCALE, WALL_SHIFT, WALL_COLOR, WALL_COLOR2, WALL_FIELDS = 8, 9, 10, 11, 14, 17

# Columns of Rooms.solids, the convex parts of landmarks.
SOLID_KIND, SOLID_X, SOLID_Y, SOLID_A, SOLID_B, SOLID_COS, SOLID_SIN = range(7)
SOLID_BOTTOM, SOLID_TOP, SOLID_EMISSIVE, SOLID_GLOW, SOLID_BAND = 7, 8, 9, 10, 11
SOLID_COLOR, SOLID_COLOR2, SOLID_FIELDS = 12, 15, 18
CYLINDER, BOX, SPHERE, CONE = range(4)

# Columns of Rooms.scene.
WALL_COUNT, SOLID_COUNT, LANDMARK_COUNT, ROOM_HEIGHT = range(4)
FLOOR_PATTERN, FLOOR_SCALE, FLOOR_COS, FLOOR_SIN, FLOOR_SHIFT = 4, 5, 6, 7, 8
ROOF_PATTERN, ROOF_SCALE, LIGHT_X, LIGHT_Y, GRID_X, GRID_Y, GRID_STEP = 9, 10, 11, 12, 13, 14, 15
FLOOR_COLOR, FLOOR_COLOR2, ROOF_COLOR, ROOF_COLOR2, GLOW_COLOR, TINT = 16, 19, 22, 25, 28, 31
LAMP_X, LAMP_Y, SPAWN_X, SPAWN_Y, SPAWN_TURN, SCENE_FIELDS = 34, 35, 36, 37, 38, 39

PLAIN, WAINSCOT, STRIPES, CHECKS, BANDS, PANELS, CIRCLES, DIAGONAL, ARCHES = range(9)
FLOOR_PLAIN, FLOOR_CHECKS, FLOOR_STRIPES, FLOOR_RINGS, FLOOR_TILES = range(5)
ROOF_PANELS, ROOF_BEAMS, ROOF_PLAIN, ROOF_SKY = range(4)

TURNS = 80  # headings in a circle: 4.5 degrees a tick


class Rooms(NamedTuple):
    """B stacked rooms, all float32.

    walls [B, 8, WALL_FIELDS], solids [B, 12, SOLID_FIELDS], scene [B, SCENE_FIELDS],
    light [B, GRID, GRID, 3] (shade of the floor, glow of the lamp, shade of the roof),
    landmarks [B, 6, 3] (x, y, collision radius).
    """

    walls: np.ndarray
    solids: np.ndarray
    scene: np.ndarray
    light: np.ndarray
    landmarks: np.ndarray

    def take(self, index) -> Rooms:
        """The rooms at ``index`` (anything numpy indexes a leading axis with, keeping the axis)."""
        return Rooms(*(array[index] for array in self))


def make_rooms(seeds) -> Rooms:
    """The rooms of ``seeds`` (non-negative integers), stacked in order."""
    return Rooms(*(np.stack(arrays) for arrays in zip(*map(_make_room, seeds), strict=True)))


def _make_room(seed: int) -> Rooms:
    rng = np.random.default_rng([int(seed), 0xA12E4A])
    palette = _Palette(rng)
    corners = _outline(rng)
    scene = np.zeros(SCENE_FIELDS, np.float64)
    light_angle = rng.uniform(0, 2 * np.pi)
    scene[[LIGHT_X, LIGHT_Y]] = np.cos(light_angle), np.sin(light_angle)
    walls = _walls(rng, palette, corners, scene)
    _floor_and_roof(rng, palette, scene)
    solids, landmarks, spawn = _furnish(rng, palette, walls, scene)
    scene[[SPAWN_X, SPAWN_Y]] = spawn
    scene[SPAWN_TURN] = _spawn_turn(spawn, landmarks, walls)
    light = _bake(walls, solids, landmarks, scene, corners)
    padded = np.zeros((MAX_LANDMARKS, 3))
    padded[: len(landmarks)] = landmarks
    padded_walls = np.zeros((MAX_WALLS, WALL_FIELDS))
    padded_walls[: len(walls)] = walls
    padded_solids = np.zeros((MAX_SOLIDS, SOLID_FIELDS))
    padded_solids[: len(solids)] = solids
    arrays = padded_walls, padded_solids, scene, light, padded
    return Rooms(*(np.ascontiguousarray(array, np.float32) for array in arrays))


# ---------------------------------------------------------------- colours


def oklch(lightness: float, chroma: float, hue: float) -> np.ndarray:
    """sRGB [3] in 0..1 of an OKLCH colour (hue in turns); chroma shrinks until the colour exists."""
    while True:
        rgb = _oklch_linear(lightness, chroma, hue)
        if chroma < 1e-3 or (rgb.min() >= -1e-4 and rgb.max() <= 1.0001):
            break
        chroma *= 0.95
    rgb = np.clip(rgb, 0, 1)
    return np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)


def _oklch_linear(lightness, chroma, hue):
    a, b = chroma * np.cos(2 * np.pi * hue), chroma * np.sin(2 * np.pi * hue)
    lms = np.array(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    long, medium, short = lms**3
    return np.array(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ]
    )


class _Palette:
    """Colours that sit well together: two or three wall hues, a calm floor, lively landmarks."""

    # Hue offsets (in turns) of the wall colours: neighbours, and neighbours with one opposite.
    SCHEMES = (
        (0.0, 0.07, -0.07, 0.14),
        (0.0, 0.06, 0.5, 0.56),
        (0.0, 0.33, 0.05, 0.38),
        (0.0, 0.42, 0.58, 0.05),
        (0.0, 0.25, 0.30, -0.05),
    )
    # (wall lightness, wall chroma, floor lightness, roof lightness)
    MOODS = (
        (0.79, 0.080, 0.64, 0.95),
        (0.72, 0.095, 0.60, 0.92),
        (0.64, 0.100, 0.70, 0.90),
        (0.85, 0.060, 0.54, 0.96),
        (0.60, 0.095, 0.56, 0.86),
    )

    def __init__(self, rng):
        self.rng = rng
        self.base = rng.uniform()
        self.scheme = self.SCHEMES[rng.integers(len(self.SCHEMES))]
        self.mood = self.MOODS[rng.integers(len(self.MOODS))]
        self.accent = rng.uniform()

    def wall(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ground and figure of one wall; figure and ground differ in lightness, so both show in the dark."""
        rng, (lightness, chroma, _, _) = self.rng, self.mood
        hue = self.base + self.scheme[index % 4] + rng.uniform(-0.015, 0.015)
        # Yellows turn to olive when they are dark, so they are lifted.
        lightness += rng.uniform(-0.05, 0.05) + 0.09 * np.exp(-((((hue - 0.29 + 0.5) % 1 - 0.5) / 0.07) ** 2))
        step = rng.uniform(0.11, 0.17) * (-1 if lightness > 0.66 else 1)
        hue2 = hue + rng.choice([0.0, 0.0, 0.06, -0.06, 0.45])
        return oklch(lightness, chroma, hue), oklch(lightness + step, chroma * rng.uniform(0.9, 1.3), hue2)

    def floor(self):
        rng, lightness = self.rng, self.mood[2]
        hue = rng.choice([0.14, 0.17, 0.11, self.base, self.base + 0.5, self.base + 0.25])
        chroma = rng.uniform(0.02, 0.07)
        return oklch(lightness, chroma, hue), oklch(lightness - rng.uniform(0.08, 0.14), chroma * 1.1, hue + 0.02)

    def roof(self):
        lightness = self.mood[3]
        ground = oklch(lightness - 0.1, 0.025, self.base + 0.1)
        return ground, oklch(min(lightness + 0.03, 0.97), 0.015, self.base + 0.1)

    def sky(self):
        pairs = (
            ((0.94, 0.03, 0.62), (0.70, 0.11, 0.68)),  # clear day
            ((0.93, 0.04, 0.55), (0.76, 0.09, 0.62)),  # haze
            ((0.91, 0.07, 0.17), (0.68, 0.08, 0.80)),  # dusk
            ((0.90, 0.06, 0.03), (0.66, 0.10, 0.90)),  # rose evening
            ((0.93, 0.06, 0.24), (0.80, 0.07, 0.48)),  # sea green
            ((0.90, 0.04, 0.80), (0.58, 0.12, 0.75)),  # violet
            ((0.94, 0.05, 0.22), (0.82, 0.08, 0.18)),  # golden hour
        )
        pair = pairs[self.rng.integers(len(pairs))]
        shift = self.rng.uniform(-0.02, 0.02)
        return tuple(oklch(lightness, chroma, hue + shift) for lightness, chroma, hue in pair)

    def landmark(self, index: int, count: int):
        """Two shades of one lively hue; the hues of a room's landmarks are spread over the circle."""
        hue = self.accent + index / count + self.rng.uniform(-0.03, 0.03)
        lightness = self.rng.uniform(0.60, 0.72)
        return oklch(lightness, 0.16, hue), oklch(lightness + 0.16, 0.08, hue + 0.03)


# ---------------------------------------------------------------- walls, floor, roof


def _outline(rng) -> np.ndarray:
    """Corners [n, 2] of a convex outline, counter-clockwise, with no wall shorter than 1.6 m."""
    width, depth = rng.uniform(7.0, 11.5), rng.uniform(7.0, 11.5)
    kind = rng.integers(5)
    if kind == 0:
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    elif kind == 1:
        corners = _chamfer(rng, cut=4)
    elif kind == 2:
        corners = _chamfer(rng, cut=int(rng.integers(1, 3)))
    else:
        sides = 5 if kind == 3 else 6
        angles = 2 * np.pi * (np.arange(sides) + rng.uniform(-0.16, 0.16, sides)) / sides
        corners = 1.12 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners = corners * (width / 2, depth / 2)
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return corners @ rotation


def _chamfer(rng, cut: int) -> np.ndarray:
    """The square of half side 1 with its first ``cut`` corners cut off."""
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    size = rng.uniform(0.45, 0.7)
    corners = []
    for i, corner in enumerate(square):
        before, after = square[i - 1] - corner, square[(i + 1) % 4] - corner
        corners += [corner + before * size / 2, corner + after * size / 2] if i < cut else [corner]
    return np.array(corners)


def _walls(rng, palette, corners, scene) -> np.ndarray:
    count = len(corners)
    walls = np.zeros((count, WALL_FIELDS))
    ends = np.roll(corners, -1, axis=0)
    length = np.linalg.norm(ends - corners, axis=1)
    tangent = (ends - corners) / length[:, None]
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    walls[:, [WALL_X, WALL_Y]] = corners
    walls[:, [WALL_TX, WALL_TY]] = tangent
    walls[:, [WALL_NX, WALL_NY]] = normal
    walls[:, WALL_LENGTH] = length
    facing = normal @ scene[[LIGHT_X, LIGHT_Y]]
    walls[:, WALL_LIT] = 0.90 + 0.10 * facing
    patterns = _cycle(rng, [WAINSCOT, STRIPES, CHECKS, BANDS, PANELS, CIRCLES, DIAGONAL, ARCHES], count)
    for i in range(count):
        walls[i, WALL_PATTERN] = patterns[i]
        walls[i, WALL_COLOR : WALL_COLOR + 3], walls[i, WALL_COLOR2 : WALL_COLOR2 + 3] = palette.wall(i)
        walls[i, WALL_SCALE], walls[i, WALL_SHIFT] = _fit(rng, int(patterns[i]), length[i])
    scene[WALL_COUNT] = count
    return walls


def _cycle(rng, items, count):
    """``count`` random ``items``, with as few repeats as possible."""
    return np.concatenate([rng.permutation(items) for _ in range(-(-count // len(items)))])[:count]


def _fit(rng, pattern: int, length: float) -> tuple[float, float]:
    """Size of a pattern's cell so that whole cells fill the wall, and where its first cell begins."""
    wanted = {STRIPES: 0.85, CHECKS: 0.95, PANELS: 2.0, CIRCLES: 2.2, ARCHES: 2.0}.get(pattern, 1.0)
    wanted *= rng.uniform(0.85, 1.35)
    if pattern in (PANELS, CIRCLES, ARCHES):
        return length / max(1, round(length / wanted)), 0.0
    if pattern in (STRIPES, CHECKS):
        return length / max(2, round(length / wanted)), 0.0
    if pattern == WAINSCOT:
        return rng.uniform(0.9, 1.5), 0.0
    return rng.uniform(0.7, 1.1), rng.uniform(0, 1)


def _floor_and_roof(rng, palette, scene):
    angle = rng.uniform(0, np.pi)
    scene[ROOM_HEIGHT] = rng.uniform(3.0, 4.4)
    scene[FLOOR_PATTERN] = rng.choice([FLOOR_PLAIN, FLOOR_CHECKS, FLOOR_STRIPES, FLOOR_RINGS, FLOOR_TILES])
    scene[FLOOR_SCALE] = rng.uniform(1.0, 1.7)
    scene[[FLOOR_COS, FLOOR_SIN]] = np.cos(angle), np.sin(angle)
    scene[FLOOR_SHIFT] = rng.uniform(0, 1)
    scene[FLOOR_COLOR : FLOOR_COLOR + 3], scene[FLOOR_COLOR2 : FLOOR_COLOR2 + 3] = palette.floor()
    scene[ROOF_PATTERN] = rng.choice([ROOF_PANELS, ROOF_BEAMS, ROOF_PLAIN, ROOF_SKY, ROOF_SKY])
    scene[ROOF_SCALE] = rng.uniform(1.1, 1.7)
    roof = palette.sky() if scene[ROOF_PATTERN] == ROOF_SKY else palette.roof()
    scene[ROOF_COLOR : ROOF_COLOR + 3], scene[ROOF_COLOR2 : ROOF_COLOR2 + 3] = roof
    scene[GLOW_COLOR : GLOW_COLOR + 3] = oklch(0.88, 0.10, rng.choice([0.17, 0.22, 0.12, 0.55, 0.95]))
    scene[TINT : TINT + 3] = 1 + 0.03 * np.array([1, 0.2, -1]) * rng.uniform(-0.6, 1)


# ---------------------------------------------------------------- landmarks


LAMP, PILLAR, CRATE, OBELISK, DISC, CONE_MARK, BALL, TREE = range(8)
RADII = {LAMP: 0.32, PILLAR: 0.42, CRATE: 0.78, OBELISK: 0.55, DISC: 0.85, CONE_MARK: 0.65, BALL: 0.6, TREE: 0.6}


def _furnish(rng, palette, walls, scene):
    """Solids [n, SOLID_FIELDS], landmarks [m, 3] and the spawn point; always a lamp, and kinds differ."""
    count, landmarks = int(rng.integers(3, MAX_LANDMARKS + 1)), []
    while len(landmarks) < 3:  # in a small room, not all may find a place
        kinds = [LAMP, *rng.permutation([PILLAR, CRATE, OBELISK, DISC, CONE_MARK, BALL, TREE])[: count - 1]]
        spawn = rng.normal(0, 0.5, 2)
        solids, landmarks = [], []
        for index, kind in enumerate(kinds):
            place = _place(rng, walls, landmarks, spawn, RADII[kind])
            if place is not None:
                landmarks.append((*place, RADII[kind]))
                solids += _build(rng, kind, place, RADII[kind], palette.landmark(index, count), scene)
    scene[SOLID_COUNT], scene[LANDMARK_COUNT] = len(solids), len(landmarks)
    scene[[LAMP_X, LAMP_Y]] = landmarks[0][:2]
    return np.array(solids), np.array(landmarks), spawn


def _place(rng, walls, landmarks, spawn, radius):
    """A random point [2] far enough from walls, other landmarks and the spawn point; None where none is found."""
    reach = np.abs(walls[:, [WALL_X, WALL_Y]]).max()
    for _ in range(400):
        point = rng.uniform(-reach, reach, 2)
        if _wall_distance(walls, point).min() < radius + CLEARANCE:
            continue
        if np.linalg.norm(point - spawn) < radius + 1.5:
            continue
        if all(np.linalg.norm(point - other[:2]) >= radius + other[2] + 1.1 for other in landmarks):
            return point
    return None


def _wall_distance(walls, point):
    """Distances inward from every wall, [..., n]; point [..., 2]."""
    offset = np.asarray(point)[..., None, :] - walls[:, [WALL_X, WALL_Y]]
    return (offset * walls[:, [WALL_NX, WALL_NY]]).sum(-1)


def _build(rng, kind, place, radius, colors, scene) -> list[np.ndarray]:
    """The solids of one landmark."""

    def solid(shape, a, b, bottom, top, colors=colors, emissive=0.0, band=0.0):
        angle = rng.uniform(0, np.pi / 2)
        shape_fields = [shape, *place, a, b, np.cos(angle), np.sin(angle), bottom, top]
        return np.array([*shape_fields, emissive, 0.0, band, *colors[0], *colors[1]])

    room_height = scene[ROOM_HEIGHT]
    if kind == LAMP:
        pole = oklch(0.45, 0.02, 0.7), oklch(0.6, 0.02, 0.7)
        glow = scene[GLOW_COLOR : GLOW_COLOR + 3]
        height = rng.uniform(1.5, 1.9)
        return [
            solid(CYLINDER, 0.16, 0.16, 0, height, pole),
            solid(SPHERE, radius, radius, height, height + 2 * radius, (glow, glow), emissive=1.0),
        ]
    if kind == PILLAR:
        return [solid(CYLINDER, radius, radius, 0, room_height - 0.25, band=rng.uniform(0.7, 1.0))]
    if kind == CRATE:
        half = radius / np.sqrt(2)
        return [solid(BOX, half, half, 0, rng.uniform(0.9, 1.2))]
    if kind == OBELISK:
        half = radius / np.sqrt(2)
        return [solid(BOX, half, half, 0, rng.uniform(2.0, 2.6), band=rng.uniform(0.7, 0.9))]
    if kind == DISC:
        return [solid(CYLINDER, radius, radius, 0, rng.uniform(0.3, 0.45))]
    if kind == CONE_MARK:
        return [solid(CONE, radius, radius, 0, rng.uniform(1.7, 2.3), band=0.75)]
    if kind == BALL:
        return [solid(SPHERE, radius, radius, 0, 2 * radius)]
    trunk = oklch(0.45, 0.05, 0.15), oklch(0.5, 0.05, 0.15)
    return [
        solid(CYLINDER, 0.17, 0.17, 0, 1.0, trunk),
        solid(SPHERE, radius, radius, 0.85, 0.85 + 2 * radius),
    ]


def _spawn_turn(spawn, landmarks, walls) -> int:
    """The heading, of TURNS, that shows the most landmarks and the longest view."""
    best, best_score = 0, -np.inf
    for turn in range(TURNS):
        forward = np.array([np.cos(2 * np.pi * turn / TURNS), np.sin(2 * np.pi * turn / TURNS)])
        offset = landmarks[:, :2] - spawn
        cosine = offset @ forward / np.linalg.norm(offset, axis=1)
        visible = np.clip((cosine - 0.72) / 0.12, 0, 1).sum()
        closing = -walls[:, [WALL_NX, WALL_NY]] @ forward
        gap = _wall_distance(walls, spawn)
        view = min(g / c for g, c in zip(gap, closing, strict=True) if c > 1e-6)
        if visible + 0.15 * view > best_score:
            best, best_score = turn, visible + 0.15 * view
    return best


# ---------------------------------------------------------------- baked light


def _bake(walls, solids, landmarks, scene, corners) -> np.ndarray:
    """The light map [GRID, GRID, 3] (rows follow y); also writes the glow that each solid receives."""
    low, high = corners.min(0) - 0.3, corners.max(0) + 0.3
    step = float((high - low).max()) / (GRID - 1)
    scene[[GRID_X, GRID_Y, GRID_STEP]] = *low, step
    xs, ys = np.meshgrid(low[0] + step * np.arange(GRID), low[1] + step * np.arange(GRID))
    points = np.stack([xs, ys], axis=-1)
    distance = np.maximum(_wall_distance(walls, points), 0)
    corner_dark = (1 - 0.34 * np.exp(-distance / 0.45)).prod(-1)
    shade = corner_dark.copy()
    light = scene[[LIGHT_X, LIGHT_Y]]
    for (x, y, radius), height in zip(landmarks, _tops(landmarks, solids), strict=True):
        # A soft capsule: contact darkness under the landmark, drawn out away from the light.
        reach = min(0.45 * height, 1.1)
        offset = points - (x, y)
        along = np.clip(-(offset @ light), 0, reach)
        gap = np.linalg.norm(offset + along[..., None] * light, axis=-1) - 0.85 * radius
        fade = 1 - 0.5 * along / reach
        shade *= 1 - 0.46 * fade * np.exp(-np.maximum(gap, 0) / 0.28)
    glow = _glow(points, scene)
    for solid in solids:
        solid[SOLID_GLOW] = _glow(solid[[SOLID_X, SOLID_Y]], scene)
    return np.stack([shade, glow, 0.35 + 0.65 * corner_dark], axis=-1)


def _tops(landmarks, solids):
    return [max(s[SOLID_TOP] for s in solids if s[SOLID_X] == x and s[SOLID_Y] == y) for x, y, _ in landmarks]


def _glow(points, scene):
    """Light of the lamp at floor points [..., 2]: 1 at the lamp, falling off over some metres."""
    offset = points - scene[[LAMP_X, LAMP_Y]]
    return 1 / (1 + (offset**2).sum(-1) / 2.2)
