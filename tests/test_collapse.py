"""The collapse detector finds collapses that are made from real arena video, and none in real video."""

from __future__ import annotations

from functools import cache

import cv2
import gymnasium
import numpy as np
import pytest

from game.actions import ARENA_KEYS, to_action
from game.register import register_worlds
from game.worlds.bots import make_bot
from world_model.play.collapse import Collapse

register_worlds()
Video = tuple[np.ndarray, np.ndarray, np.ndarray]  # anchors, frames, keys
HEALTHY = 400  # ticks before something goes wrong
SECOND = 20


def film(room: int, keys) -> Video:
    """Video of the real arena; ``keys``: the actions, or a bot and the number of ticks."""
    arena = gymnasium.make("rollplay/Arena-v0", disable_env_checker=True, height=128, width=128)
    frame, info = arena.reset(seed=room)
    frames, held = [frame], [np.zeros(len(ARENA_KEYS), np.int8)]
    bot, ticks = keys if isinstance(keys, tuple) else (None, len(keys))
    for tick in range(ticks):
        held.append(bot.act(frame, info) if bot else keys[tick])
        frame, *_, info = arena.step(held[-1])
        frames.append(frame)
    return arena.unwrapped.anchors(), np.stack(frames), np.stack(held)


@cache
def walk(bot: str, room: int, ticks: int = HEALTHY + 15 * SECOND) -> Video:
    return film(room, (make_bot(bot, room), ticks))


def found(video: Video, frames: np.ndarray | None = None) -> list[str | None]:
    """The kind of collapse at every tick."""
    anchors, real, keys = video
    watch = Collapse(anchors)
    return [watch.look(frame, held) for frame, held in zip(real if frames is None else frames, keys, strict=True)]


def spoilt(video: Video, change) -> np.ndarray:
    """The video with ``change(frame, ticks since)`` from tick HEALTHY on."""
    frames = video[1].copy()
    for tick in range(HEALTHY, len(frames)):
        frames[tick] = change(frames[tick], tick - HEALTHY)
    return frames


WALKS = [("explorer", 101), ("tourist", 104), ("spinner", 109)]


def only_after(finding: list[str | None], kind: str, within: int) -> None:
    """Nothing before the collapse; then ``kind`` and nothing else, at once or some ticks later."""
    assert set(finding[:HEALTHY]) == {None}
    assert set(finding[HEALTHY:]) <= {None, kind}, finding[HEALTHY:]
    first = finding.index(kind) - HEALTHY
    assert first <= within, first


@pytest.mark.parametrize("walked", WALKS)
@pytest.mark.parametrize("flicker", [0, 2])
def test_a_frozen_picture(walked, flicker):
    video = walk(*walked)
    random = np.random.default_rng(0)

    def frozen(frame, _):
        noise = random.integers(-flicker, flicker + 1, frame.shape)
        return np.clip(video[1][HEALTHY] + noise, 0, 255).astype(np.uint8)

    only_after(found(video, spoilt(video, frozen)), "frozen", within=12 * SECOND)


@pytest.mark.parametrize("walked", WALKS)
def test_a_picture_that_blurs_little_by_little(walked):
    video = walk(*walked)
    finding = found(video, spoilt(video, lambda frame, since: cv2.GaussianBlur(frame, (0, 0), 0.1 + since / 20)))
    only_after(finding, "blurred", within=8 * SECOND)
    assert finding.index("blurred") > HEALTHY + SECOND, "a little softness is no collapse"
    assert finding[-1] == "blurred"


@pytest.mark.parametrize("walked", WALKS)
@pytest.mark.parametrize("sink", [0, 2])
def test_a_jump_back_to_a_sink(walked, sink):
    """From ``start`` on the arena is played, under the same keys, from where the sink looks."""
    anchors, frames, keys = video = walk(*walked)
    start = next(t for t in range(HEALTHY, 600) if np.abs(frames[t].astype(int) - anchors[sink]).mean() > 40)
    turn = [to_action(["left"])] * (20 * sink)
    from_sink = film(walked[1], [*turn, *keys[start + 1 :]])[1][len(turn) :]
    finding = found(video, np.concatenate([frames[:start], from_sink]))
    assert set(finding[:start]) == {None} and finding[start] == "snapped"
    assert finding[start + 3 * SECOND] is None, "the jump is over"


@pytest.mark.parametrize("walked", WALKS)
def test_colours_that_run_to_the_ends(walked):
    video = walk(*walked)

    def loud(frame, since):
        gain = 1 + since / 20
        return np.clip((frame - frame.mean()) * gain + 128, 0, 255).astype(np.uint8)

    only_after(found(video, spoilt(video, loud)), "saturated", within=6 * SECOND)


@pytest.mark.parametrize(("walked", "end"), [*zip(WALKS, (0, 110, 255), strict=True)])
def test_a_picture_that_fades_to_one_colour(walked, end):
    """Black, fog, white."""
    video = walk(*walked)

    def faded(frame, since):
        share = min(since / SECOND, 0.99)
        return (frame * (1 - share) + end * share).astype(np.uint8)

    finding = found(video, spoilt(video, faded))
    only_after(finding, "saturated", within=15 * SECOND)
    assert finding[-1] == "saturated"


HEALTHY_WALKS = [
    ("explorer", 103),  # into a dark corner, where the shading is soft, and out along a bare wall
    ("explorer", 1006),  # a minute of which four seconds are a bare wall in the dark
    ("masher", 1009),  # walls of two colours and one grey
    ("tourist", 201),
    ("spinner", 202),
    ("dawdler", 203),
]


@pytest.mark.parametrize(("bot", "room"), HEALTHY_WALKS)
def test_living_video_is_no_collapse(bot, room):
    """A minute each, with near walls, stillness and lights off."""
    assert set(found(walk(bot, room, 60 * SECOND))) == {None}


def test_the_walks_hold_what_could_be_taken_for_a_collapse():
    """Bare walls, dark rooms and long stillness; otherwise the test above proves little."""
    films = [walk(bot, room, 60 * SECOND)[1] for bot, room in HEALTHY_WALKS]
    bare = sum(4 * int((frames[::4].std((1, 2)).mean(-1) < 4).sum()) for frames in films)
    dark = sum(4 * int((frames[::4].mean((1, 2, 3)) < 60).sum()) for frames in films)
    still = sum(int((np.abs(np.diff(frames.astype(np.int16), axis=0)).max((1, 2, 3)) == 0).sum()) for frames in films)
    assert min(bare, dark, still) > 5 * SECOND, (bare, dark, still)


def scripted(*parts: tuple[str, int]) -> list[np.ndarray]:
    return [to_action(names.split()) for names, ticks in parts for _ in range(ticks)]


@pytest.mark.parametrize("room", range(300, 303))
@pytest.mark.parametrize(
    "parts",
    {
        "into the wall for half a minute": [("w", 600)],
        "into a corner, and every way that it blocks": [
            ("w d", 200), *[("w", 40), ("d", 40), ("w d", 40), ("w space", 40)] * 4
        ],
        "standing still": [("", 400)],
        "at the wall in the dark, looking left and right": [
            ("w", 120), ("e", 1), *[("left", 12), ("", 30), ("right", 24), ("", 30), ("left", 12)] * 4
        ],
        "the lights on and off where the sinks were seen": [("e", 1), ("", 30)] * 6,
        "opposite keys": [("left right", 60), ("w s", 60), ("a d", 60), ("w", 60)] * 2,
        "round and round": [("left", 320)],
    }.values(),
    ids=["wall", "corner", "still", "dark wall", "switch", "opposite", "turning"],
)  # fmt: skip
def test_what_a_person_may_do_is_no_collapse(room, parts):
    assert set(found(film(room, scripted(*parts)))) == {None}


def test_the_nearest_sink_is_that_of_the_last_healthy_frame():
    """After a turn to the second sink and then fog, the second sink is the place to go on from."""
    anchors, frames, keys = film(101, scripted(("left", 20), ("", 5)))
    watch = Collapse(anchors)
    for frame, held in zip(frames, keys, strict=True):
        watch.look(frame, held)
    assert watch.nearest_sink() == 1
    for _ in range(40):
        watch.look(np.full_like(frames[0], 128), to_action(["left"]))
    assert watch.nearest_sink() == 1


def test_a_state_continues_exactly():
    """In the midst of a collapse."""
    video = walk(*WALKS[0])
    frames = spoilt(video, lambda frame, since: video[1][HEALTHY])
    whole, half, other = Collapse(video[0]), Collapse(video[0]), Collapse(video[0])
    cut = HEALTHY + SECOND
    for frame, held in zip(frames[:cut], video[2][:cut], strict=True):
        whole.look(frame, held)
        half.look(frame, held)
    other.set_state(half.get_state())
    half.restart()  # the state is a copy
    for frame, held in zip(frames[cut:], video[2][cut:], strict=True):
        assert whole.look(frame, held) == other.look(frame, held)
    assert whole.kind == "frozen"
    for name, value in whole.get_state().items():
        np.testing.assert_array_equal(value, other.get_state()[name])


def test_a_restart_forgets_the_collapse_and_keeps_the_keys():
    """W has no effect while the picture is healthy, as at a wall: that is learned."""
    anchors, frames, keys = walk("explorer", 101)
    watch = Collapse(anchors)
    for frame, held in [(frames[0], "")] * 2 + [(frames[0], "w")] * 5 + [(frames[-1], "s")]:
        watch.look(frame, to_action(held.split()))
    for held in keys:
        watch.look(frames[-1], held)
    learned = watch.get_state()["lively"]
    assert watch.kind == "frozen" and np.flatnonzero(~learned).tolist() == [1 << ARENA_KEYS.index("w")]
    watch.restart()
    assert watch.kind is None and watch.look(frames[0], keys[0]) is None
    np.testing.assert_array_equal(watch.get_state()["lively"], learned)


def test_any_size_and_any_number_of_keys():
    random = np.random.default_rng(0)
    watch = Collapse(random.integers(0, 256, (2, 24, 40, 3), dtype=np.uint8))
    for _ in range(30):
        watch.look(random.integers(0, 256, (24, 40, 3), dtype=np.uint8), random.integers(0, 2, 18).astype(np.int8))
