"""Flags, configurations and checkpoints that nobody should write: each is used, or refused in a line, nothing else.

``FUZZ=100 python -m pytest tests/test_fuzz_inputs.py`` tries a hundred times as many.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from copy import deepcopy
from unittest.mock import patch

import numpy as np
import pytest
import yaml
from damage import FUZZ, TRIED, damage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import play
import train
from game.publish import site
from world_model import config
from world_model.checkpoint import CheckpointError
from world_model.config import CONFIGS, WORLDS, ConfigError
from world_model.play.neural_game import NeuralGame
from world_model.play.runtime import WorldError
from world_model.training.run import Run

STRANGE = [None, True, False, -1, 0, 1, 2, 3, 7, 0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), 2**31, 2**63,
           10**12, 10**40, "", "x", "os:system", "../..", "1", "ü", [], [1], [[]], {}, {"x": 1}, ["w"] * 3,
           list("abcdefgh") * 200]  # fmt: skip


def tried(examples: int):
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
    return settings(max_examples=examples * FUZZ, derandomize=True, deadline=None, database=None,
                    suppress_health_check=quiet)  # fmt: skip


def outcome(program, words: list[str], capsys, strange: str) -> None:
    """A program under these words ends by itself, and whatever it refuses, it refuses in words."""
    with patch.object(sys, "argv", [program.__name__, *words]), patch("signal.signal"):
        try:
            code = program.main()
        except SystemExit as end:
            code = end.code
    said = capsys.readouterr()
    assert code in (0, 1, 2), f"{words}: exit {code}"
    assert code != 2 or said.err.strip(), f"{words}: refused without a word"
    assert "Traceback" not in said.err
    came = {0: "done", 1: "done, with what is wrong told", 2: "refused in words"}[code]
    TRIED[f"{program.__name__}.py, strange {strange}", came] += 1


@contextmanager
def no_training():
    """train.py up to its first step, and without comparing matrix products."""
    checks = patch.object(Run, "stages", lambda run, names, *_: run._check_recordings(run._unfinished(names)))
    with checks, patch("world_model.training.distributed.faster_precision", lambda processes: (False, "")):
        yield


# ---------------------------------------------------------------- configurations


def paths(data, at=()) -> list[tuple]:
    """Where everything in nested mappings stands."""
    here = [(*at, key) for key in data] if isinstance(data, dict) else []
    return here + [path for place in here for path in paths(data[place[-1]], place)]


@st.composite
def configurations(draw) -> dict:
    """A configuration with one to three changes: another value, one key less, one more."""
    data = yaml.safe_load((CONFIGS / draw(st.sampled_from(["tiny.yaml", "tiny_keep.yaml"]))).read_text())
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(paths(data)))
        inside = data
        for key in way:
            inside = inside[key]
        change = draw(st.sampled_from(["change", "change", "change", "remove", "add"]))
        if change == "remove":
            del inside[last]
        else:
            inside[f"{last}2" if change == "add" else last] = deepcopy(draw(st.sampled_from(STRANGE)))
    return data


@tried(60)
@given(data=configurations())
def test_a_strange_configuration_is_used_or_refused(data, tiny_data, tmp_path, capsys):
    file = tmp_path / "strange.yaml"
    file.write_text(yaml.dump(data))
    try:
        assert min(config.load(file).latent_shape) > 0
    except ConfigError as error:
        assert "\n" not in str(error) and str(file) in str(error)
    headless = ["--headless", "--bot", "masher", "--frames", "2"]
    outcome(play, ["--engine", "--config", str(file), *headless], capsys, "configuration")
    with no_training():
        words = ["--config", str(file), "--data", str(tiny_data), "--out", str(tmp_path / "out")]
        outcome(train, words, capsys, "configuration")


@tried(60)
@given(text=st.binary(max_size=60) | st.text("{}[]:,-&*!|>'\"%@`# \n\tab1", max_size=60).map(str.encode))
def test_what_is_no_configuration_is_refused(text, tmp_path):
    file = tmp_path / "junk.yaml"
    file.write_bytes(text)
    with pytest.raises(ConfigError):
        config.load(file)
    TRIED["junk for a configuration", "refused in a line"] += 1


# ---------------------------------------------------------------- flags


def words_of(flags: dict, values: dict[str, list[str]]):
    """Command lines: any of the flags, each with a value that suits it or with another's, in any order."""
    every = sorted({value for some in values.values() for value in some})

    def one(flag: str):
        suits = values.get(flag)
        return st.just([flag]) if suits is None else st.sampled_from(suits * 3 + every).map(lambda value: [flag, value])

    return st.lists(st.sampled_from(sorted(flags)).flatmap(one), max_size=6).map(lambda parts: sum(parts, []))


def flags_of(program) -> set[str]:
    return {name for action in program.parser()._actions for name in action.option_strings if name.startswith("--")}


NUMBERS = ["0", "1", "2", "-1", "nan", "inf", "-inf", "0.5", "1e-9", "x", "", "9" * 19, "9" * 400, "１"]
PLACES = ["", ".", "/", "/dev/full", "/proc/self/mem", "no/such/place", "x" * 300, "configs/tiny.yaml",
          "assets/worlds/keep", "assets/worlds/arena"]  # fmt: skip


@tried(80)
@given(data=st.data())
def test_strange_flags_of_play_are_used_or_refused(data, tmp_path, capsys, monkeypatch):
    (tmp_path / "assets").symlink_to(WORLDS.parent) if not (tmp_path / "assets").exists() else None
    monkeypatch.chdir(tmp_path)  # for what it records
    monkeypatch.setattr(site, "_downloaded", lambda place: place / "nothing")  # npm may be there, and takes seconds
    short = {"--frames": ["1", "3"], "--sessions": ["1", "0", "-2"]}  # a long game is no failure
    few = {flag: st.sampled_from([*some, "x", "", "nan"]) for flag, some in short.items()}
    values = {"--world": ["keep", "arena", "tiny"], "--bot": ["mix", "masher", "cat"], "--fps": NUMBERS,
              "--seed": NUMBERS, "--scale": NUMBERS, "--rooms": NUMBERS, "--policy": ["hold", "reforce"],
              "--runtime": ["onnx", "torch"], "--device": ["cpu", "cuda"], "--collapse": ["ignore", "reprime"],
              "--config": PLACES, "--checkpoint": PLACES, "--replay": PLACES, "--report": [*PLACES, "r.json"],
              "--record": ["out"], "--map": PLACES,
              "--serve": ["x", "-1", "70000"], "--host": PLACES, "--video": [*PLACES, "a.mp4"],
              "--publish": PLACES, "--onnxruntime-web": PLACES}  # fmt: skip
    plain = {"--help", "--engine", "--verify", "--pixels", "--headless", "--draw"}
    assert flags_of(play) == plain | set(values) | set(short)
    words = data.draw(words_of(flags_of(play) - set(short), values))
    for flag, some in few.items():
        words += [flag, data.draw(some)] if flag == "--frames" or data.draw(st.integers(0, 3)) == 0 else []
    words += data.draw(st.sampled_from([[], ["--headless", "--bot", "masher"]]))
    outcome(play, words, capsys, "flags")


@tried(80)
@given(data=st.data())
def test_strange_flags_of_train_are_used_or_refused(data, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"--config": [str(CONFIGS / "tiny.yaml"), *PLACES], "--data": [str(tiny_data), *PLACES], "--out": ["out"],
              "--resume": [str(WORLDS / "arena"), str(WORLDS / "keep"), *PLACES], "--seed": NUMBERS,
              "--minutes": NUMBERS, "--steps-scale": NUMBERS, "--device": ["cpu", "cuda"],
              "--stage": ["teacher", "student_dmd", "all"], "--precision": ["float32", "bfloat16"],
              "--new-world": ["", "x", "ALE/None-v0", "no_module:x"], "--name": PLACES}  # fmt: skip
    assert flags_of(train) == set(values) | {"--help", "--generated", "--profile", "--no-compile"}
    base = ["--config", values["--config"][0], "--data", str(tiny_data)]
    words = base + data.draw(words_of(flags_of(train) - {"--profile"}, values))
    with no_training():
        outcome(train, words, capsys, "flags")


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("part", range(2))
def test_a_damaged_checkpoint_plays_or_is_refused(exported, tmp_path, part):
    for seed in range(part, 40 * FUZZ, 2):
        folder = tmp_path / "world"
        shutil.copytree(exported, folder)
        done = damage(folder, np.random.default_rng(seed))
        try:
            game = NeuralGame("arena", folder, ("onnx", "torch")[seed % 4 == 1])
            frame, _ = game.reset(seed=0)
            for _ in range(2):
                frame, *_ = game.step(np.zeros(8, np.int8))
            assert frame.shape == (32, 32, 3)
            TRIED["damaged checkpoint", "plays"] += 1
        except (CheckpointError, WorldError) as error:
            assert "\n" not in str(error)
            TRIED["damaged checkpoint", "refused in a line"] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {'; '.join(done)}: {type(error).__name__}: {error}") from error
        shutil.rmtree(folder)
