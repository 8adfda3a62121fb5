"""The fast renderer of the arena: one ray for each column, analytic patterns and edges for each pixel.

``render_batch`` draws many rooms in one call. Screen rows grow downwards and the camera never
pitches, so at perpendicular depth p a height h lies on row H/2 + focal * (eye - h) / p: walls and
landmarks are spans of rows, floor and roof fill the rest. Edges are antialiased by the share of the
pixel that they cover, patterns by their distance to the pattern's edge over the pixel's footprint.
No fastmath: the same pose gives the same bytes in every process.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from game.worlds import rooms as R
from game.worlds.rooms import Rooms

# Columns of a pose.
X, Y, HEADING, EYE, LIGHTS, POSE_FIELDS = 0, 1, 2, 3, 4, 5
DEPTH = 3  # index in a column's pixel, after the colours
FIELD_OF_VIEW = math.pi / 2  # horizontal: four anchors a quarter turn apart see the whole room
SUBRAYS = 4
NIGHT = np.array([0.26, 0.31, 0.46], np.float32)  # ambient light with the lights off, as a share of the day's
LAMP_DAY, LAMP_NIGHT = np.float32(0.16), np.float32(0.85)
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)

_fast = njit(cache=True, inline="never", error_model="numpy")
_inline = njit(cache=True, error_model="numpy")


def render_batch(rooms: Rooms, poses: np.ndarray, out: np.ndarray, depths: np.ndarray | None = None) -> np.ndarray:
    """Draw room b from pose b, for every b, into ``out`` and return it.

    poses: float32 [B, 5] (x, y, heading in radians, eye height, 1.0 for lights on);
    out: uint8 [B, H, W, 3]; depths: float32 [B, H, W], every pixel's depth, metres along the view direction.
    """
    depths = np.empty((0, 0, 0), np.float32) if depths is None else depths
    if not len(poses) == len(out) == len(rooms.scene):
        raise ValueError(f"{len(rooms.scene)} rooms, {len(poses)} poses and {len(out)} frames: not one each")
    _render_all(*rooms[:4], np.ascontiguousarray(poses, np.float32), NIGHT, out, depths)
    return out


@_fast
def _render_all(walls, solids, scenes, lights, poses, night, out, depths):
    column = np.zeros((out.shape[1], 4), np.float32)  # red, green, blue and depth
    for b in range(len(poses)):
        ambient, lamp = _illuminate(scenes[b], poses[b, LIGHTS] > HALF, night)
        _render_frame(
            walls[b], solids[b], scenes[b], lights[b], poses[b], ambient, lamp, column, out[b], depths[b : b + 1]
        )


@_inline
def _illuminate(scene, on, night):
    """Ambient light and lamp light as RGB factors."""
    r, g, b = _rgb(scene, R.TINT)
    ambient = (r, g, b) if on else (r * night[0], g * night[1], b * night[2])
    r, g, b = _rgb(scene, R.GLOW_COLOR)
    strength = LAMP_DAY if on else LAMP_NIGHT
    return ambient, (r * strength, g * strength, b * strength)


@_fast
def _render_frame(walls, solids, scene, light, pose, ambient, lamp, column, out, depths):
    height, width = out.shape[0], out.shape[1]
    focal = np.float32(width / 2 / math.tan(FIELD_OF_VIEW / 2))
    fx, fy = np.float32(math.cos(pose[HEADING])), np.float32(math.sin(pose[HEADING]))
    order = _far_to_near(solids, scene, pose)
    half = np.float32(width) * HALF
    left = _wall_of_ray(walls, scene, pose, fx, fy, -half / focal)
    for x in range(width):
        edge = np.float32(x) - half  # the column spans edge .. edge + 1 from the middle of the screen
        slope = (edge + HALF) / focal
        dx, dy = fx + slope * fy, fy - slope * fx
        right = _wall_of_ray(walls, scene, pose, fx, fy, (edge + ONE) / focal)
        depth = min(_depth(walls[left], pose, dx, dy), _depth(walls[right], pose, dx, dy))
        _draw_floor(scene, light, pose, dx, dy, fx, fy, depth, focal, ambient, lamp, column)
        _draw_roof(scene, light, pose, dx, dy, fx, fy, depth, focal, ambient, column)
        _draw_wall(walls[left], scene, pose, dx, dy, fx, fy, depth, focal, ambient, lamp, ONE, column)
        if left != right:
            share = _share_of_right(walls, scene, pose, fx, fy, focal, left, right, edge)
            _draw_wall(walls[right], scene, pose, dx, dy, fx, fy, depth, focal, ambient, lamp, share, column)
        for i in order:
            _draw_solid(solids[i], scene, pose, dx, dy, fx, fy, slope, focal, ambient, lamp, column)
        if len(depths):
            depths[0, :, x] = column[:, DEPTH]
        for y in range(height):
            for c in range(3):
                value = column[y, c] * np.float32(255) + HALF
                out[y, x, c] = np.uint8(min(max(value, ZERO), np.float32(255)))
        left = right


# ---------------------------------------------------------------- small parts


@_inline
def _clip01(value):
    return min(max(value, ZERO), ONE)


@_inline
def _cover(column, y, cover, p, r, g, b):
    """Lay a colour at depth p over a pixel: ``cover`` is the share of the pixel that it takes."""
    if cover >= HALF:
        column[y, DEPTH] = p
    if cover >= ONE:
        column[y, 0], column[y, 1], column[y, 2] = r, g, b
        return
    column[y, 0] += cover * (r - column[y, 0])
    column[y, 1] += cover * (g - column[y, 1])
    column[y, 2] += cover * (b - column[y, 2])


@_inline
def _dimming(distance):
    """Nearer is brighter: the depth cue."""
    return max(np.float32(1.06) - np.float32(0.032) * distance, np.float32(0.6))


@_inline
def _wave(u, footprint):
    """Square wave of period 2 (1 on [0, 1), 0 on [1, 2)), antialiased over ``footprint``."""
    phase = (u - HALF) * HALF
    edge = HALF - abs((phase - np.floor(phase)) * TWO - ONE)
    return _clip01(HALF - edge / max(footprint, np.float32(1e-4)))


@_inline
def _fold(u):
    """Distance of u to the middle of its unit cell, in cells: 0 .. 0.5."""
    return abs(u - np.floor(u) - HALF)


@_inline
def _far_to_near(solids, scene, pose):
    """Indices of the solids, farthest first (by tangent length, exact for discs that stand apart)."""
    count = int(scene[R.SOLID_COUNT])
    order, power = np.empty(count, np.int64), np.empty(count, np.float32)
    for i in range(count):
        dx, dy = solids[i, R.SOLID_X] - pose[X], solids[i, R.SOLID_Y] - pose[Y]
        radius = solids[i, R.SOLID_A]
        key = dx * dx + dy * dy - radius * radius
        j = i
        while j > 0 and power[j - 1] < key:
            order[j], power[j] = order[j - 1], power[j - 1]
            j -= 1
        order[j], power[j] = i, key
    return order


@_inline
def _wall_of_ray(walls, scene, pose, fx, fy, slope):
    """Index of the wall that a ray meets first, from inside the convex room."""
    dx, dy = fx + slope * fy, fy - slope * fx
    best, nearest = 0, np.float32(1e9)
    for i in range(int(scene[R.WALL_COUNT])):
        closing = -(dx * walls[i, R.WALL_NX] + dy * walls[i, R.WALL_NY])
        if closing > np.float32(1e-6):
            gap = (pose[X] - walls[i, R.WALL_X]) * walls[i, R.WALL_NX]
            gap += (pose[Y] - walls[i, R.WALL_Y]) * walls[i, R.WALL_NY]
            if gap < nearest * closing:
                best, nearest = i, gap / closing
    return best


@_inline
def _depth(wall, pose, dx, dy):
    """Perpendicular depth at which a ray meets a wall's plane; very far where it never does."""
    closing = -(dx * wall[R.WALL_NX] + dy * wall[R.WALL_NY])
    gap = (pose[X] - wall[R.WALL_X]) * wall[R.WALL_NX] + (pose[Y] - wall[R.WALL_Y]) * wall[R.WALL_NY]
    return gap / closing if closing > np.float32(1e-5) else np.float32(1e5)


@_inline
def _share_of_right(walls, scene, pose, fx, fy, focal, left, right, edge):
    """Share of a column that shows the right one of two walls: what lies beyond their corner."""
    following = (right + 1) % int(scene[R.WALL_COUNT])
    corner = left if following == left else right
    ox, oy = walls[corner, R.WALL_X] - pose[X], walls[corner, R.WALL_Y] - pose[Y]
    depth, side = ox * fx + oy * fy, ox * fy - oy * fx
    if depth < np.float32(1e-3):
        return HALF
    return _clip01(edge + ONE - focal * side / depth)


# ---------------------------------------------------------------- floor and roof


@_inline
def _cell(g):
    """Cell and place within it of a light map coordinate: (index, 0 .. 1)."""
    g = min(max(g, ZERO), np.float32(R.GRID - 1.001))
    index = np.int32(g)
    return index, g - np.float32(index)


@_inline
def _bilinear(light, i, j, u, v, channel):
    top = light[i, j, channel] + u * (light[i, j + 1, channel] - light[i, j, channel])
    low = light[i + 1, j, channel] + u * (light[i + 1, j + 1, channel] - light[i + 1, j, channel])
    return top + v * (low - top)


@_inline
def _mix(first, second, ambient, mask, shade):
    """Both colours mixed by mask, under a shade of ambient light."""
    return (first + mask * (second - first)) * (shade * ambient)


@_inline
def _rgb(row, field):
    return row[field], row[field + 1], row[field + 2]


@_inline
def _floor_mask(kind, u, v, wu, wv):
    """Share of the second colour at (u, v), measured in cells; wu and wv are the pixel's footprint."""
    if kind == R.FLOOR_CHECKS:
        a, b = _wave(u, wu), _wave(v, wv)
        return a + b - TWO * a * b
    if kind == R.FLOOR_STRIPES:
        return _wave(u, wu)
    if kind == R.FLOOR_RINGS:
        return _wave(math.sqrt(u * u + v * v), wu + wv)
    if kind == R.FLOOR_TILES:
        # Squares turned by 45 degrees inside every other cell.
        edge = np.float32(0.36) - _fold(u * HALF) - _fold(v * HALF)
        return _clip01(HALF + TWO * edge / max(wu + wv, np.float32(1e-4)))
    return ZERO


@_inline
def _frame_of_pattern(scene, scale, dx, dy, fx, fy, focal):
    """Axes of the floor's (u, v) pattern in cells, and how fast u and v run along and across a column's ray."""
    eu, ev = scene[R.FLOOR_COS] / scale, scene[R.FLOOR_SIN] / scale
    along = abs(dx * eu + dy * ev), abs(dy * eu - dx * ev)
    across = abs(fy * eu - fx * ev) / focal, abs(fx * eu + fy * ev) / focal
    return eu, ev, along, across


@_inline
def _draw_floor(scene, light, pose, dx, dy, fx, fy, depth, focal, ambient, lamp, column):
    half, drop = np.float32(len(column)) * HALF, focal * pose[EYE]
    kind = int(scene[R.FLOOR_PATTERN])
    eu, ev, along, across = _frame_of_pattern(scene, scene[R.FLOOR_SCALE], dx, dy, fx, fy, focal)
    length, cell, shift = math.sqrt(dx * dx + dy * dy), ONE / scene[R.GRID_STEP], scene[R.FLOOR_SHIFT]
    px, py, gx, gy = pose[X], pose[Y], scene[R.GRID_X], scene[R.GRID_Y]
    r1, g1, b1 = _rgb(scene, R.FLOOR_COLOR)
    r2, g2, b2 = _rgb(scene, R.FLOOR_COLOR2)
    ra, ga, ba = ambient
    rl, gl, bl = lamp
    for y in range(max(int(half + drop / depth - ONE), len(column) // 2), len(column)):
        p = drop / max(np.float32(y) + HALF - half, np.float32(0.25))
        wx, wy = px + p * dx, py + p * dy
        stretch = p * p / drop
        wu, wv = along[0] * stretch + across[0] * p, along[1] * stretch + across[1] * p
        mask = _floor_mask(kind, wx * eu + wy * ev + shift, wy * eu - wx * ev, wu, wv)
        j, u = _cell((wx - gx) * cell)
        i, v = _cell((wy - gy) * cell)
        shade = _bilinear(light, i, j, u, v, 0) * _dimming(p * length)
        glow = _bilinear(light, i, j, u, v, 1)
        column[y, 0] = _mix(r1, r2, ra + glow * rl, mask, shade)
        column[y, 1] = _mix(g1, g2, ga + glow * gl, mask, shade)
        column[y, 2] = _mix(b1, b2, ba + glow * bl, mask, shade)
        column[y, DEPTH] = p


@_inline
def _draw_roof(scene, light, pose, dx, dy, fx, fy, depth, focal, ambient, column):
    half, rise = np.float32(len(column)) * HALF, focal * (scene[R.ROOM_HEIGHT] - pose[EYE])
    last = max(min(int(half - rise / depth + TWO), (len(column) + 1) // 2), 0)
    kind = int(scene[R.ROOF_PATTERN])
    if kind == R.ROOF_SKY:
        _draw_sky(scene, dx, dy, depth, focal, ambient, column, last)
        return
    eu, ev, along, across = _frame_of_pattern(scene, scene[R.ROOF_SCALE], dx, dy, fx, fy, focal)
    length, cell = math.sqrt(dx * dx + dy * dy), ONE / scene[R.GRID_STEP]
    px, py, gx, gy = pose[X], pose[Y], scene[R.GRID_X], scene[R.GRID_Y]
    r1, g1, b1 = _rgb(scene, R.ROOF_COLOR)
    r2, g2, b2 = _rgb(scene, R.ROOF_COLOR2)
    ra, ga, ba = ambient
    for y in range(last):
        p = rise / max(half - np.float32(y) - HALF, np.float32(0.25))
        wx, wy = px + p * dx, py + p * dy
        stretch = p * p / rise
        mask = ZERO
        if kind != R.ROOF_PLAIN:
            mask = _wave(wx * eu + wy * ev, along[0] * stretch + across[0] * p)
        if kind == R.ROOF_PANELS:
            mask *= _wave(wy * eu - wx * ev, along[1] * stretch + across[1] * p)
        j, u = _cell((wx - gx) * cell)
        i, v = _cell((wy - gy) * cell)
        shade = _bilinear(light, i, j, u, v, 2) * _dimming(p * length)
        column[y, 0] = _mix(r1, r2, ra, mask, shade)
        column[y, 1] = _mix(g1, g2, ga, mask, shade)
        column[y, 2] = _mix(b1, b2, ba, mask, shade)
        column[y, DEPTH] = p


@_inline
def _draw_sky(scene, dx, dy, depth, focal, ambient, column, last):
    """A gradient by elevation, brighter around the light's direction. Its depth is the wall's, so that a warped view
    has no parallax between wall and sky."""
    half, length = np.float32(len(column)) * HALF, math.sqrt(dx * dx + dy * dy)
    warm = max((dx * scene[R.LIGHT_X] + dy * scene[R.LIGHT_Y]) / length, ZERO)
    warm = np.float32(0.12) * warm * warm
    r1, g1, b1 = _rgb(scene, R.ROOF_COLOR)
    r2, g2, b2 = _rgb(scene, R.ROOF_COLOR2)
    ra, ga, ba = ambient
    steep = np.float32(1.25) / (focal * length)
    for y in range(last):
        mix = _clip01(steep * (half - np.float32(y) - HALF))
        mix = mix * (TWO - mix)
        pale = warm * (ONE - mix)
        r, g, b = r1 + mix * (r2 - r1), g1 + mix * (g2 - g1), b1 + mix * (b2 - b1)
        column[y, 0] = (r + pale * (ONE - r)) * ra
        column[y, 1] = (g + pale * (ONE - g)) * ga
        column[y, 2] = (b + pale * (ONE - b)) * ba
        column[y, DEPTH] = depth


# ---------------------------------------------------------------- walls


@_inline
def _wall_mask(kind, u, v, scale, shift, wu, wv):
    """Share of the second colour at u along and v up the wall (metres); wu, wv: the pixel's footprint."""
    if kind == R.WAINSCOT:
        return _clip01(HALF + (scale - v) / wv)
    if kind == R.STRIPES:
        return _wave(u / scale, wu / scale)
    if kind == R.CHECKS:
        a, b = _wave(u / scale, wu / scale), _wave(v / scale, wv / scale)
        return a + b - TWO * a * b
    if kind == R.BANDS:
        return _wave(v / scale + shift, wv / scale)
    if kind == R.DIAGONAL:
        s = np.float32(0.7071) / scale
        return _wave((u + v) * s + shift, (wu + wv) * s)
    middle = scale * _fold(u / scale)  # metres from the middle of the cell
    if kind == R.PANELS:
        across = np.float32(0.32) * scale - middle
        up = np.float32(0.85) - abs(v - np.float32(1.45))
        return _clip01(HALF + across / wu) * _clip01(HALF + up / wv)
    if kind == R.CIRCLES:
        h = v - np.float32(1.6)
        edge = np.float32(0.36) * scale - math.sqrt(middle * middle + h * h)
        return _clip01(HALF + edge / max(wu, wv))
    if kind == R.ARCHES:
        half = np.float32(0.3) * scale
        h = max(v - np.float32(1.5), ZERO)
        edge = half - math.sqrt(middle * middle + h * h)
        return _clip01(HALF + edge / max(wu, wv))
    return ZERO


@_inline
def _corner_shade(distance):
    """Darkening toward an edge where two surfaces meet: 0.72 at the edge, 1 from 0.7 m on."""
    t = ONE - min(max(distance, ZERO) * np.float32(1 / 0.7), ONE)
    return ONE - np.float32(0.28) * t * t


@_inline
def _draw_wall(wall, scene, pose, dx, dy, fx, fy, depth, focal, ambient, lamp, alpha, column):
    height = len(column)
    closing = max(-(dx * wall[R.WALL_NX] + dy * wall[R.WALL_NY]), np.float32(1e-3))
    p, wv = depth, depth / focal
    hx, hy = pose[X] + p * dx, pose[Y] + p * dy
    u = (hx - wall[R.WALL_X]) * wall[R.WALL_TX] + (hy - wall[R.WALL_Y]) * wall[R.WALL_TY]
    u = min(max(u, ZERO), wall[R.WALL_LENGTH])
    # du/dx of the hit point p * d, where p = gap / closing moves with the column too.
    turn = (fy * wall[R.WALL_NX] - fx * wall[R.WALL_NY]) / closing
    wu = wv * abs((dx * turn + fy) * wall[R.WALL_TX] + (dy * turn - fx) * wall[R.WALL_TY])
    shade = wall[R.WALL_LIT] * _dimming(p * math.sqrt(dx * dx + dy * dy))
    shade *= _corner_shade(u) * _corner_shade(wall[R.WALL_LENGTH] - u)
    hx, hy = hx - scene[R.LAMP_X], hy - scene[R.LAMP_Y]
    glow = ONE / (ONE + (hx * hx + hy * hy) / np.float32(2.2))
    room, base, eye = scene[R.ROOM_HEIGHT], HALF * np.float32(height), pose[EYE]
    top, bottom = base - (room - eye) / wv, base + eye / wv
    kind, sky = int(wall[R.WALL_PATTERN]), int(scene[R.ROOF_PATTERN]) == R.ROOF_SKY
    scale, shift = wall[R.WALL_SCALE], wall[R.WALL_SHIFT]
    r1, g1, b1 = _rgb(wall, R.WALL_COLOR)
    r2, g2, b2 = _rgb(wall, R.WALL_COLOR2)
    ra, ga, ba = ambient[0] + glow * lamp[0], ambient[1] + glow * lamp[1], ambient[2] + glow * lamp[2]
    for y in range(max(int(np.floor(top)), 0), min(int(np.ceil(bottom)), height)):
        cover = alpha * min(min(np.float32(y) + ONE, bottom) - max(np.float32(y), top), ONE)
        v = eye + (base - np.float32(y) - HALF) * wv
        mask = _wall_mask(kind, u, v, scale, shift, wu, wv)
        s = shade * _corner_shade(v)
        if not sky:
            s *= _corner_shade(room - v)
        r, g, b = _mix(r1, r2, ra, mask, s), _mix(g1, g2, ga, mask, s), _mix(b1, b2, ba, mask, s)
        _cover(column, y, cover, p, r, g, b)


# ---------------------------------------------------------------- landmarks


@_inline
def _draw_solid(solid, scene, pose, dx, dy, fx, fy, slope, focal, ambient, lamp, column):
    """Draw one solid into the column, if the column's ray comes near it."""
    ox, oy = pose[X] - solid[R.SOLID_X], pose[Y] - solid[R.SOLID_Y]
    depth = -(ox * fx + oy * fy)
    squared = dx * dx + dy * dy
    middle = -(ox * dx + oy * dy) / squared
    radius = solid[R.SOLID_A]
    kind = int(solid[R.SOLID_KIND])
    if kind == R.BOX:
        radius = math.sqrt(radius * radius + solid[R.SOLID_B] * solid[R.SOLID_B])
    aside = math.sqrt(max(ox * ox + oy * oy - middle * middle * squared, ZERO))
    footprint = middle / (focal * math.sqrt(squared))
    if depth < -radius or middle <= ZERO or aside > radius + footprint:
        return
    if kind == R.BOX:
        _draw_box(solid, scene, pose, fx, fy, slope, focal, ambient, lamp, column)
    elif kind == R.CYLINDER:
        _draw_cylinder(solid, scene, pose, dx, dy, middle, aside, footprint, focal, ambient, lamp, column)
    else:
        _draw_round(solid, scene, pose, dx, dy, middle, aside, radius, focal, ambient, lamp, column)


@_inline
def _lambert(scene, nx, ny, nz):
    """Half-Lambert shade under the room's light, which comes from one side and above."""
    facing = np.float32(0.66) * (nx * scene[R.LIGHT_X] + ny * scene[R.LIGHT_Y]) + np.float32(0.75) * nz
    return np.float32(0.84) + np.float32(0.26) * facing


@_inline
def _paint(solid, column, y, cover, p, mask, shade, ambient, lamp):
    """Blend one pixel of a solid at depth p; an emissive one keeps its own brightness when the lights go off."""
    own, glow = solid[R.SOLID_EMISSIVE], solid[R.SOLID_GLOW]
    light = (ambient[0] + glow * lamp[0], ambient[1] + glow * lamp[1], ambient[2] + glow * lamp[2])
    r1, g1, b1 = _rgb(solid, R.SOLID_COLOR)
    r2, g2, b2 = _rgb(solid, R.SOLID_COLOR2)
    r = _mix(r1, r2, light[0] + own * (ONE - light[0]), mask, shade)
    g = _mix(g1, g2, light[1] + own * (ONE - light[1]), mask, shade)
    b = _mix(b1, b2, light[2] + own * (ONE - light[2]), mask, shade)
    _cover(column, y, cover, p, r, g, b)


@_inline
def _draw_side(solid, pose, near, cover, shade, focal, ambient, lamp, column):
    """The upright side of a cylinder or box, at depth ``near``."""
    height = len(column)
    base, wv = HALF * np.float32(height), near / focal
    top = base - (solid[R.SOLID_TOP] - pose[EYE]) / wv
    bottom = base + (pose[EYE] - solid[R.SOLID_BOTTOM]) / wv
    band = solid[R.SOLID_BAND]
    for y in range(max(int(np.floor(top)), 0), min(int(np.ceil(bottom)), height)):
        share = min(min(np.float32(y) + ONE, bottom) - max(np.float32(y), top), ONE)
        v = pose[EYE] + (base - np.float32(y) - HALF) * wv
        mask = _wave(v / band + ONE, wv / band) if band > ZERO else ZERO
        _paint(solid, column, y, cover * share, near, mask, shade * _corner_shade(v), ambient, lamp)


@_inline
def _draw_lid(solid, pose, near, far, cover, shade, focal, ambient, lamp, column):
    """The flat top of a cylinder or box, between depths ``near`` and ``far``, if the eye is above it."""
    drop = pose[EYE] - solid[R.SOLID_TOP]
    if drop <= ZERO:
        return
    height = len(column)
    first = HALF * np.float32(height) + focal * drop / far
    last = HALF * np.float32(height) + focal * drop / near
    for y in range(max(int(np.floor(first)), 0), min(int(np.ceil(last)), height)):
        # Whole down to its last row: the side is laid over the rest of it, and nothing shines between them.
        share = min(np.float32(y) + ONE - first, ONE)
        p = min(max(focal * drop / (np.float32(y) + HALF - HALF * np.float32(height)), near), far)
        _paint(solid, column, y, cover * share, p, np.float32(0.75), shade, ambient, lamp)


@_inline
def _draw_cylinder(solid, scene, pose, dx, dy, middle, aside, footprint, focal, ambient, lamp, column):
    radius = solid[R.SOLID_A]
    cover = _clip01(HALF + (radius - aside) / footprint)
    half = math.sqrt(max(radius * radius - aside * aside, ZERO) / (dx * dx + dy * dy))
    near, far = middle - half, middle + half
    if cover <= ZERO or near < np.float32(0.02):
        return
    nx = (pose[X] + near * dx - solid[R.SOLID_X]) / radius
    ny = (pose[Y] + near * dy - solid[R.SOLID_Y]) / radius
    dimming = _dimming(middle * math.sqrt(dx * dx + dy * dy))
    up = dimming * _lambert(scene, ZERO, ZERO, ONE)
    _draw_lid(solid, pose, near, far, cover, up, focal, ambient, lamp, column)
    shade = dimming * _lambert(scene, nx, ny, ZERO)
    _draw_side(solid, pose, near, cover, shade, focal, ambient, lamp, column)


@_inline
def _draw_box(solid, scene, pose, fx, fy, slope, focal, ambient, lamp, column):
    """Four rays a column: the share that hit is the coverage, and their mean is drawn."""
    cos, sin = solid[R.SOLID_COS], solid[R.SOLID_SIN]
    ox, oy = pose[X] - solid[R.SOLID_X], pose[Y] - solid[R.SOLID_Y]
    bx, by = ox * cos + oy * sin, oy * cos - ox * sin
    hits, near, far, shade = 0, ZERO, ZERO, ZERO
    for k in range(SUBRAYS):
        s = slope + ((np.float32(k) + HALF) / np.float32(SUBRAYS) - HALF) / focal
        dx, dy = fx + s * fy, fy - s * fx
        enter, leave, nx, ny = _slabs(bx, by, dx * cos + dy * sin, dy * cos - dx * sin, solid)
        if leave > enter and enter > np.float32(0.02):
            hits += 1
            near += enter
            far += leave
            shade += _lambert(scene, nx * cos - ny * sin, nx * sin + ny * cos, ZERO)
    if hits == 0:
        return
    near, far, shade = near / hits, far / hits, shade / hits
    cover = np.float32(hits) / np.float32(SUBRAYS)
    dimming = _dimming(near * math.sqrt(ONE + slope * slope))
    up = dimming * _lambert(scene, ZERO, ZERO, ONE)
    _draw_lid(solid, pose, near, far, cover, up, focal, ambient, lamp, column)
    _draw_side(solid, pose, near, cover, shade * dimming, focal, ambient, lamp, column)


@_inline
def _slabs(bx, by, dx, dy, solid):
    """Enter and leave depth of a ray and a box at the origin, and the outward normal where it enters."""
    dx = dx if abs(dx) > np.float32(1e-6) else np.float32(1e-6)
    dy = dy if abs(dy) > np.float32(1e-6) else np.float32(1e-6)
    x0, x1 = (-solid[R.SOLID_A] - bx) / dx, (solid[R.SOLID_A] - bx) / dx
    y0, y1 = (-solid[R.SOLID_B] - by) / dy, (solid[R.SOLID_B] - by) / dy
    enter_x, enter_y = min(x0, x1), min(y0, y1)
    leave = min(max(x0, x1), max(y0, y1))
    if enter_x > enter_y:
        return enter_x, leave, (-ONE if dx > ZERO else ONE), ZERO
    return enter_y, leave, ZERO, (-ONE if dy > ZERO else ONE)


@_inline
def _draw_round(solid, scene, pose, dx, dy, middle, aside, radius, focal, ambient, lamp, column):
    """Spheres and cones: a quadratic for each pixel of the rows that can see them."""
    height = len(column)
    base, squared = HALF * np.float32(height), dx * dx + dy * dy
    reach = radius / math.sqrt(squared)
    near = max(middle - reach, np.float32(0.05))
    far = middle + reach
    top, bottom = solid[R.SOLID_TOP] - pose[EYE], solid[R.SOLID_BOTTOM] - pose[EYE]
    first = base - focal * (top / near if top > ZERO else top / far) - ONE
    last = base - focal * (bottom / near if bottom < ZERO else bottom / far) + ONE
    dimming = _dimming(middle * math.sqrt(squared))
    for y in range(max(int(first), 0), min(int(last) + 1, height)):
        rise = (base - np.float32(y) - HALF) / focal
        if int(solid[R.SOLID_KIND]) == R.SPHERE:
            cover, p, nx, ny, nz, v = _meet_sphere(solid, pose, dx, dy, rise, focal)
        else:
            cover, p, nx, ny, nz, v = _meet_cone(solid, pose, dx, dy, rise, middle, aside, focal)
        if cover > ZERO:
            band = solid[R.SOLID_BAND]
            mask = _wave(v / band + ONE, middle / focal / band) if band > ZERO else ZERO
            shade = dimming * _lambert(scene, nx, ny, nz)
            if solid[R.SOLID_EMISSIVE] > ZERO:
                shade = ONE
            _paint(solid, column, y, cover, p, mask, shade, ambient, lamp)


@_inline
def _meet_sphere(solid, pose, dx, dy, rise, focal):
    """(coverage, depth, outward normal, height) where a pixel's ray meets a sphere."""
    radius = solid[R.SOLID_A]
    ox, oy = pose[X] - solid[R.SOLID_X], pose[Y] - solid[R.SOLID_Y]
    oz = pose[EYE] - (solid[R.SOLID_BOTTOM] + radius)
    a = dx * dx + dy * dy + rise * rise
    t = -(ox * dx + oy * dy + oz * rise) / a
    aside = math.sqrt(max(ox * ox + oy * oy + oz * oz - t * t * a, ZERO))
    footprint = t / focal
    cover = _clip01(HALF + (radius - aside) / footprint) if t > ZERO else ZERO
    t -= math.sqrt(max(radius * radius - aside * aside, ZERO) / a)
    scale = ONE / max(radius, aside)
    return cover, t, (ox + t * dx) * scale, (oy + t * dy) * scale, (oz + t * rise) * scale, pose[EYE] + t * rise


@_inline
def _meet_cone(solid, pose, dx, dy, rise, middle, aside, focal):
    """(coverage, depth, outward normal, height) where a pixel's ray meets an upright cone."""
    ox, oy = pose[X] - solid[R.SOLID_X], pose[Y] - solid[R.SOLID_Y]
    taper = solid[R.SOLID_A] / (solid[R.SOLID_TOP] - solid[R.SOLID_BOTTOM])
    room = solid[R.SOLID_TOP] - pose[EYE]  # the radius at ray depth t is taper * (room - rise * t)
    squared, k = dx * dx + dy * dy, taper * taper
    a, b = squared - k * rise * rise, ox * dx + oy * dy + k * room * rise
    discriminant = b * b - a * (ox * ox + oy * oy - k * room * room)
    width = taper * (room - rise * middle)
    footprint = middle / focal
    inside = discriminant / (squared * max(abs(width) + aside, footprint))
    cover = _clip01(HALF + inside / footprint)
    t = (-b - math.sqrt(max(discriminant, ZERO))) / a
    z = pose[EYE] + t * rise
    cover *= _clip01(HALF + (z - solid[R.SOLID_BOTTOM]) / footprint)
    if width < -footprint or t <= ZERO or z > solid[R.SOLID_TOP] + footprint:
        cover = ZERO
    nx, ny = ox + t * dx, oy + t * dy
    scale = ONE / max(math.sqrt(nx * nx + ny * ny) * math.sqrt(ONE + k), np.float32(1e-4))
    return cover, t, nx * scale, ny * scale, taper * math.sqrt(ONE / (ONE + k)), z
