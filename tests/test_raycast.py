"""The fast renderer against a slow one: the same surface at the same distance in every pixel."""

import numpy as np
import pytest

from game.worlds import raycast
from game.worlds import rooms as R
from game.worlds.rooms import make_rooms

FLOOR, ROOF, WALL, SOLID = 0, 1, 2, 10  # surface numbers: WALL + i, SOLID + j
SIZE, FINE = 96, 3  # pixels a side; reference rays a pixel side


# ---------------------------------------------------------------- the slow renderer


def reference(rooms, pose):
    """Surface number, distance over the ground and depth straight ahead (metres) of FINE x FINE rays a pixel: three
    [288, 288]."""
    x, y, heading, eye, _ = np.asarray(pose, np.float64)
    rays = SIZE * FINE
    middle = (np.arange(rays) + 0.5 - rays / 2) / (rays / 2 / np.tan(raycast.FIELD_OF_VIEW / 2))
    right, down = np.meshgrid(middle, middle)
    forward, sideways = (np.cos(heading), np.sin(heading)), (np.sin(heading), -np.cos(heading))
    ray = np.stack([forward[0] + right * sideways[0], forward[1] + right * sideways[1], -down], axis=-1)
    origin = np.array([x, y, eye])
    walls, solids, scene = (np.asarray(a[0], np.float64) for a in (rooms.walls, rooms.solids, rooms.scene))
    hits = [_plane(origin, ray, (0, 0, 0), (0, 0, 1))]
    hits.append(_plane(origin, ray, (0, 0, scene[R.ROOM_HEIGHT]), (0, 0, -1)))
    for wall in walls[: int(scene[R.WALL_COUNT])]:
        corner, normal = (*wall[[R.WALL_X, R.WALL_Y]], 0), (*wall[[R.WALL_NX, R.WALL_NY]], 0)
        hits.append(_plane(origin, ray, corner, normal))
    numbers = [FLOOR, ROOF, *range(WALL, WALL + len(hits) - 2)]
    for index, solid in enumerate(solids[: int(scene[R.SOLID_COUNT])]):
        hits.append(_solid(origin, ray, solid))
        numbers.append(SOLID + index)
    hits = np.stack(hits)
    first = hits.argmin(0)
    depth = np.take_along_axis(hits, first[None], 0)[0]
    return np.array(numbers)[first], depth * np.linalg.norm(ray[..., :2], axis=-1), depth


def _plane(origin, ray, point, normal):
    """Ray parameter where each ray meets a one-sided plane from its front; inf where it does not."""
    closing = -(ray @ np.array(normal, float))
    gap = (origin - np.array(point, float)) @ np.array(normal, float)
    return np.where(closing > 1e-9, gap / np.where(closing > 1e-9, closing, 1), np.inf)


def _interval(enter, leave):
    return np.where((enter < leave) & (enter > 0), enter, np.inf)


def _slab(origin, ray, low, high):
    with np.errstate(divide="ignore"):
        a, b = (low - origin) / ray, (high - origin) / ray
    return np.minimum(a, b), np.maximum(a, b)


def _roots(a, b, c):
    """Both solutions of a t^2 + 2 b t + c = 0, or an empty interval."""
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0))
    return np.where(inside > 0, (-b - root) / a, np.inf), np.where(inside > 0, (-b + root) / a, -np.inf)


def _solid(origin, ray, solid):
    kind, radius = int(solid[R.SOLID_KIND]), solid[R.SOLID_A]
    bottom, top = solid[R.SOLID_BOTTOM], solid[R.SOLID_TOP]
    local = origin - np.array([*solid[[R.SOLID_X, R.SOLID_Y]], 0])
    flat = ray[..., :2]
    low, high = _slab(local[2], ray[..., 2], bottom, top)
    if kind == R.CYLINDER:
        enter, leave = _roots((flat**2).sum(-1), flat @ local[:2], local[:2] @ local[:2] - radius**2)
        return _interval(np.maximum(enter, low), np.minimum(leave, high))
    if kind == R.BOX:
        cos, sin = solid[[R.SOLID_COS, R.SOLID_SIN]]
        turn = np.array([[cos, -sin], [sin, cos]])
        enter_x, leave_x = _slab((local[:2] @ turn)[0], (flat @ turn)[..., 0], -radius, radius)
        enter_y, leave_y = _slab((local[:2] @ turn)[1], (flat @ turn)[..., 1], -solid[R.SOLID_B], solid[R.SOLID_B])
        return _interval(np.maximum(np.maximum(enter_x, enter_y), low), np.minimum(np.minimum(leave_x, leave_y), high))
    if kind == R.SPHERE:
        local = local - (0, 0, bottom + radius)
        return _interval(*_roots((ray**2).sum(-1), ray @ local, local @ local - radius**2))
    return _cone(local, ray, radius / (top - bottom), bottom, top)


def _cone(local, ray, taper, bottom, top):
    """First point on the cone below its tip; the base is never seen, because it stands on the floor."""
    flat, rise, room = ray[..., :2], ray[..., 2], top - local[2]
    a = (flat**2).sum(-1) - taper**2 * rise**2
    b = flat @ local[:2] + taper**2 * room * rise
    near, far = _roots(a, b, local[:2] @ local[:2] - taper**2 * room**2)
    best = np.full(near.shape, np.inf)
    for t in (near, far):
        z = local[2] + np.where(np.isfinite(t), t, 0) * rise
        good = np.isfinite(t) & (t > 0) & (z >= bottom) & (z <= top)
        best = np.where(good, np.minimum(best, t), best)
    return best


# ---------------------------------------------------------------- comparing


def numbered(seed):
    """The room of a seed without patterns or baked light: each surface one colour, told apart by its hue."""
    rooms = make_rooms([seed])
    walls, solids, scene = rooms.walls.copy(), rooms.solids.copy(), rooms.scene.copy()
    walls[..., R.WALL_PATTERN], walls[..., R.WALL_LIT] = R.PLAIN, 1
    scene[:, R.FLOOR_PATTERN], scene[:, R.ROOF_PATTERN] = R.FLOOR_PLAIN, R.ROOF_PLAIN
    scene[:, R.TINT : R.TINT + 3], scene[:, R.GLOW_COLOR : R.GLOW_COLOR + 3] = 1, 0
    solids[..., R.SOLID_EMISSIVE] = 0
    scene[0, R.FLOOR_COLOR : R.FLOOR_COLOR + 3], scene[0, R.ROOF_COLOR : R.ROOF_COLOR + 3] = hue(FLOOR), hue(ROOF)
    for i in range(R.MAX_WALLS):
        walls[0, i, R.WALL_COLOR : R.WALL_COLOR + 3] = hue(WALL + i)
    for i in range(R.MAX_SOLIDS):
        solids[0, i, R.SOLID_COLOR : R.SOLID_COLOR + 3] = hue(SOLID + i)
        solids[0, i, R.SOLID_COLOR2 : R.SOLID_COLOR2 + 3] = hue(SOLID + i)
    return rooms._replace(walls=walls, solids=solids, scene=scene, light=np.ones_like(rooms.light))


def hue(number):
    """24 colours whose directions in RGB differ by several degrees."""
    directions = [(0.9, g, b) for g in (0.2, 0.4, 0.6, 0.8) for b in (0.2, 0.4, 0.6, 0.8)]
    directions += [(r, 0.9, b) for r in (0.1, 0.4) for b in (0.1, 0.4, 0.7, 0.9)]
    return directions[number]


def surfaces(frame):
    palette = np.array([hue(n) for n in range(SOLID + R.MAX_SOLIDS)])
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)
    pixels = frame / np.maximum(np.linalg.norm(frame.astype(float), axis=-1, keepdims=True), 1e-9)
    return (pixels @ palette.T).argmax(-1)


def poses_in(seed, count=4):
    """Places where a player can stand, at several heights."""
    rng = np.random.default_rng(seed)
    rooms = make_rooms([seed])
    spawn = rooms.scene[0, [R.SPAWN_X, R.SPAWN_Y]]
    for _ in range(count):
        yield np.array([*(spawn + rng.uniform(-0.6, 0.6, 2)), rng.uniform(0, 6.28), rng.uniform(1.6, 2.2), 1])


def calm(number):
    """Pixels where all rays, and all rays of the eight neighbours, meet one surface: no edge is near."""
    rays = number.reshape(SIZE, FINE, SIZE, FINE).transpose(0, 2, 1, 3).reshape(SIZE, SIZE, -1)
    number = rays[..., FINE * FINE // 2]
    same = (rays == number[..., None]).all(-1)
    alike = same.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            alike &= np.roll(same, (dy, dx), (0, 1)) & (np.roll(number, (dy, dx), (0, 1)) == number)
    alike[[0, -1]] = alike[:, [0, -1]] = False
    return alike


@pytest.mark.parametrize("seed", range(8))
def test_every_pixel_shows_the_surface_that_its_ray_meets_first(seed):
    rooms = numbered(seed)
    for pose in poses_in(seed):
        drawn = np.empty((1, SIZE, SIZE), np.float32)
        frame = raycast.render_batch(rooms, pose[None], np.empty((1, SIZE, SIZE, 3), np.uint8), drawn)[0]
        fine_number, fine_distance, fine_depth = reference(rooms, pose)
        sure = calm(fine_number)
        number, distance = (fine[FINE // 2 :: FINE, FINE // 2 :: FINE] for fine in (fine_number, fine_distance))
        assert sure.mean() > 0.75
        assert (surfaces(frame)[sure] == number[sure]).all()
        # The light falls off with distance, so brightness tells it: 1.06 - 0.032 per metre, on floors.
        floor = sure & (number == FLOOR)
        brightness = frame[floor][:, 0] / 255 / hue(FLOOR)[0]
        assert np.abs((1.06 - brightness) / 0.032 - distance[floor]).max() < 0.12
        depth = fine_depth[FINE // 2 :: FINE, FINE // 2 :: FINE]
        assert np.abs(drawn[0] / depth - 1)[sure].max() < 0.03


def test_the_reference_rooms_hold_every_kind_of_solid():
    rooms = make_rooms(range(8))
    kinds = {int(s[R.SOLID_KIND]) for b in range(8) for s in rooms.solids[b][: int(rooms.scene[b, R.SOLID_COUNT])]}
    assert kinds == {R.CYLINDER, R.BOX, R.SPHERE, R.CONE}


def test_rooms_poses_and_frames_must_be_one_each():
    with pytest.raises(ValueError, match="1 rooms, 2 poses and 1 frames"):
        raycast.render_batch(make_rooms([0]), np.zeros((2, 5)), np.empty((1, 8, 8, 3), np.uint8))
