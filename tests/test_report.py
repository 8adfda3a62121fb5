"""The latency ledger, the statistics by the minute, and the report."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from game.play.curves import DAY, EVENTS, growth, rss_mb
from game.play.report import (
    KEPT,
    Durations,
    Ledger,
    Tick,
    as_text,
    main,
    percentiles,
    seconds_since_start,
    write_report,
)


def test_key_to_photon_is_wait_and_step_and_decode_and_draw():
    ledger = Ledger()
    ledger.add(Tick(sampled=1.000, stepped=1.030, shown=1.034, decode=0.010, arrivals=(0.975,)))
    summary = ledger.summary()
    assert summary["tick_ms"]["p50"] == pytest.approx(34)
    assert summary["step_ms"]["p50"] == pytest.approx(20)
    assert summary["decode_ms"]["p50"] == pytest.approx(10)
    assert summary["draw_ms"]["p50"] == pytest.approx(4)
    assert summary["key_to_photon_ms"]["wait"]["p50"] == pytest.approx(25)
    assert summary["key_to_photon_ms"]["p50"] == pytest.approx(25 + 34)


def test_every_event_of_a_tick_counts_and_a_tick_without_events_does_not():
    ledger = Ledger()
    ledger.add(Tick(1.0, 1.01, 1.02, arrivals=(0.96, 0.98)))
    ledger.add(Tick(1.05, 1.06, 1.07))
    photon = ledger.summary()["key_to_photon_ms"]
    assert photon["n"] == 2 and photon["p50"] == pytest.approx(50)


def test_frames_a_second_leave_out_pauses():
    ledger = Ledger()
    for start in (1.00, 1.05, 1.10):
        ledger.add(Tick(start, start, start))
    ledger.cut()
    for start in (9.00, 9.05):
        ledger.add(Tick(start, start, start))
    assert ledger.summary()["fps"] == pytest.approx(20, rel=1e-3)
    assert ledger.recent()["fps"] == pytest.approx(20, rel=1e-3)
    assert ledger.summary()["frames"] == 5


def test_a_game_that_does_not_keep_its_rate_is_called_slow():
    """After two slow seconds; one stall is not enough, and an unlimited rate is never too slow."""

    def paced(interval: float, wanted: float, stall: float = 0.0) -> Ledger:
        ledger = Ledger(wanted=wanted)
        for tick in range(61):
            at = tick * interval + stall * (tick > 50)
            ledger.add(Tick(at, at, at))
        return ledger

    for interval, wanted, stall, slow_of, share in (
        (0.05, 20, 0, None, 0),
        (0.1, 20, 0, 20, 1),
        (0.05, 20, 2.0, None, 0.333),
        (0.1, 10, 0, None, 0),
        (0.1, 0, 0, None, None),
    ):
        ledger = paced(interval, wanted, stall)
        assert ledger.recent()["slow_of"] == slow_of and ledger.summary()["slow_share"] == share
    assert "too slow 100% of the time" in as_text(paced(0.1, 20).summary())


def test_the_newest_durations_are_kept_and_no_memory_is_added():
    durations = Durations()
    size = durations.all().base.nbytes
    durations.add(range(KEPT + 7))
    assert len(durations) == KEPT and sorted(durations.all()) == list(range(7, KEPT + 7))
    assert durations.last(3).tolist() == [KEPT + 4, KEPT + 5, KEPT + 6]
    assert durations.all().base.nbytes == size


def test_nothing_measured_is_none_and_not_zero():
    summary = Ledger().summary()
    assert summary["fps"] is None and summary["tick_ms"] == {"p50": None, "p95": None, "p99": None}
    assert set(Ledger().recent().values()) == {None}
    assert percentiles(np.empty(0), 50) == {"p50": None}


def test_the_report_is_written_whole_and_into_new_folders(tmp_path):
    path = tmp_path / "new" / "out.json"
    write_report(path, {"fps": 20})
    assert json.loads(path.read_text()) == {"fps": 20}
    assert [p.name for p in path.parent.iterdir()] == ["out.json"]


def test_the_age_of_the_process_grows_with_the_clock():
    import time

    before = seconds_since_start()
    time.sleep(0.05)
    assert 0.02 < seconds_since_start() - before < 5
    assert before > 0.05, "the interpreter and pytest have started before this"


def played(ticks: int, fps: int = 1, frame=None, **fields) -> Ledger:
    """A ledger of ``ticks`` ticks of 10 ms; ``fields`` of Tick as functions of the tick, as ``frame``."""
    ledger = Ledger(fps)
    for tick in range(1, ticks + 1):
        values = {name: value(tick) for name, value in fields.items()}
        ledger.add(Tick(tick, tick + 0.005, tick + 0.010, **values), None if frame is None else frame(tick))
    return ledger


def test_a_row_a_minute_of_the_game():
    ledger = Ledger(fps=2)
    for tick in range(300):
        ledger.add(Tick(tick, tick, tick + (0.010 if tick < 120 else 0.030)))
    rows = ledger.summary()["minutes"]
    assert [row["minute"] for row in rows] == [1, 2, 3] and [row["ticks"] for row in rows] == [120, 120, 60]
    assert [row["tick_ms"]["p50"] for row in rows] == pytest.approx([10, 30, 30], abs=0.01)
    assert all(row["rss_mb"] == pytest.approx(rss_mb(), rel=0.5) for row in rows)
    assert rows[0]["sharpness"] is None and rows[0]["motion"] is None


def test_sharpness_and_motion_of_the_pictures():
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    rows = played(120, frame=lambda tick: noise[tick % 2] if tick <= 60 else noise[0] // 8).summary()["minutes"]
    assert rows[0]["motion"] > 50 and rows[1]["motion"] < 5
    assert rows[0]["sharpness"] > 4 * rows[1]["sharpness"] > 0


def test_collapses_and_primings_are_counted_by_the_tick():
    kinds = {3: "frozen", 4: "frozen", 5: "blurred", 70: "frozen"}
    ledger = played(80, collapse=kinds.get, reprimes=lambda tick: {50: 1, 51: 1, 70: 1}.get(tick, 0))
    summary = ledger.summary()
    assert summary["collapses"] == [
        {"tick": 3, "kind": "frozen", "ticks": 2},
        {"tick": 5, "kind": "blurred", "ticks": 1},
        {"tick": 70, "kind": "frozen", "ticks": 1},
    ]
    assert summary["collapse_count"] == {"frozen": 2, "blurred": 1}
    assert summary["reprimes"] == 2, "a new episode counts from 0 again"
    rows = summary["minutes"]
    assert rows[0]["collapsed"] == {
        "blurred": pytest.approx(1 / 60, abs=1e-3),
        "frozen": pytest.approx(2 / 60, abs=1e-3),
    }
    assert [row["reprimes"] for row in rows] == [1, 1]


def test_a_long_play_keeps_what_is_newest_and_no_more():
    ledger = played(60 * (DAY + 2), collapse=lambda tick: "frozen" if tick % 2 else None)
    summary = ledger.summary()
    assert len(summary["minutes"]) == DAY and summary["minutes"][-1]["minute"] == DAY + 2
    assert len(summary["collapses"]) == EVENTS and summary["collapse_count"] == {"frozen": 30 * (DAY + 2)}


def row(minute: int, rss: float, tick: float, ticks: int = 60) -> dict:
    return {"minute": minute, "ticks": ticks, "rss_mb": rss, "tick_ms": {"p50": tick, "p95": 2 * tick}}


def test_growth_leaves_out_the_first_minute_and_the_broken_last():
    rows = [row(1, 50, 99), *(row(m, 100, 10) for m in range(2, 7)), *(row(m, 102, 11) for m in range(7, 12))]
    rows.append(row(12, 999, 999, ticks=7))
    assert growth(rows, fps=1) == {"rss": 0.02, "tick_p50": pytest.approx(0.1), "tick_p95": pytest.approx(0.1)}
    assert set(growth(rows[:2], fps=1).values()) == {None}
    assert growth([row(m, None, 10) for m in range(5)], fps=1)["rss"] is None


def test_a_report_is_printed_and_drawn(tmp_path, capsys):
    path = tmp_path / "out.json"
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    ledger = played(300, frame=lambda tick: frames[tick % 2], collapse={9: "frozen"}.get)
    write_report(path, ledger.summary() | {"world": "arena"})
    assert main([str(path), "--plot", str(tmp_path / "curves.png")]) == 0
    text = capsys.readouterr().out
    assert "300 frames" in text and "frozen 1" in text and "memory from the first minutes to the last:" in text
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "plot", "words"),
    [
        (None, (), "cannot be read"),
        ("not json", (), "cannot be read"),
        ('{"fps": 20}', (), "is not a report"),
        (json.dumps(Ledger().summary()), ("--plot", "curves.png"), "nothing to draw"),
        ('{"minutes": []}', (), "lacks figures"),
        ('{"minutes": [], "tick_ms": 3, "collapse_count": []}', (), "lacks figures"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(tmp_path, capsys, content, plot, words):
    path = tmp_path / "out.json"
    if content is not None:
        path.write_text(content)
    assert main([str(path), *plot]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1


def test_without_matplotlib_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_report(tmp_path / "out.json", played(5).summary())
    assert main([str(tmp_path / "out.json"), "--plot", str(tmp_path / "x.png")]) == 2
    assert 'pip install -e ".[train]"' in capsys.readouterr().err
