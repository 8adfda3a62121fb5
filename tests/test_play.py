"""play.py as a person runs it: headless, recorded, replayed, refused; and the player's loop on a scripted source."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import av
import gymnasium
import numpy as np
import pytest
import script
from script import Script, down

from game.actions import ARENA_KEYS
from game.play.controllers import BotController, RecordedController, Remembered
from game.play.keyboard import Event
from game.play.player import Options, Pacer, Player
from game.play.report import as_text
from game.record.recorder import Recorder
from game.register import register_worlds
from game.worlds.sources import real_game
from play import main
from world_model.config import CONFIGS
from world_model.episode import Session, find_sessions

ROOT = Path(__file__).resolve().parents[1]
register_worlds()


def run_play(*arguments, code: int = 0) -> tuple[str, str]:
    """What play.py prints and complains of, in this process."""
    out, complaints = io.StringIO(), io.StringIO()
    words = patch.object(sys, "argv", ["play.py", *map(str, arguments)])
    with words, redirect_stdout(out), redirect_stderr(complaints):
        ended = main()
    assert ended == code, (arguments, out.getvalue(), complaints.getvalue())
    return out.getvalue(), complaints.getvalue()


def refused(*arguments) -> str:
    """The one line with which play.py refuses."""
    line = run_play(*arguments, code=2)[1]
    assert line.startswith("play.py: ") and len(line.strip().splitlines()) == 1, line
    return line


class Counter(gymnasium.Env):
    """Frames that say how often ``step`` was called, and with what."""

    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = gymnasium.spaces.MultiBinary(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20, "keys": ("w", "e")}

    def __init__(self):
        self.actions, self.resets = [], []

    def reset(self, *, seed=None, options=None):
        self.resets.append(seed)
        return np.zeros((8, 8, 3), np.uint8), {}

    def step(self, action):
        self.actions.append(action.copy())
        return np.full((8, 8, 3), len(self.actions), np.uint8), 0.0, False, False, {}


def play(plan, source=None, **options) -> tuple[Counter, Script]:
    source = source or Counter()
    return source, script.play(source, plan, **options)


def test_a_tap_between_two_ticks_reaches_the_game_exactly_once():
    source, _ = play({2: [Event("down", "e", 0.0), Event("up", "e", 0.0)]}, frames=5)
    assert [int(a[1]) for a in source.actions].count(1) == 1


def test_every_frame_is_shown_once_and_none_is_skipped():
    _, screen = play({}, frames=6)
    assert [frame[0, 0, 0] for frame in screen.shown] == [0, 1, 2, 3, 4, 5, 6]


def test_next_room_counts_up_and_quit_ends():
    source, _ = play({2: down("n"), 5: down("escape")}, seed=7)
    assert source.resets == [7, 8]


def test_a_key_pressed_before_there_is_a_picture_counts_as_no_latency():
    class Slow(Counter):
        def reset(self, **options):
            time.sleep(0.1)
            return super().reset(**options)

    class Live(Script):
        def poll(self):
            return [replace(event, at=time.perf_counter()) for event in super().poll()]

    source = Slow()
    ledger = Player(source, Live({0: down("w")}), Options(("w", "e"), fps=0, frames=3)).run()
    assert ledger.summary()["key_to_photon_ms"]["n"] == 0 and source.actions[0][0] == 1


def test_nothing_is_stepped_while_paused():
    source, screen = play({2: down("p"), 8: down("escape")})
    assert len(source.actions) <= 2 and screen.huds[-1].paused


def test_h_hides_the_panel_and_f1_helps():
    _, screen = play({2: down("h"), 4: down("f1"), 7: [Event("quit")]})
    assert not screen.huds[-1].visible and screen.huds[-1].help


def test_what_a_game_says_of_its_picture_is_shown_and_counted():
    class Weak(Counter):
        collapse, reprimes = None, 0

        def step(self, action):
            answer = super().step(action)
            self.collapse = "blurred" if len(self.actions) in (3, 4) else None
            self.reprimes += len(self.actions) == 5
            return answer

    screen = Script({})
    ledger = Player(Weak(), screen, Options(("w", "e"), fps=0, frames=6)).run()
    assert [hud.collapse for hud in screen.huds] == [None, None, None, "blurred", "blurred", None, None]
    assert [hud.reprimes for hud in screen.huds][-3:] == [0, 1, 1]
    assert ledger.summary()["collapses"] == [{"tick": 3, "kind": "blurred", "ticks": 2}]
    assert ledger.summary()["reprimes"] == 1


def test_a_pause_is_neither_caught_up_nor_played():
    """Keys tapped in a pause do not reach the game; keys still down when it ends do."""
    tapped, held = [Event("down", "e"), Event("up", "e")], down("w")
    plan = {2: down("p"), 4: tapped, 5: held, 6: down("p"), 9: [Event("quit")]}
    source, _ = play(plan)
    actions = np.array(source.actions)
    assert not actions[:, 1].any() and actions[-1, 0] == 1


def test_what_fails_in_the_game_ends_the_play():
    class Broken(Counter):
        def step(self, action):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        play({}, Broken(), frames=3)


def test_an_episode_that_ends_is_followed_by_the_next():
    class Short(Counter):
        def step(self, action):
            frame, *_ = super().step(action)
            return frame, 0.0, len(self.actions) % 2 == 0, False, {}

    source, _ = play({}, Short(), seed=4, frames=5)
    assert source.resets == [4, 5, 6] and len(source.actions) == 5


def test_a_bot_presses_at_some_time_since_the_last_tick():
    """Not at the sample: a person's keys would wait for it too."""
    from time import perf_counter, sleep

    source = Remembered(gymnasium.make("rollplay/Arena-v0", height=32, width=32))
    source.reset(seed=1)
    controller = BotController("masher", source, ARENA_KEYS, seed=1)
    shares = []
    for _ in range(60):
        before = perf_counter()
        sleep(0.002)
        sample = controller.sample()
        after = perf_counter()
        assert len(sample.arrivals) <= 1
        shares += [(at - before) / (after - before) for at in sample.arrivals]
        source.step(sample.action)
    assert len(shares) > 10 and max(shares) <= 1 and 0.25 < np.median(shares) < 0.75


def test_a_replay_presses_the_recorded_keys(tiny_data):
    session = Session.open(find_sessions(tiny_data)[0])
    controller = RecordedController(session)
    for _ in range(2):  # a new room starts it over
        controller.new_room(0)
        for action in session.actions[1:6]:
            assert np.array_equal(controller.sample().action, action)


def test_a_stall_is_not_caught_up_in_a_burst():
    pacer = Pacer(20, 0.0)
    deadlines = [pacer.next(0.0), pacer.next(1.0), pacer.next(1.0)]
    assert deadlines == pytest.approx([0.05, 1.0, 1.05])


@pytest.fixture(scope="module")
def neural_session(exported, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("played")
    flags = ("--bot", "masher", "--frames", 120, "--fps", 0, "--seed", 3, "--record", folder)
    run_play("--checkpoint", exported, "--headless", *flags, "--report", folder / "r.json", "--video", folder / "v.mp4")
    return find_sessions(folder)[0]


def test_the_report_and_the_film(neural_session):
    report = json.loads((neural_session.parent / "r.json").read_text())
    figures = "frames fps tick_ms step_ms decode_ms key_to_photon_ms peak_rss_mb startup_s first_frame_s"
    assert set(f"{figures} device runtime checkpoint".split()) <= set(report)
    assert report["collapse"] == "watch" and report["minutes"][0]["ticks"] == 120
    assert report["frames"] == 120 and report["runtime"] == "onnx" and report["device"] == "cpu"
    assert report["runs"].startswith("ONNX Runtime on ") and report["runs"] in as_text(report)
    assert set(report["tick_ms"]) == {"p50", "p95", "p99"} and report["tick_ms"]["p50"] > 0
    assert report["first_frame_s"] >= report["startup_s"] > 0
    with av.open(str(neural_session.parent / "v.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 121


def test_a_neural_session_says_what_it_was_played_with(neural_session):
    session = Session.open(neural_session)
    assert session.meta.source == "neural" and session.meta.checkpoint == session.meta.provenance["checkpoint"]
    assert len(session) == 121 and not session.damage and not session.actions[0].any()


def test_a_neural_session_is_made_again_bit_for_bit(neural_session, exported):
    output, aside = run_play("--replay", neural_session, "--verify", "--checkpoint", exported)
    assert "all 121 frames are bit-equal" in output
    assert aside.count(" CPU threads\n") == 1, "what runs is printed once"
    assert "leave out --engine and --config" in refused("--replay", neural_session, "--verify", "--engine")


def test_a_session_of_weights_that_do_not_ship_asks_where_they_are(neural_session, tmp_path, monkeypatch):
    monkeypatch.setattr("world_model.config.WORLDS", tmp_path)
    assert "Those that you have: --checkpoint runs/" in refused("--replay", neural_session, "--verify")


def test_a_changed_recording_is_noticed(neural_session, exported, tmp_path):
    """One key changed in the recorded keys: from that frame on nothing is equal."""
    copy = tmp_path / "changed"
    shutil.copytree(neural_session, copy)
    table = sorted(copy.glob("chunk_*.csv"))[3]
    lines = table.read_text().splitlines()
    cells = lines[1].split(",")
    cells[2] = "1" if cells[2] == "0" else "0"
    lines[1] = ",".join(cells)
    table.write_text("\n".join(lines) + "\n")
    first = int(cells[0])
    output, _ = run_play("--replay", copy, "--verify", "--checkpoint", exported, code=1)
    assert f"the first is frame {first};" in output


def test_an_engine_session_is_simulated_again_bit_for_bit(tmp_path):
    """Of a world whose YAML is nowhere else, and is gone: the session carries it."""
    own = tmp_path / "own.yaml"
    own.write_text((CONFIGS / "tiny.yaml").read_text().replace("name: tiny", "name: own"))
    flags = ("--engine", "--config", own, "--headless", "--bot", "tourist", "--frames", 80, "--fps", 0)
    run_play(*flags, "--seed", 5, "--record", tmp_path)
    own.unlink()
    again = ("--replay", find_sessions(tmp_path)[0], "--verify")
    for more in ((), ("--engine",), ("--config", "configs/tiny.yaml")):
        assert "all 81 frames are bit-equal" in run_play(*again, *more)[0]
    assert "stopped early" in run_play(*again, "--frames", 10, code=1)[0], "what was not compared is not called equal"


@pytest.fixture
def recorded(tiny, tmp_path) -> Path:
    """A session that began in mid-game, so that it has a start state: 30 frames of the arena."""
    source = Recorder(real_game(tiny), tmp_path, world=tiny.name, clock=None, recording=False, name=lambda _: "s")
    source.reset(seed=5)
    source.start()
    for _ in range(29):
        source.step(np.zeros(8, np.int8))
    source.close()
    return tmp_path / "s"


def edit(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("end.json", '"frames": 30', '"frames": 31', "31 frames were recorded, 30 can be read"),
        ("chunk_000002.csv", "\n21,1.050000", "\n21,nan", "chunk_000002.csv: a time is not a number"),
        ("chunk_000002.csv", "\n21,1.05", "\n21,0.05", "chunk_000002.csv: a time is not a number, or goes"),
        ("chunk_000002.csv", "\n", "0\n", "chunk_000002.csv: not the table"),
        ("chunk_000002.csv", "\n29,1.450000,0,0,0,0,0,0,0,0,", "\n29,1.450000,0,0,0,0,0,0,0,0,1", "chunk_000002"),
        ("chunk_000002.csv", "1.600000,0,0,", "1.600000,0.5,1,", "equal to the recording; 10 rewards or ends differ"),
    ],
)
def test_what_is_not_whole_is_not_verified(recorded, file, old, new, words):
    edit(recorded / file, old, new)
    assert words in run_play("--replay", recorded, "--verify", code=1)[0]


def test_what_is_left_of_a_recording_is_verified(recorded):
    """Whatever is wrong with it, it is no recording that holds: exit code 1."""
    assert run_play("--replay", recorded, "--headless")[0].endswith("s: all 30 frames are bit-equal to the recording\n")
    (recorded / "end.json").unlink()
    (recorded / "chunk_000002.csv").unlink()
    output, _ = run_play("--replay", recorded, "--verify", code=1)
    assert "it has no chunk_000002.csv" in output and "s: all 20 frames are bit-equal to the recording\n" in output
    (recorded / "session.json").unlink()
    assert "session.json is missing" in run_play("--replay", recorded, "--verify", code=1)[1]


def test_a_recording_without_a_readable_frame_is_refused(recorded):
    (recorded / "chunk_000000.csv").write_text("nothing")
    output = refused("--replay", recorded, "--headless")
    assert "no frame of it can be read; chunk_000000.csv: not the table" in output


def test_a_recording_of_a_size_that_the_game_has_not_is_refused(recorded):
    edit(recorded / "session.json", '"height": 32', '"height": 1')
    assert "frame of 1x32" in refused("--replay", recorded, "--headless")


def test_a_recorded_state_that_is_none_is_refused(recorded):
    run_play("--replay", recorded, "--verify")
    state = Session.open(recorded).start_state
    for wrong in (state | {"position": np.full(2, np.nan)}, {"position": state["position"]}, state | {"turn": "east"}):
        np.savez(recorded / "start_state.npz", **wrong)
        assert "start_state.npz: an arena's" in refused("--replay", recorded, "--headless")


def test_the_real_game_says_that_it_compiles_only_when_it_does(tmp_path):
    flags = ("--engine", "--config", "configs/tiny.yaml", "--headless", "--bot", "mix", "--frames", 3, "--fps", 0)
    run_play(*flags)
    assert run_play(*flags)[1] == ""
    code = "from game.worlds.sources import is_compiled as c; print(c('arena'), c('keep'), c('of another package'))"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "True"], done.stderr


def test_a_data_set_is_made_with_one_command(tmp_path):
    flags = ("--engine", "--config", "configs/tiny.yaml", "--bot", "mix", "--headless", "--sessions", 3, "--frames", 30)
    run_play(*flags, "--rooms", 2, "--record", tmp_path)
    seeds = [Session.open(path).meta.seed for path in find_sessions(tmp_path)]
    assert seeds == [0, 1, 0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--world", "atlantis"), "no world 'atlantis'"),
        (("--headless",), "needs somebody to play"),
        (("--headless", "--bot", "cat"), "there are: explorer"),
        (("--headless", "--bot", "cat.py:Cat"), "cat.py: FileNotFoundError"),
        (("--headless", "--bot", f"{__file__}:Cat"), "test_play.py: has no class 'Cat'"),
        (("--sessions", 3), "--sessions needs"),
        (("--headless", "--bot", "mix"), "--headless needs an end"),
        (("--verify",), "--verify goes with --replay"),
        (("--engine", "--device", "cuda"), "leave them out with --engine"),
        (("--engine", "--collapse", "reprime"), "leave them out with --engine"),
        (("--engine", "--checkpoint", "nowhere"), "leave out --engine"),
        (("--engine", "--config", "nowhere.yaml"), "nowhere.yaml: no such configuration"),
        (("--engine", "--seed", "-1"), "--seed must be from 0"),
        (("--engine", "--seed", 2**63), "--seed must be from 0"),
        (("--engine", "--fps", "nan"), "--fps must be"),
        (("--engine", "--fps", "inf"), "--fps must be"),
        (
            ("--engine", "--headless", "--bot", "mix", "--record", "nowhere", "--sessions", "-2"),
            "--sessions must be at least 1",
        ),
        (("--engine", "--rooms", "0"), "--rooms must be at least 1"),
        (("--engine", "--video", "x.txt"), "must end in .mp4"),
        (("--engine", "--report", "play.py"), "must end in .json"),
        (("--engine", "--report", "/dev/null"), "must end in .json"),
        *(
            (("--engine", flag, f"/proc/x/{name}"), f"{flag} /proc/x/{name}: cannot be written (No such file")
            for flag, name in (("--report", "r.json"), ("--video", "v.mp4"), ("--record", "s"))
        ),
        (("--checkpoint", "https://example.org/keep"), "--checkpoint: must be on this machine; download it"),
        (("--engine", "--scale", "0"), "--scale must be at least 1"),
        (("--engine", "--map", "a.png"), "leave out --engine"),
        (
            ("--headless", "--bot", "mix", "--frames", 1, "--map", "a.png"),
            "takes 4 pictures for this world, here are 1",
        ),
        (("--headless", "--bot", "mix", "--frames", 1, "--map", *["play.py"] * 4), "play.py: no picture"),
        (("--headless", "--bot", "mix", "--frames", 1, "--draw"), "--draw needs a window"),
        (("--draw", "--world", "dodge"), "dodge has no map to draw on"),
        (("--replay", "nowhere"), "nowhere"),
        (("--checkpoint", "nowhere", "--headless", "--bot", "mix", "--frames", 1), "nowhere"),
    ],
)
def test_refusals_say_what_is_wrong(flags, words):
    assert words in refused(*flags)


def test_a_bot_that_knows_none_of_the_keys_is_refused(tmp_path):
    text = (CONFIGS / "tiny.yaml").read_text()
    other = tmp_path / "other.yaml"
    other.write_text(text.replace(re.search(r"keys: \[.*\]", text)[0], "keys: [fire, duck]"))
    flags = ("--engine", "--headless", "--sessions", 1, "--record", tmp_path / "out", "--config", other)
    assert "none of this world's keys (fire duck); take random" in refused(*flags, "--bot", "tourist")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_whoever_ends_the_game_its_outputs_are_finished(name, tmp_path):
    outputs = ("--record", tmp_path, "--report", tmp_path / "r.json", "--video", tmp_path / "v.mp4")
    flags = ("--engine", "--config", "configs/tiny.yaml", "--headless", "--bot", "masher", "--frames", 10**6)
    command = [sys.executable, "play.py", *map(str, flags + outputs), "--fps", "0"]
    number = getattr(signal, name)

    def ready():  # a background job of a shell has Ctrl-C ignored
        signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)

    game = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=ready
    )
    end = time.monotonic() + 60
    while not list(tmp_path.glob("*/chunk_000001.csv")):
        assert time.monotonic() < end and game.poll() is None
        time.sleep(0.1)
    game.send_signal(number)
    out, errors = game.communicate(timeout=60)
    assert game.returncode == (130 if name == "SIGINT" else 128 + number) and "Traceback" not in errors, errors
    session = Session.open(find_sessions(tmp_path)[0])
    assert not session.damage and f"recorded to {session.path}" in out
    frames = json.loads((tmp_path / "r.json").read_text())["frames"]
    assert len(session) >= 20 and 0 <= len(session) - frames <= 2  # the first frame, and a tick that was under way
    with av.open(str(tmp_path / "v.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) >= frames


def test_a_recording_that_fails_without_a_person_is_a_failure(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    flags = ("--engine", "--config", "configs/tiny.yaml", "--headless", "--bot", "mix", "--frames", 30, "--fps", 0)
    assert f"cannot be written ({tmp_path}/file is not a folder)" in refused(*flags, "--record", tmp_path / "file")
    with pytest.raises(SystemExit):
        run_play(*flags, "--record", "")


def test_without_a_display_it_says_what_to_do(recorded):
    """SDL left to itself would draw off screen, where nobody sees it. To verify a recording needs no display."""

    def run(*flags, **more):
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", **more}
        command = [sys.executable, "play.py", *map(str, flags)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment)
        return done.returncode, done.stdout + done.stderr

    for driver in ({}, {"SDL_VIDEODRIVER": "x11"}):
        code, output = run("--engine", "--config", "configs/tiny.yaml", **driver)
        assert code == 2 and "--headless" in output and "xvfb-run" in output
    code, output = run("--replay", recorded)
    assert code == 2 and "Without one: --verify;" in output and "--bot" not in output
    code, output = run("--replay", recorded, "--verify")
    assert code == 0 and "all 30 frames are bit-equal" in output


def test_a_missing_gpu_is_said_and_the_cpu_offered(exported):
    pytest.importorskip("onnxruntime")
    flags = ("--checkpoint", exported, "--headless", "--bot", "mix", "--frames", 1, "--device", "cuda")
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert "--device cpu" in refused(*flags)
    else:
        pytest.skip("there is a GPU here")
