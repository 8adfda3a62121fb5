"""Sessions on disk: exact round trips, kills, corruption by hand, a full disk, and the listing."""

import errno
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from world_model.episode import EpisodeError, Session, SessionMeta, SessionWriter, find_sessions, session_name
from world_model.episode.__main__ import main

KEYS = ("w", "a", "left", "e")
FPS, HEIGHT, WIDTH = 10, 48, 64
RECORDED = tempfile.TemporaryDirectory()


@cache
def picture(t: int) -> np.ndarray:
    """uint8 [H,W,3] that only frame t has: noise and a moving gradient, nothing a lossy codec would keep."""
    noise = np.random.default_rng(t).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    noise[: HEIGHT // 2] = (np.arange(WIDTH) + t)[:, None]
    return noise


def bits(t: int) -> np.ndarray:
    """Action t; a bit pattern that only repeats after 16 frames, zeros for t = 0."""
    return np.array([t >> i & 1 for i in range(len(KEYS))], np.int8)


def meta(**changes) -> SessionMeta:
    settings = {"world": "toy", "env": "Toy-v0", "keys": KEYS, "fps": FPS, "height": HEIGHT, "width": WIDTH}
    settings |= {"seed": 7, "source": "engine", "code_version": "test", "player": "masher", "created": "now"}
    return SessionMeta(**(settings | changes))


def record(path: Path, frames: int = 33) -> Path:
    """A session of the pictures above, made once and copied."""
    return Path(shutil.copytree(recorded(frames), path))


@cache
def recorded(frames: int) -> Path:
    path = Path(RECORDED.name) / str(frames)
    with SessionWriter(path, meta()) as writer:
        for t in range(frames):
            writer.add(picture(t), bits(t), t / FPS)
    return path


def test_where_frames_were_seen_from_comes_back(tmp_path):
    spot, poses = (1.5, -2.0, 0.25, 1.6), np.random.default_rng(0).normal(size=(13, 4))
    with SessionWriter(tmp_path / "s", meta(spot=spot)) as writer:
        for t, pose in enumerate(poses):
            writer.add(picture(t), bits(t), t / FPS, pose)
        with pytest.raises(EpisodeError, match="4 numbers"):
            writer.add(picture(13), bits(13), 1.3)
    session = Session.open(tmp_path / "s")
    np.testing.assert_allclose(session.poses, poses, atol=1e-6)
    assert session.meta.spot == spot and np.array_equal(session.actions[5], bits(5)) and session.check() == []
    table = tmp_path / "s" / "chunk_000000.csv"
    table.write_text(table.read_text().replace(f"{poses[3, 1]:.6f}", "nan"))
    assert "pose" in Session.open(tmp_path / "s").damage[0]


def test_depths_come_back_to_the_millimetre(tmp_path):
    anchors = np.full((2, HEIGHT, WIDTH, 3), 9, np.uint8)
    depths = np.random.default_rng(0).uniform(0.3, 60, (2, HEIGHT, WIDTH))
    depths[0, 0, :3] = np.nan, np.inf, 0
    with SessionWriter(tmp_path / "s", meta(anchors=2, depths=True), anchors, depths=depths) as writer:
        writer.add(picture(0), bits(0), 0.0)
    session = Session.open(tmp_path / "s")
    assert session.check() == [] and session.depths.dtype == np.float32
    assert session.depths[0, 0, :3].tolist() == pytest.approx([0, 65.535, 0])
    assert np.abs(session.depths - depths)[:, 1:].max() < 0.00051
    (tmp_path / "s/anchors/1.depth.png").write_bytes((tmp_path / "s/anchors/1.png").read_bytes())
    assert any("not a depth" in words for words in Session.open(tmp_path / "s").check())
    (tmp_path / "s/anchors/1.depth.png").unlink()
    assert "anchors/1.depth.png: missing" in Session.open(tmp_path / "s").damage
    with pytest.raises(EpisodeError, match="depths"):
        SessionWriter(tmp_path / "t", meta(anchors=2, depths=True), anchors, depths=depths[:1])
    assert Session.open(tmp_path / "s").meta.depths and not meta().depths


def test_rewards_and_ends_come_back_and_the_first_format_says_none(tmp_path):
    rewards, spot, pose = np.array([0, 0.1, -1e-7, 3e38, 1 / 3], np.float32), (0, 1, 2, 3), (4.0, 5.0, 6.0, 7.0)
    with SessionWriter(tmp_path / "s", meta(spot=spot)) as writer:
        for t, reward in enumerate(rewards):
            writer.add(picture(t), bits(t), t / FPS, pose, (reward, t == 4, t == 4 and np.True_))
        for wrong in (np.nan, 1e39):
            with pytest.raises(EpisodeError, match="a reward is a number"):
                writer.add(picture(5), bits(5), 0.5, pose, (wrong, False, False))
    session = Session.open(tmp_path / "s")
    assert session.check() == [] and session.rewards.dtype == np.float32
    assert np.array_equal(session.rewards, rewards) and session.poses.tolist() == [list(pose)] * 5
    assert session.terminated.tolist() == session.truncated.tolist() == [False] * 4 + [True]
    old = Session.open(first_format(tmp_path / "s"))
    assert old.check() == [] and old.rewards is old.terminated is old.truncated is None
    assert np.array_equal(old.frames(), session.frames()) and np.array_equal(old.actions, session.actions)
    assert np.array_equal(old.poses, session.poses)


def first_format(path: Path) -> Path:
    """The session as it was written before rewards were recorded."""
    edit("session.json", '"format": 2', '"format": 1')(path)
    for table in path.glob("*.csv"):
        rows = [line.split(",") for line in table.read_text().splitlines()]
        table.write_text("".join(",".join([*row[:-4], row[-1]]) + "\n" for row in rows))
    return path


def test_without_a_spot_there_are_no_poses(tmp_path):
    assert Session.open(record(tmp_path / "s", 3)).poses is None
    with SessionWriter(tmp_path / "t", meta()) as writer, pytest.raises(EpisodeError, match="spot"):
        writer.add(picture(0), bits(0), 0.0, (0, 0, 0, 0))


def assert_exact(session: Session) -> None:
    """What the session holds is what was added, to the bit."""
    frames = session.frames()
    assert len(frames) == len(session) == len(session.times)
    for t in range(len(session)):
        assert np.array_equal(frames[t], picture(t)), t
        assert np.array_equal(session.actions[t], bits(t)), t
    assert np.allclose(session.times, np.arange(len(session)) / FPS, atol=1e-6)


# ---------------------------------------------------------------- round trip


def test_round_trip_is_exact(tmp_path):
    anchors = np.stack([picture(1000 + i) for i in range(4)])
    state = {"position": np.array([1.5, -2.0]), "lights": np.array(True), "cache": np.ones((2, 3), np.float16)}
    path = tmp_path / "s"
    with SessionWriter(path, meta(anchors=4, provenance={"room": 3}), anchors, state) as writer:
        for t in range(33):
            writer.add(picture(t), bits(t), t / FPS)
    session = Session.open(path)
    assert session.damage == [] == session.check()
    assert session.meta == meta(anchors=4, provenance={"room": 3})
    assert len(session) == 33
    assert_exact(session)
    assert np.array_equal(session.anchors, anchors)
    assert session.actions.dtype == np.int8 and session.times.dtype == np.float64
    assert {k: v.dtype for k, v in session.start_state.items()} == {k: v.dtype for k, v in state.items()}
    assert all(np.array_equal(session.start_state[key], state[key]) for key in state)


@pytest.mark.parametrize("span", [(0, 0), (0, 1), (4, 5), (5, 10), (4, 6), (3, 27), (30, 33), (33, 33)])
def test_any_span_of_frames(tmp_path, span):
    session = Session.open(record(tmp_path / "s"))
    frames = session.frames(*span)
    assert frames.shape == (span[1] - span[0], HEIGHT, WIDTH, 3)
    assert all(np.array_equal(frame, picture(span[0] + i)) for i, frame in enumerate(frames))


def test_a_span_decodes_only_its_chunks(tmp_path):
    session = Session.open(record(tmp_path / "s"))
    for number in (0, 1, 4):
        (session.path / f"chunk_{number:06d}.mkv").write_bytes(b"")
    assert np.array_equal(session.frames(10, 20)[9], picture(19))
    with pytest.raises(EpisodeError, match=r"chunk_000001\.mkv"):
        session.frames(9, 20)


@pytest.mark.parametrize("span", [(-1, 3), (0, 34), (5, 4)])
def test_spans_outside_are_refused(tmp_path, span):
    with pytest.raises(IndexError, match="of 33"):
        Session.open(record(tmp_path / "s")).frames(*span)


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (37, 51)])
def test_every_size_is_exact(tmp_path, size):
    frames = np.random.default_rng(0).integers(0, 256, (7, *size, 3), dtype=np.uint8)
    with SessionWriter(tmp_path / "s", meta(height=size[0], width=size[1])) as writer:
        for t, frame in enumerate(frames):
            writer.add(frame, bits(0), t)
    assert np.array_equal(Session.open(tmp_path / "s").frames(), frames)


def test_opencv_and_numpy_read_it_without_us(tmp_path):
    path = record(tmp_path / "s")
    frames, rows = [], []
    for video in sorted(path.glob("*.mkv")):
        capture = cv2.VideoCapture(str(video))
        assert capture.get(cv2.CAP_PROP_FPS) == FPS
        while (read := capture.read())[0]:
            frames.append(read[1][..., ::-1])
        rows.append(np.genfromtxt(video.with_suffix(".csv"), delimiter=",", names=True))
    table = np.concatenate(rows)
    assert len(frames) == len(table) == 33
    assert all(np.array_equal(frame, picture(t)) for t, frame in enumerate(frames))
    assert np.array_equal(table["left"], [bits(t)[2] for t in range(33)])
    assert np.array_equal(table["frame"], np.arange(33))


def test_a_source_may_reuse_its_buffers(tmp_path):
    frame, action = picture(0).copy(), bits(0)
    with SessionWriter(tmp_path / "s", meta()) as writer:
        for t in range(12):
            frame[:], action[:] = picture(t), bits(t)
            writer.add(frame, action, t / FPS)
    assert_exact(Session.open(tmp_path / "s"))


def test_chunks_stay_short_when_ticks_come_late(tmp_path):
    """A chunk is bounded in time too: at 3 ticks a second, ten frames would be more than a second to lose."""
    with SessionWriter(tmp_path / "s", meta(), chunk_frames=10) as writer:
        for t in range(12):
            writer.add(picture(t), bits(t), t * 0.3)
    spans = [np.loadtxt(f, delimiter=",", skiprows=1)[:, 1] for f in sorted((tmp_path / "s").glob("*.csv"))]
    assert max(times[-1] - times[0] for times in spans) <= 1.3
    assert np.array_equal(np.concatenate(spans), Session.open(tmp_path / "s").times)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("frame", "action", "message"),
    [
        (picture(0)[:-1], bits(0), "a frame is uint8"),
        (picture(0).astype(float), bits(0), "a frame is uint8"),
        (picture(0), np.zeros(3), "4 bits"),
        (picture(0), np.array([0, 2, 0, 0]), "4 bits"),
        (picture(0), bits(1), r"actions\[0\] must be all zeros"),
    ],
)
def test_what_does_not_fit_is_refused_and_costs_nothing(tmp_path, frame, action, message):
    with SessionWriter(tmp_path / "s", meta()) as writer:
        with pytest.raises(EpisodeError, match=message):
            writer.add(frame, action, 0.0)
        writer.add(picture(0), bits(0), 0.0)
    assert len(Session.open(tmp_path / "s")) == 1


def test_a_session_is_never_written_over(tmp_path):
    record(tmp_path / "s")
    with pytest.raises(EpisodeError, match="exists already"):
        SessionWriter(tmp_path / "s", meta())
    assert len(Session.open(tmp_path / "s")) == 33


def test_a_closed_writer_takes_no_more(tmp_path):
    writer = SessionWriter(tmp_path / "s", meta())
    writer.add(picture(0), bits(0), 0.0)
    writer.close()
    writer.close()
    with pytest.raises(EpisodeError, match="closed"):
        writer.add(picture(1), bits(1), 0.1)


@pytest.mark.parametrize(
    "changes",
    [{"keys": ("w", "w")}, {"keys": ("time",)}, {"keys": ("a,b",)}, {"fps": 0}, {"format": 3}, {"extra": 1}],
)
def test_metadata_is_strict(changes):
    with pytest.raises(ValueError):
        meta(**changes)


def test_sessions_of_one_second_do_not_collide_and_sort_by_time():
    names = [session_name(5) for _ in range(50)]
    assert len(set(names)) == 50 and all("seed5" in name for name in names)
    assert [name[:22] for name in names] == sorted(name[:22] for name in names)


# ---------------------------------------------------------------- kills

# Records the pictures above and prints the number of every frame that it has added. Each recording is a fork of a
# process that has everything imported, so that a kill costs milliseconds. `fatal` n kills it before or after one of
# its calls to the file system, 0 leaves the moment to the test.
FORK_SERVER = """
import itertools, os, signal, sys, time
from test_episode import FPS, SessionWriter, bits, meta, picture

def armed(function, events, fatal):
    def call(*args, **kwargs):
        if next(events) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if next(events) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

def record(path, pause, fatal):
    events = itertools.count(1)
    for name in ("mkdir", "fsync", "replace", "rename"):
        setattr(os, name, armed(getattr(os, name), events, fatal))
    writer = SessionWriter(path, meta())
    for t in itertools.count():
        writer.add(picture(t), bits(t), t / FPS)
        os.write(1, b"%d\\n" % t)
        time.sleep(pause)

for line in sys.stdin:
    path, pause, fatal = line.split()
    child = os.fork()
    if child == 0:
        record(path, float(pause), int(fatal))
    os.write(1, b"child %d\\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


class ForkServer:
    """Each ``run`` records in a child until it is killed; returns how many frames the child had added."""

    def __init__(self):
        tests = Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORK_SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])},
        )

    def run(self, path: Path, pause: float, fatal: int = 0, frames: int = 0, delay: float = 0.0) -> int:
        """Killed at file operation ``fatal``, or ``delay`` seconds after it has added ``frames``."""
        self.process.stdin.write(f"{path} {pause} {fatal}\n")
        self.process.stdin.flush()
        added, child, killed = 0, None, bool(fatal)
        for line in self.process.stdout:
            if line.startswith("dead"):
                return added
            if line.startswith("child"):
                child = int(line.split()[1])
            else:
                added = int(line) + 1
            if child and added >= frames and not killed:
                time.sleep(delay)
                os.kill(child, signal.SIGKILL)
                killed = True
        raise AssertionError("the recording process ended before its time")


@pytest.fixture(scope="module")
def fork_server():
    fork_server = ForkServer()
    yield fork_server
    fork_server.process.stdin.close()
    fork_server.process.wait(10)


def assert_survived(folder: Path, path: Path, added: int) -> Session | None:
    """At most a second is missing, the rest is exact, and the reader says what happened."""
    found = find_sessions(folder)
    if not found:
        assert added == 0
        return None
    assert found == [path]
    session = Session.open(path)
    assert added - len(session) <= FPS
    assert_exact(session)
    assert any("not closed" in problem and str(len(session)) in problem for problem in session.damage)
    on_disk = {name for name in os.listdir(path) if name.endswith(".tmp")}
    on_disk |= {f.name for f in path.glob("*.mkv") if not f.with_suffix(".csv").exists()}
    assert all(any(problem.startswith(name) for problem in session.damage) for name in on_disk)
    return session


def test_kill_at_random_instants(tmp_path, fork_server):
    chance = random.Random(1)
    kept = []
    for trial in range(24):
        path = tmp_path / str(trial) / "s"
        moment = {"frames": chance.randrange(40), "delay": chance.uniform(0, 0.02)}
        added = fork_server.run(path, pause=chance.choice((0.0, 0.001, 0.004)), **moment)
        path.parent.mkdir(exist_ok=True)
        session = assert_survived(path.parent, path, added)
        kept.append(len(session) if session is not None else 0)
    assert max(kept) >= 20 and len(set(kept)) > 4  # the kills did fall all over the recordings


def test_kill_at_every_file_operation(tmp_path, fork_server):
    """Making the session is 10 moments, each chunk 8: this goes through the making and two chunks."""
    kept = []
    for fatal in range(1, 27):
        path = tmp_path / str(fatal) / "s"
        path.parent.mkdir()
        added = fork_server.run(path, pause=0.0005, fatal=fatal)
        session = assert_survived(path.parent, path, added)
        kept.append(len(session) if session is not None else None)
    assert kept == sorted(kept, key=lambda n: -1 if n is None else n)
    assert set(kept) == {None, 0, 5, 10}


# ---------------------------------------------------------------- damage by hand


def damaged(tmp_path, harm) -> list[str]:
    path = record(tmp_path / "s")
    harm(path)
    session = Session.open(path)
    problems = session.check()
    if all(problem in session.damage for problem in problems):  # found without decoding: the rest is sound
        assert_exact(session)
    return problems


def truncate(name: str, share: float):
    def harm(path: Path) -> None:
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: int(len(data) * share)])

    return harm


def overwrite(name: str, text: str):
    return lambda path: (path / name).write_text(text)


def edit(name: str, old: str, new: str):
    def harm(path: Path) -> None:
        text = (path / name).read_text()
        assert old in text
        (path / name).write_text(text.replace(old, new))

    return harm


def delete(*names: str):
    return lambda path: [(path / name).unlink() for name in names]


def claim(shape: str, zipped: bool = False):
    """A snapshot with an array whose header says this shape, and 64 bytes after it."""

    def harm(path: Path) -> None:
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        how = zipfile.ZIP_DEFLATED if zipped else zipfile.ZIP_STORED
        with zipfile.ZipFile(path / "start_state.npz", "w", how) as archive:
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode() + bytes(64))

    return harm


def lose_rows(path: Path) -> None:
    lines = (path / "chunk_000002.csv").read_text().splitlines(keepends=True)
    (path / "chunk_000002.csv").write_text("".join(lines[:-2]))


def swap_videos(path: Path) -> None:
    """Both can be decoded; only the checksums differ."""
    (path / "chunk_000001.mkv").rename(path / "other")
    (path / "chunk_000003.mkv").rename(path / "chunk_000001.mkv")
    (path / "other").rename(path / "chunk_000003.mkv")


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (truncate("chunk_000002.mkv", 0.5), ["chunk_000002.mkv: holds"]),
        (truncate("chunk_000002.mkv", 0.0), ["chunk_000002.mkv: cannot be decoded"]),
        (overwrite("chunk_000002.mkv", "nonsense"), ["chunk_000002.mkv: cannot be decoded"]),
        (lose_rows, ["chunk_000003.csv: frame 15 stands where frame 13 should"]),
        (swap_videos, ["chunk_000001.mkv: 5 frames are not", "chunk_000003.mkv: 5 frames are not"]),
        (delete("chunk_000006.csv"), ["chunk_000006.mkv: dropped", "33 frames were recorded, 30"]),
        (delete("chunk_000002.csv"), ["chunk_000002.mkv: dropped", "chunk_000003 to chunk_000006: left out"]),
        (delete("chunk_000002.mkv"), ["chunk_000002.csv: dropped, its video"]),
        (delete("chunk_000002.mkv", "chunk_000002.csv"), ["chunk_000002: missing", "chunk_000003 to"]),
        (delete("chunk_000006.mkv", "chunk_000006.csv"), ["33 frames were recorded, 30 can be read"]),
        (delete("end.json"), ["not closed"]),
        (overwrite("end.json", "{"), ["end.json: cannot be read"]),
        (overwrite("chunk_000002.csv", "\0garbage\n1,2"), ["chunk_000002.csv: not the table"]),
        (overwrite("chunk_000002.csv", ""), ["chunk_000002.csv: not the table"]),
        (truncate("chunk_000002.csv", 0.9), ["chunk_000002.csv: "]),
        (edit("chunk_000002.csv", "\n12,", "\n13,"), ["chunk_000002.csv: frame 13 stands where frame 12"]),
        (edit("chunk_000002.csv", "\n12,1.200000,0", "\n12,1.200000,3"), ["neither 0 nor 1"]),
        (edit("chunk_000002.csv", ",left,", ",right,"), ["chunk_000002.csv: not the table"]),
        (overwrite("chunk_000007.mkv.tmp", "half"), ["chunk_000007.mkv.tmp: dropped"]),
        (edit("chunk_000002.csv", "\n12,1.200000", "\n12,nan"), ["chunk_000002.csv: a time is not a number"]),
        (edit("chunk_000006.csv", "\n32,3.200000", "\n32,inf"), ["chunk_000006.csv: a time is not a number"]),
        (edit("chunk_000002.csv", "\n10,1.000000", "\n10,0.8"), ["chunk_000002.csv: a time"]),
        (
            edit("chunk_000002.csv", "\n12,1.200000,0,0,1,1,0,0,0,", "\n12,1.200000,0,0,1,1,0,0,0,-"),
            ["a checksum is no number"],
        ),
        (edit("chunk_000002.csv", ",crc32\n", ",crc32\n" + 11 * "10,1,0,0,0,0,0,0,0,0\n"), ["16 rows of 10, not 1"]),
        (edit("chunk_000002.csv", "1,1,0,0,0,", "1,1,inf,0,0,"), ["chunk_000002.csv: a reward is not a number"]),
        (edit("chunk_000002.csv", "1,1,0,0,0,", "1,1,1e39,0,0,"), ["chunk_000002.csv: a reward is not a number"]),
        (edit("chunk_000002.csv", "1,1,0,0,0,", "1,1,0,2,0,"), ["or an end neither 0 nor 1"]),
        (edit("session.json", '"width": 64', '"width": 65'), ["frames of 64x48, session.json says 65x48"]),
        (edit("session.json", '"height": 48', '"height": 500000'), ["frames of 64x48, session.json says 64x500000"]),
        (edit("session.json", '"anchors": 0', '"anchors": 1000000000'), ["anchors/0.png: missing"]),
        (overwrite("end.json", "[" * 100_000), ["end.json: cannot be read"]),
        (overwrite("end.json", '{"frames": [33]}'), ["end.json: cannot be read"]),
        (overwrite("end.json", "[]"), ["end.json: cannot be read"]),
        (edit("end.json", '"frames": 33', '"frames": 34, "cut_short": "x"'), ["cut short: 'x'; 33", "34 frames were"]),
        (overwrite("start_state.npz", "nonsense"), ["start_state.npz: not a readable snapshot"]),
        (overwrite("start_state.npz", ""), ["start_state.npz: not a readable snapshot"]),
        (claim("(1000000000000,)"), ["start_state.npz: not a readable snapshot (x.npy claims to be float64"]),
        (claim("(1000000000000, 0.5)"), ["start_state.npz: not a readable snapshot"]),
        (claim("(1000000000000,", zipped=True), ["start_state.npz: not a readable snapshot"]),
    ],
)
def test_damage_is_named(tmp_path, harm, named):
    problems = damaged(tmp_path, harm)
    assert all(any(words in problem for problem in problems) for words in named), problems


def test_a_picture_of_the_place_that_shows_nothing_is_damage(tmp_path):
    """Anchors have no checksum. One that claims to be huge is not read at all."""
    anchors = np.stack([picture(0), picture(1) * 0])
    with SessionWriter(tmp_path / "s", meta(anchors=2), anchors) as writer:
        writer.add(picture(0), bits(0), 0.0)
    session = Session.open(tmp_path / "s")
    assert session.damage == [] and session.check() == ["anchors/1.png: all black"]
    file = tmp_path / "s" / "anchors" / "0.png"
    file.write_bytes(file.read_bytes()[:16] + struct.pack(">II", 2**30, 2**30) + file.read_bytes()[24:])
    assert session.check() == ["anchors/0.png: missing, or not a picture of 64x48"]
    file.unlink()
    assert Session.open(tmp_path / "s").damage == ["anchors/0.png: missing"]
    with pytest.raises(EpisodeError, match=r"anchors/0\.png"):
        _ = session.anchors


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (edit("session.json", '"width": 64', '"width": 1000000000000'), "10 frames of 1000000000000x48 a second"),
        (edit("session.json", '"seed": 7', '"seed": -1'), "session.json: seed"),
        (edit("session.json", '"seed": 7', f'"seed": {10**40}'), "session.json: seed"),
        (edit("session.json", '"seed": 7', f'"seed": {2**63}'), "session.json: seed"),
        (edit("session.json", '"env": "Toy-v0"', '"env": "os:system"'), "session.json: env"),
        (edit("session.json", '"source": "engine"', '"source": "os:system"'), "session.json: source"),
        (edit("session.json", '"world": "toy"', '"world": "/tmp/toy"'), "session.json: world"),
        (delete("session.json"), "session.json is missing"),
        (overwrite("session.json", "{"), "session.json: .*JSON"),
        (edit("session.json", '"format": 2', '"format": 9'), "session.json: format"),
        (edit("session.json", '"fps": 10', '"fps": "fast"'), "session.json: fps"),
        (edit("session.json", '"world"', '"wrold"'), "session.json: wor"),
    ],
)
def test_a_session_without_its_head_does_not_open(tmp_path, harm, message):
    path = record(tmp_path / "s")
    harm(path)
    with pytest.raises(EpisodeError, match=message):
        Session.open(path)


# ---------------------------------------------------------------- full disk


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("file", ["chunk_000002.mkv", "chunk_000002.csv"])
def test_a_full_disk_is_one_clear_message_and_keeps_what_was_finished(tmp_path, file):
    """/dev/full answers every write with the real ENOSPC."""
    path = tmp_path / "s"
    writer = SessionWriter(path, meta())
    (path / f"{file}.tmp").symlink_to("/dev/full")
    message = r"s: the disk is full; the first 10 frames \(1\.0 s\) are kept"
    with pytest.raises(EpisodeError, match=message), writer:
        for t in range(60):
            writer.add(picture(t), bits(t), t / FPS)
    session = Session.open(path)
    assert session.check() == ["cut short: 'the disk is full'; 10 finished frames are kept"]
    assert_exact(session)
    assert not list(path.glob("*.tmp"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_fills_at_the_very_end_is_told_by_close(tmp_path):
    writer = SessionWriter(tmp_path / "s", meta())
    writer.add(picture(0), bits(0), 0.0)
    for name in ("chunk_000000.mkv", "end.json"):
        (tmp_path / "s" / f"{name}.tmp").symlink_to("/dev/full")
    with pytest.raises(EpisodeError, match="the disk is full; nothing was recorded"):
        writer.close()
    assert "killed, could write no more, or" in Session.open(tmp_path / "s").damage[0]


FILM = """
import sys
import numpy as np
from world_model.episode.film import Film
try:
    with Film(sys.argv[1], ("w", "e"), 20) as film:
        for t in range(int(sys.argv[2])):
            film.add(np.random.default_rng(t).integers(0, 256, (64, 64, 3), dtype=np.uint8), np.zeros(2))
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("frames", [2, 60], ids=["at the end", "in the middle"])
def test_a_film_on_a_full_disk_is_one_clear_message(tmp_path, frames):
    """In a process of its own, because what is guarded against would take this one with it."""
    (tmp_path / "film.mp4").symlink_to("/dev/full")
    command = [sys.executable, "-c", FILM, str(tmp_path / "film.mp4"), str(frames)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    words = f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}: '{tmp_path / 'film.mp4'}'\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, words, "")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EpisodeError, match="cannot write: Not a directory"):
        SessionWriter(tmp_path / "file" / "s", meta())


def test_a_failure_of_the_encoder_reaches_the_caller(tmp_path, monkeypatch):
    monkeypatch.setattr("world_model.episode.format.CODEC", "no_such_codec")
    with pytest.raises(EpisodeError, match="recording failed"), SessionWriter(tmp_path / "s", meta()) as writer:
        for t in range(FPS + 1):  # the error is there by the time a second of frames is unfinished
            writer.add(picture(t), bits(t), t / FPS)


# ---------------------------------------------------------------- listing


def test_find_sessions(tmp_path):
    record(tmp_path / "b" / "deep" / "2", frames=1)
    record(tmp_path / "a", frames=1)
    record(tmp_path / "c", frames=1)
    (tmp_path / "c" / "session.json").unlink()
    shutil.copytree(tmp_path / "a", tmp_path / "d-1234.tmp")
    assert find_sessions(tmp_path) == [tmp_path / "a", tmp_path / "b" / "deep" / "2", tmp_path / "c"]
    assert find_sessions(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(EpisodeError, match="no such directory"):
        find_sessions(tmp_path / "nowhere")


def listing(capsys, *arguments) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_listing_counts_shares_and_gaps(tmp_path, capsys):
    """20 actions after the first: 5 idle, w on 10, e on 5; one late tick and one that is just in time; an old one."""
    with SessionWriter(tmp_path / "one", meta()) as writer:
        now = 0.0
        for t in range(21):
            action = [t % 2, 0, 0, t % 4 == 2]
            now += {7: 0.25, 9: 0.14}.get(t, 0.1)
            writer.add(picture(t), np.array(action) * (t > 0), now, (), (0.25, t == 9, t == 20))
    first_format(record(tmp_path / "old", 5))
    status, out, _ = listing(capsys, tmp_path)
    assert next(line for line in out.splitlines() if "old" in line).split()[4:6] == ["?", "?"]
    assert next(line for line in out.splitlines() if "2 sessions" in line).split()[5:8] == ["2.6", "5.25", "2"]
    row = next(line for line in out.splitlines() if line.split()[:1] == ["one"])
    assert status == 0
    assert row.split()[:7] == ["one", "engine", "21", "2.1", "5.25", "2", "25%"]
    assert "w 50%  a 0%  left 0%  e 25%" in row
    assert "1, up to 250 ms" in row and row.split()[-1] == "none"


def test_listing_names_damage_and_goes_on(tmp_path, capsys):
    record(tmp_path / "sound")
    truncate("chunk_000001.mkv", 0.5)(record(tmp_path / "torn"))
    delete("session.json")(record(tmp_path / "headless"))
    (tmp_path / "empty").mkdir()
    status, out, _ = listing(capsys, tmp_path)
    assert status == 1
    assert "torn: chunk_000001.mkv: holds" in out and "headless: session.json is missing" in out
    assert "empty: session.json is missing" in out
    total = next(line for line in out.splitlines() if "4 sessions" in line)
    assert "engine 2" in total and "66" in total and "3 sessions" in total.split("none")[-1]
    status, out, _ = listing(capsys, tmp_path, "--quick")
    assert status == 1 and "torn: chunk" not in out and "headless: session.json" in out
    shutil.rmtree(tmp_path / "headless")
    (tmp_path / "empty").rmdir()
    assert listing(capsys, tmp_path, "--quick")[0] == 0


def test_a_name_is_not_markup(tmp_path, capsys):
    record(tmp_path / "a [b]" / "c", frames=1)
    record(tmp_path / "a [" / "b]", frames=1)
    status, out, _ = listing(capsys, tmp_path)
    assert status == 0 and "a [b]/c" in out and "a [/b]" in out


def test_listing_of_nothing_says_so(tmp_path, capsys):
    assert listing(capsys, tmp_path) == (2, "", f"{tmp_path}: no sessions in this directory; record some first\n")
    assert listing(capsys, tmp_path / "x") == (2, "", f"{tmp_path / 'x'}: no such directory\n")
