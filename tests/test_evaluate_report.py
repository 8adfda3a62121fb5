"""The evaluation report, the command from end to end, and the teacher baseline."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace

import cv2
import numpy as np
import pytest
from rich.console import Console

from world_model.checkpoint import WEIGHTS, describe
from world_model.episode.dataset import held_out_seed
from world_model.evaluate import __main__ as command
from world_model.evaluate import report as reports
from world_model.evaluate import teacher
from world_model.evaluate.evaluation_context import QUICK, SUITES, Pair
from world_model.evaluate.metrics import Measure
from world_model.evaluate.report import Curves, Gathered, Report
from world_model.evaluate.suite import EXPECTED

TINY = replace(
    QUICK,
    name="tiny",
    rooms=2,
    trained_rooms=1,
    seconds=(2, 4),
    rollout_ticks=40,
    next_frames=4,
    teacher_frames=2,
    teacher_steps=2,
    kept_seconds=2,
    identity_rooms=3,
    reference_ticks=60,
)


def one(value: float) -> Measure:
    return Measure(value, value - 1, value + 1, 7)


@pytest.fixture
def evaluation() -> tuple[Report, Gathered]:
    names = [name for name in EXPECTED if not name.startswith("drift_ratio_60min")]
    measures = {name: one(0.25 + index) for index, name in enumerate(names)}
    measures |= {"onset_four_frames_share": one(0.9)}
    measures |= {"drift_distance_10s": one(3), "drift_distance_60s": one(0.5), "drift_distance_60s@real": one(0.99)}
    about = {"world": "arena", "checkpoint": "abc<def>", "hardware": "none", "suite": {"name": "quick"}, "seed": 0}
    skipped = {"measures": {"drift_ratio_60min": "the suite 'quick' is too short for it"}}
    seconds = np.arange(1.0, 6.0)
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    strip = [1, 2, 5, 10, 60], Pair(frames, frames // 2)
    gathered = Gathered(Curves(*[seconds] * 7), [strip, strip])
    groups = {"measures": measures, "trained": measures}
    return Report(about, {"measures": [3], "trained": [4]}, groups, skipped), gathered


def test_the_page_is_one_file_with_every_measure_and_picture(evaluation, tmp_path):
    report, gathered = evaluation
    reports.write(tmp_path, report, gathered)
    page = (tmp_path / "report.html").read_text()
    assert all(f">{name}<" in page for name in report.groups["measures"] if "@" not in name)
    assert "drift_ratio_60min" in page and "abc&lt;def&gt;" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 3 and not re.search(r"url\(|<script|<link", page)
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64" and base64.b64decode(data)[:4] == b"\x89PNG"
    assert {path.name for path in tmp_path.glob("*.png")} == {"strip.png", "curves.png", "onset.png"}


def test_the_strip_shows_real_above_generated(evaluation, tmp_path):
    report, gathered = evaluation
    reports.write(tmp_path, report, gathered)
    strip = cv2.imread(str(tmp_path / "strip.png"))[..., ::-1]
    _, pair = gathered.strips[0]
    big = 112 // 16
    assert strip.shape == (2 * (18 + 2 * 112), 5 * 112, 3)
    assert np.array_equal(strip[18 : 18 + 112 : big, ::big], np.concatenate(list(pair.real), 1))
    assert np.array_equal(strip[18 + 112 : 18 + 224 : big, ::big], np.concatenate(list(pair.made), 1))


def test_a_world_without_key_changes_has_a_report_too(evaluation, tmp_path):
    report, gathered = evaluation
    measures = {name: m for name, m in report.groups["measures"].items() if not name.startswith("onset")}
    reports.write(tmp_path, replace(report, groups={"measures": measures}), gathered)
    assert "onset_first_frame_share" not in (tmp_path / "report.html").read_text()


def test_the_json_holds_measures_baselines_and_what_was_skipped(evaluation, tmp_path):
    report, gathered = evaluation
    reports.write(tmp_path, report, gathered)
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["measures"]["drift_distance_60s"] == {"value": 0.5, "low": -0.5, "high": 1.5, "n": 7}
    assert data["baselines"]["drift_distance_60s"]["real"]["value"] == 0.99
    assert set(EXPECTED) <= set(data["measures"]) | set(data["skipped"])
    assert not any("@" in name for name in data["measures"])
    assert data["rooms"] == {"measures": [3], "trained": [4]} and data["suite"] == {"name": "quick"}


def test_a_world_is_measured_from_end_to_end(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(SUITES, "quick", replace(TINY, rooms=1, trained_rooms=3))
    choices = Namespace(
        world=None, checkpoint=trained, suite="quick", rooms=2, runtime="auto", device="cpu", report=tmp_path
    )
    report, gathered = command.measured(choices, Console(quiet=True))
    assert all(map(held_out_seed, report.rooms["measures"])) and len(report.rooms["measures"]) == 2
    assert not any(map(held_out_seed, report.rooms["trained"])) and len(report.rooms["trained"]) == 2
    for group, measures in report.groups.items():
        assert set(EXPECTED) <= set(measures) | set(report.skipped[group])
        assert all(np.isfinite(m.value) and m.low <= m.value + 1e-9 for m in measures.values()), group
    assert report.groups["measures"]["next_frame_psnr_db@teacher"].n >= 2
    assert "too short" in report.skipped["measures"]["drift_ratio_10min"]
    reports.write(tmp_path, report, gathered)
    assert "next_frame_ssim" in (tmp_path / "report.html").read_text()


def test_the_teacher_follows_a_past_for_as_long_as_it_is_asked(trained):
    model = teacher.find(trained, describe(trained / WEIGHTS)[0])
    shape, latent = model.config.rolling, model.config.latent_shape
    past = np.random.default_rng(0).normal(size=(shape.recent_blocks + 1, 1, *latent)).astype(np.float32)
    sinks, acted = past[: shape.sink_frames, 0], np.zeros((len(past), 8))
    keys = np.tile(np.eye(8)[4], (9, 1))
    made = model.follow(sinks, past, acted, keys, 2)
    assert len(made) >= 9 and made.shape[1:] == latent and np.isfinite(made).all()
    assert np.array_equal(made, model.follow(sinks, past, acted, keys, 2))
    assert not np.array_equal(made[:9], model.follow(sinks, past, acted, keys * 0, 2)[:9])


def test_no_teacher_where_none_was_left(tmp_path, tiny):
    assert teacher.find(tmp_path, tiny) is None


def test_a_folder_that_is_no_world_is_refused_in_one_line(tmp_path):
    arguments = [sys.executable, "-m", "world_model.evaluate", "--checkpoint", str(tmp_path), "--report", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("evaluate: ") and done.stderr.count("\n") == 1
