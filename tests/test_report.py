"""The latency ledger and the report: sums by hand, and what does not count."""

from __future__ import annotations

import json

import numpy as np
import pytest

from game.report import KEPT, Durations, Ledger, Tick, percentiles, seconds_since_start, write_report


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
