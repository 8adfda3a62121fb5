"""Drawing a map: what each stroke does to the four pictures, and what a neural game makes of them."""

import cv2
import gymnasium
import numpy as np
import pytest
from script import down, play

import game.register  # noqa: F401 (registers the worlds)
from game.actions import KEEP_KEYS
from game.draw import plan as planning
from game.draw.map_canvas import BUTTONS, ROOM_BOXES, tile_at
from game.draw.plan import BURROW, KEPT, Plan, PlanError
from game.play.keyboard import Event
from game.record.recorder import Recorder
from game.record.replay import Replay
from game.worlds.keep_rooms import CRATE, FLOOR, RUG, WALL, make_keep
from world_model.episode import Session, find_sessions
from world_model.play.maps import repainted
from world_model.play.neural_game import NeuralGame

NOTHING = np.zeros(len(KEEP_KEYS), np.int8)


def changed(before: np.ndarray, after: np.ndarray) -> set[tuple[int, int, int]]:
    """Tiles (room, row, column) that look otherwise."""
    tiles = (before != after).any(-1).reshape(4, 8, 8, 8, 8).any((2, 4))
    return {tuple(map(int, at)) for at in np.argwhere(tiles)}


def test_a_plan_begins_as_the_keep_that_it_is_of():
    assert np.array_equal(Plan.of_seed(7).pictures(), make_keep(7).pictures)


def test_a_stroke_changes_its_tile_and_is_taken_back():
    plan = Plan.of_seed(7)
    before = plan.pictures()
    assert plan.put((0, 3, 3), CRATE)
    assert (0, 3, 3) in changed(before, plan.pictures()) <= {(0, 3, 3), (0, 4, 3)}  # and the shadow beneath
    assert not plan.put((0, 3, 3), CRATE)
    plan.put((0, 3, 4), CRATE)
    plan.put((0, 3, 5), CRATE, begins=False)
    plan.put((0, 3, 3), KEPT)
    assert (0, 3, 3) not in changed(before, plan.pictures())  # as it was
    assert plan.undo() and plan.undo() and plan.undo() and not plan.undo()
    assert np.array_equal(plan.pictures(), before)


@pytest.mark.parametrize(("at", "beyond"), [((0, 6, 7), (1, 6, 0)), ((1, 6, 0), (0, 6, 7)), ((0, 7, 6), (2, 0, 6)),
                                            ((3, 0, 1), (1, 7, 1))])  # fmt: skip
def test_a_doorway_opens_on_both_sides(at, beyond):
    plan = Plan.of_seed(0)
    plan.put(at, WALL)
    walled = plan.pictures()
    plan.put(at, FLOOR)
    assert {at, beyond} <= changed(walled, plan.pictures())
    plan.put(beyond, WALL)
    assert np.array_equal(walled, plan.pictures())


@pytest.mark.parametrize("at", [(0, 0, 3), (0, 3, 0), (0, 0, 0), (0, 7, 7), (3, 7, 2), (1, 2, 7), (2, 4, 0)])
def test_the_outer_walls_stay_closed(at):
    plan = Plan.of_seed(0)
    assert not plan.put(at, FLOOR) and not plan.fill(at, FLOOR)


def test_filling_stays_inside_what_is_alike_and_the_walls():
    plan = Plan.of_pictures(np.full((4, 64, 64, 3), 90, np.uint8))
    for row in range(1, 7):
        plan.put((0, row, 3), CRATE)
    before = plan.pictures()
    assert plan.fill((0, 2, 1), RUG)
    assert changed(before, plan.pictures()) == {(0, row, column) for row in range(1, 7) for column in (1, 2)}


def test_mirroring_twice_is_nothing_and_there_is_one_burrow():
    plan = Plan.of_seed(3)
    before = plan.pictures()
    assert plan.mirror(1) and changed(before, plan.pictures())
    plan.mirror(1)
    assert np.array_equal(before, plan.pictures())
    plan.put((1, 1, 1), BURROW)
    once = plan.pictures()
    plan.put((1, 6, 6), BURROW)
    assert {(1, 1, 1), (1, 6, 6)} <= changed(once, plan.pictures())
    other = Plan.of_seed(3)
    other.recolour(2)
    assert {room for room, _, _ in changed(before, other.pictures())} == {2}


def test_pictures_of_any_size_are_read_and_saved_again(tmp_path):
    wide = np.random.default_rng(0).integers(0, 255, (128, 300, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    pictures = planning.read([tmp_path / "wide.png"] * 4, (64, 64))
    assert pictures.shape == (4, 64, 64, 3)
    middle = wide[:, 86:214, ::-1].astype(float).reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(pictures[0] - middle).max() <= 1
    planning.save(tmp_path / "map", pictures)
    assert np.array_equal(planning.read([tmp_path / "map" / f"{i}.png" for i in range(4)], (64, 64)), pictures)
    (tmp_path / "no.png").write_text("no picture")
    for path in (tmp_path / "no.png", tmp_path / "none.png", tmp_path):
        with pytest.raises(PlanError, match="no picture"):
            planning.read([path], (64, 64))


@pytest.mark.parametrize("light", [(1.0, 0.0), (0.4, 12.0)])
def test_another_map_is_painted_under_the_sprites(light):
    old, new = make_keep(1).pictures[0], make_keep(2).pictures[3]

    def shown(picture: np.ndarray) -> np.ndarray:
        frame = np.round(picture * light[0] + light[1]).astype(np.uint8)
        frame[20:28, 30:38] = (250, 10, 200)
        return frame

    assert np.abs(repainted(shown(old), old, new).astype(int) - shown(new)).max() <= 1
    fog = np.random.default_rng(0).integers(0, 255, old.shape, np.uint8)
    assert np.array_equal(repainted(fog, old, new), fog)


# ---------------------------------------------------------------- in the game


@pytest.fixture(scope="module")
def neural() -> NeuralGame:
    return NeuralGame("keep", device="cpu")


def centre(tile: tuple[int, int, int]) -> tuple[float, float]:
    """Where a tile is on the map canvas."""
    room, row, column = tile
    box = ROOM_BOXES[room]
    return box.x + (column + 0.5) / 8 * box.width, box.y + (row + 0.5) / 8 * box.height


def button(name: str) -> tuple[float, float]:
    box = BUTTONS[name]
    return box.x + box.width / 2, box.y + box.height / 2


def test_the_canvas_has_its_boxes_where_they_are_drawn():
    for room, row, column in ((0, 0, 0), (1, 3, 6), (2, 7, 7), (3, 5, 1)):
        assert tile_at(*centre((room, row, column))) == (room, row, column)
    assert tile_at(*button("crate")) is None and tile_at(-1, -1) is None
    boxes = [*BUTTONS.values(), *ROOM_BOXES]
    assert all(min(box.x, box.y) >= 0 and max(box.x + box.width, box.y + box.height) <= 1 for box in boxes)
    for box in boxes:
        assert [other.holds(box.x + 1e-6, box.y + 1e-6) for other in boxes].count(True) == 1


def test_other_sinks_are_the_ones_that_priming_gives(neural):
    neural.reset(seed=1)
    neural.step(NOTHING)
    before, other = neural.get_state(), neural.place(2)
    neural.redraw(other)
    after = neural.get_state()
    neural.reset(seed=1, options={"anchors": other})
    primed = neural.get_state()
    sinks = 4 * 64 * 64 // 2**2 // neural.config.transformer.patch**2
    for name in ("rolling.keys", "rolling.values"):
        np.testing.assert_allclose(after[name][:, :, :, :sinks], primed[name][:, :, :, :sinks], atol=1e-4)
        assert np.array_equal(after[name][:, :, :, sinks:], before[name][:, :, :, sinks:])
    assert np.array_equal(after["rolling.sinks"], primed["rolling.sinks"])
    assert np.array_equal(after["rolling.window"], before["rolling.window"])


def test_a_stroke_is_in_the_picture_and_stays_when_walked_over(neural, tmp_path):
    """Drawn, recorded on both sides of the stroke, and still there after the hero has been elsewhere."""
    draws = [Event("press", where=button("rug")), Event("press", where=centre((0, 5, 5))), Event("let_go")]
    plan = {1: down("tab"), 3: draws, 5: down("d"), 14: [Event("up", "d"), *down("w")], 20: down("escape")}
    source = Recorder(neural, tmp_path, world="keep")
    screen = play(source, plan, source)
    drawn = screen.huds[-1].canvas.pictures[0]
    tile = slice(40, 48), slice(40, 48)
    first = neural.place(0)[0]
    assert not np.array_equal(drawn[tile], first[tile])
    assert np.array_equal(screen.shown[2][tile], first[tile]) and np.array_equal(screen.shown[4][tile], drawn[tile])
    assert np.array_equal(screen.shown[-1][tile], drawn[tile])
    assert np.array_equal(screen.huds[-1].anchors[0], drawn)
    source.stop()
    sessions = [Session.open(path) for path in find_sessions(tmp_path)]
    assert len(sessions) == 2
    for session in sessions:
        replay = Replay(neural, session)
        replay.reset()
        for action in session.actions[1:]:
            replay.step(action)
        assert replay.verdict.holds


def test_a_pinned_view_is_a_sink_from_then_on(neural):
    screen = play(neural, {4: down("g"), 8: down("escape")})
    pinned = screen.huds[-1].anchors
    assert sum(np.array_equal(pinned[0], frame) for frame in screen.shown) >= 1
    assert not np.array_equal(pinned[0], neural.place(0)[0]) and np.array_equal(pinned[1:], neural.place(0)[1:])


def test_time_runs_back_through_another_map(neural):
    """Tick by tick the same pictures and maps as on the way there."""
    screen = play(neural, {1: down("d"), 6: down("t"), 12: down("backspace"), 30: down("escape")})
    back = [hud.rewound is not None for hud in screen.huds].index(True)
    moments = [(frame, hud.anchors) for frame, hud in zip(screen.shown, screen.huds, strict=True)]
    assert not np.array_equal(moments[0][1], moments[back - 1][1]) and back > 10
    for before, again in zip(moments[back - 2 :: -1], moments[back:], strict=False):
        assert all(map(np.array_equal, before, again))
    assert screen.huds[-1].behind == 0 and np.array_equal(screen.shown[-1], screen.shown[0])


def test_the_real_game_is_not_drawn():
    game = gymnasium.make("rollplay/Keep-v0", disable_env_checker=True)
    screen = play(game, {2: down("tab", "t"), 4: down("escape")})
    assert screen.huds[-1].canvas is None and "neural" in screen.huds[-1].notice
