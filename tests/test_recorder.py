"""The recording wrapper, on a toy source whose every frame shows its tick and its action."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, MultiBinary

from game.record.recorder import Recorder
from game.record.replay import Replay, Verdict
from world_model.episode import EpisodeError, Session, find_sessions

KEYS = ("w", "a", "space")


class Counter(gymnasium.Env):
    """Draws (episode seed, tick, action bits) into the picture; reuses its buffer, as fast sources do."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10, "keys": KEYS}
    observation_space = Box(0, 255, (16, 32, 3), np.uint8)
    action_space = MultiBinary(len(KEYS))

    def __init__(self):
        self.frame = np.zeros((16, 32, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.seed, self.tick = seed if seed is not None else 99, 0
        return self._draw(np.zeros(len(KEYS))), {}

    def step(self, action):
        self.tick += 1
        return self._draw(action), 0.0, False, False, {}

    def _draw(self, action):
        self.frame[..., 0], self.frame[..., 1] = self.seed, self.tick
        self.frame[..., 2] = np.dot(action, 1 << np.arange(len(KEYS)))
        return self.frame

    def anchors(self):
        return np.full((2, 16, 32, 3), self.seed, np.uint8)

    def get_state(self):
        return {"tick": np.array(self.tick)}

    def provenance(self):
        return {"source": "engine", "seed": self.seed, "checkpoint": "abc"}


class Bare(Counter):
    """A source without any of the optional verbs."""

    anchors = get_state = provenance = property(lambda self: (_ for _ in ()).throw(AttributeError()))


def action(t: int) -> np.ndarray:
    return np.array([t & 1, t >> 1 & 1, t >> 2 & 1], np.int8)


def play(recorder: Recorder, ticks: int) -> None:
    for _ in range(ticks):
        recorder.step(action(recorder.unwrapped.tick + 1))


def recorder_of(folder, env=None, **settings) -> Recorder:
    return Recorder(env or Counter(), folder, world="toy", **({"clock": None} | settings))


def assert_holds(session: Session, seed: int, first_tick: int, length: int) -> None:
    """frames[t] shows the tick, and the action that actions[t] says produced it."""
    frames = session.frames()
    ticks = first_tick + np.arange(length)
    assert len(session) == length and session.damage == []
    assert np.array_equal(frames[:, 5, 5, 0], [seed] * length)
    assert np.array_equal(frames[:, 5, 5, 1], ticks)
    assert session.actions[1:].tolist() == [action(t).tolist() for t in ticks[1:]]
    assert np.array_equal(frames[1:, 5, 5, 2], session.actions[1:] @ (1 << np.arange(len(KEYS))))
    assert not session.actions[0].any()


def test_a_session_for_each_episode(tmp_path):
    with recorder_of(tmp_path, player="masher") as recorder:
        for seed, ticks in ((3, 25), (4, 0), (3, 7)):
            recorder.reset(seed=seed)
            play(recorder, ticks)
    sessions = [Session.open(path) for path in find_sessions(tmp_path)]
    assert len(sessions) == 3
    for session, (seed, ticks) in zip(sessions, ((3, 25), (4, 0), (3, 7)), strict=True):
        assert_holds(session, seed, 0, ticks + 1)
        assert (session.meta.seed, session.meta.source, session.meta.player) == (seed, "engine", "masher")
        assert session.meta.checkpoint == "abc" and session.meta.world == "toy"
        assert np.array_equal(session.anchors, np.full((2, 16, 32, 3), seed))
        assert session.start_state is None
        assert np.allclose(session.times, np.arange(ticks + 1) / 10)


class Scored(Counter):
    """A tick's number is its reward, and the third is the last."""

    penalty = 0

    def step(self, action):
        frame, _, _, _, info = super().step(action)
        return frame, self.tick / 10 - self.penalty, self.tick == 3, False, info


def test_rewards_and_the_end_are_recorded_and_verified(tmp_path):
    with recorder_of(tmp_path, Scored()) as recorder:
        recorder.reset(seed=3)
        play(recorder, 3)
    session = Session.open(recorder.path)
    assert np.array_equal(session.rewards, np.arange(4, dtype=np.float32) / np.float32(10))
    assert session.terminated.tolist() == [False, False, False, True] and not session.truncated.any()

    def verdict(kind) -> Verdict:
        replay = Replay(kind(), session)
        replay.reset()
        ends = [replay.step(None)[2:4] for _ in range(3)]
        assert ends == [(False, False), (False, False), (False, True)]
        return replay.verdict

    assert verdict(Scored).holds

    class Other(Scored):
        penalty = 1

    told = verdict(Other)
    assert not told.holds and str(told).endswith("recording; 3 rewards or ends differ, the first is of frame 1")


def test_a_time_limit_counts_from_the_reset_and_no_state_knows_it(tmp_path):
    class Saved(Counter):
        def set_state(self, state):
            self.tick = int(state["tick"])

        def render(self):
            return self._draw(None)

        def _draw(self, action):
            return super()._draw(np.zeros(len(KEYS)))

    recorder = recorder_of(tmp_path, gymnasium.wrappers.TimeLimit(Saved(), 6), recording=False)
    recorder.reset(seed=3)
    play(recorder, 3)
    recorder.start()
    play(recorder, 3)
    recorder.close()
    session = Session.open(recorder.path)
    assert session.truncated.tolist() == [False, False, False, True]
    replay = Replay(gymnasium.wrappers.TimeLimit(Saved(), 6), session)
    replay.reset()
    for _ in range(3):
        replay.step(None)
    assert replay.verdict.holds, str(replay.verdict)


class Posed(Counter):
    """One that says where it is."""

    def spot(self):
        return (0.0, 0.5, 1.0, 1.6)

    def depths(self):
        return np.full((2, 16, 32), 2.5)

    def _pose(self, result):
        return *result[:-1], {"pose": np.array([self.tick, 0.5, 1.0, 1.6])}

    def reset(self, **options):
        return self._pose(super().reset(**options))

    def step(self, action):
        return self._pose(super().step(action))


def test_where_it_was_seen_from_is_kept(tmp_path):
    with recorder_of(tmp_path, Posed(), recording=False) as recorder:
        recorder.reset(seed=3)
        play(recorder, 3)
        recorder.start()
        play(recorder, 4)
    session = Session.open(recorder.path)
    assert session.meta.spot == (0.0, 0.5, 1.0, 1.6)
    assert session.poses.tolist() == [[tick, 0.5, 1.0, 1.6] for tick in range(3, 8)]
    assert (session.depths == 2.5).all() and session.depths.shape == (2, 16, 32)


def test_a_spot_without_poses_is_no_spot(tmp_path):
    class Silent(Posed):
        def _pose(self, result):
            return result

    with recorder_of(tmp_path, Silent()) as recorder:
        recorder.reset(seed=3)
        play(recorder, 2)
    session = Session.open(recorder.path)
    assert session.meta.spot is None and session.poses is None and len(session) == 3


def test_the_game_passes_through_untouched(tmp_path):
    plain, recorder = Counter(), recorder_of(tmp_path)
    assert np.array_equal(plain.reset(seed=5)[0], recorder.reset(seed=5)[0])
    for t in range(1, 6):
        for mine, its in zip(recorder.step(action(t)), plain.step(action(t)), strict=True):
            assert np.array_equal(mine, its)
    recorder.close()


def test_start_and_stop_in_mid_game(tmp_path):
    recorder = recorder_of(tmp_path, recording=False)
    assert "with the game" in recorder_of(tmp_path, recording=False).start()
    recorder.reset(seed=3)
    play(recorder, 5)
    assert not recorder.recording and recorder.seconds is None and not find_sessions(tmp_path)
    assert str(tmp_path) in recorder.start()
    assert recorder.recording
    assert str(recorder.path) in recorder.start()  # starting twice is starting once
    play(recorder, 4)
    assert recorder.seconds == pytest.approx(0.4)
    assert recorder.stop() == f"Recorded 5 frames to {recorder.path}"
    assert recorder.stop() == "Not recording"
    recorder.start()
    assert "Nothing was played" in recorder.stop() and not recorder.path.exists()
    play(recorder, 4)
    recorder.reset(seed=8)
    play(recorder, 4)
    assert not recorder.recording
    recorder.start()
    recorder.reset(seed=9)
    recorder.close()
    first, second, third = (Session.open(path) for path in find_sessions(tmp_path))
    assert_holds(first, 3, 5, 5)
    assert first.start_state == {"tick": 5}
    assert_holds(second, 8, 4, 1)
    assert_holds(third, 9, 0, 1)
    assert third.start_state is None


def test_start_before_the_first_reset(tmp_path):
    recorder = recorder_of(tmp_path, recording=False)
    recorder.start()
    recorder.reset(seed=1)
    play(recorder, 2)
    recorder.close()
    assert_holds(Session.open(recorder.path), 1, 0, 3)


def test_timestamps_come_from_the_clock(tmp_path):
    times = iter([100.0, 100.01, 100.25, 100.5])
    recorder = recorder_of(tmp_path, clock=lambda: next(times))
    recorder.reset(seed=0)
    play(recorder, 2)
    recorder.close()
    assert np.allclose(Session.open(recorder.path).times, [0.01, 0.25, 0.5])


def test_any_gymnasium_source_can_be_recorded(tmp_path):
    recorder = recorder_of(tmp_path, Bare(), recording=False)
    recorder.reset(seed=6)
    recorder.start()
    play(recorder, 3)
    recorder.close()
    session = Session.open(recorder.path)
    assert_holds(session, 6, 0, 4)
    assert (session.meta.source, session.meta.seed, session.meta.anchors) == ("Bare", 6, 0)
    assert session.anchors.shape == (0, 16, 32, 3) and session.start_state is None


def make_disk_full(recorder: Recorder) -> None:
    (recorder.path / "chunk_000001.mkv.tmp").symlink_to("/dev/full")


def test_a_full_disk_stops_the_recording_and_not_the_game(tmp_path):
    errors = []
    recorder = recorder_of(tmp_path, on_error=errors.append)
    recorder.reset(seed=2)
    make_disk_full(recorder)
    play(recorder, 40)
    assert recorder.unwrapped.tick == 40
    assert len(errors) == 1 and "the disk is full; the first 5 frames" in errors[0]
    assert not recorder.recording
    recorder.reset(seed=3)
    recorder.close()
    assert len(find_sessions(tmp_path)) == 1 and len(Session.open(recorder.path)) == 5


def test_a_full_disk_at_stop_is_the_answer_of_stop(tmp_path):
    recorder = recorder_of(tmp_path, on_error=lambda message: None)
    recorder.reset(seed=2)
    make_disk_full(recorder)
    play(recorder, 5)
    assert "the disk is full" in recorder.stop()


def test_a_full_disk_is_raised_without_a_listener(tmp_path):
    recorder = recorder_of(tmp_path)
    recorder.reset(seed=2)
    make_disk_full(recorder)
    with pytest.raises(EpisodeError, match="the disk is full"):
        play(recorder, 40)
    recorder.close()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    errors = []
    recorder = recorder_of(tmp_path / "file", recording=False, on_error=errors.append)
    recorder.reset(seed=0)
    assert recorder.start() == errors[0] and "cannot write" in errors[0]
    assert not recorder.recording
