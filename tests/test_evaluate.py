"""The measures on games whose values are known: the real arena in the place of the model, with one fault at most."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import cv2
import gymnasium
import numpy as np
import pytest

from game.worlds.arena import Arena
from game.worlds.keep import Keep
from world_model.evaluate import control, picture, place, sprites
from world_model.evaluate.drift import drift
from world_model.evaluate.evaluation_context import QUICK, EvaluationContext, NotMeasured
from world_model.evaluate.suite import evaluate

SHORT = replace(QUICK, seconds=(2, 4), rollout_ticks=40, kept_seconds=4, reference_ticks=400, identity_rooms=6)


class Posing:
    """The real arena with the methods of a neural game, and one fault at most.

    deaf ignores all keys; blurred blurs every frame; lost is in another room; forgetful switches its lights back on
    after a second.
    """

    runtime = SimpleNamespace(encode=lambda frames: frames, decode=lambda latents: latents)

    def __init__(self, config, fault: str = ""):
        self.config, self.fault, self.arena = config, fault, Arena(config.world.height, config.world.width)
        self.get_state, self.set_state = self.arena.get_state, self.arena.set_state

    def reset(self, *, seed=None, options=None):
        self.ticks = 0
        return self.arena.reset(seed=seed + 5 if self.fault == "lost" else seed)

    def step(self, action):
        self.ticks += 1
        if self.fault == "forgetful" and self.ticks > 20:
            self.arena.set_state(self.arena.get_state() | {"lights": np.array(1)})
        frame, *rest = self.arena.step(action * 0 if self.fault == "deaf" else action)
        return (cv2.GaussianBlur(frame, (0, 0), 2) if self.fault == "blurred" else frame), *rest


def context(config, fault: str = "", rooms=(0, 1), **choices) -> EvaluationContext:
    real = Arena(config.world.height, config.world.width)
    return EvaluationContext(Posing(config, fault), real, list(rooms), replace(SHORT, **choices))


def test_a_perfect_game_obeys_at_once_and_a_deaf_one_never(tiny):
    assert control.onset(context(tiny))["onset_first_frame_share"].value == 1
    deaf = control.onset(context(tiny, "deaf"))
    assert all(measure.value == 0 for measure in deaf.values())


def test_a_perfect_game_is_as_sharp_and_as_lively_as_the_real_one(tiny):
    ratios = picture.persistence(context(tiny))
    assert ratios["sharpness_ratio_2s"].value == ratios["motion_ratio_4s"].value == 1
    assert ratios["sharpness_ratio"] == ratios["sharpness_ratio_4s"]
    assert ratios["motion_ratio@copy_last"].value == 0 and ratios["sharpness_ratio@floor"].value == 1


def test_a_deaf_game_does_not_move_and_a_blurred_one_is_not_sharp(tiny):
    assert picture.persistence(context(tiny, "deaf"))["motion_ratio"].value == 0
    blurred = picture.persistence(context(tiny, "blurred"))
    assert blurred["sharpness_ratio"].value < 0.7
    assert blurred["motion_ratio"].value > 0.3


def test_a_ratio_to_a_game_that_stands_still_is_not_measured(tiny, monkeypatch):
    monkeypatch.setattr(picture, "motion", lambda frames: np.zeros(len(frames) - 1))
    assert {name.split("_")[0] for name in picture.persistence(context(tiny))} == {"sharpness"}


def test_a_perfect_game_rolls_out_exactly_and_beats_the_copied_frame(tiny):
    measures = picture.rollout(context(tiny))
    assert measures["rollout63_psnr_db"].value == pytest.approx(60)
    assert measures["rollout63_gain_over_copy_last_db"].value > 20
    lost = picture.rollout(context(tiny, "lost"))
    assert lost["rollout63_psnr_db"].value < 25


def test_a_game_without_anchors_starts_after_the_frames_of_a_start_scene(tiny):
    """Sinks, then a full context; every rollout of the real game starts after them."""

    class Plain(gymnasium.Wrapper):
        unwrapped = property(lambda self: self)
        anchors = property()  # an AttributeError

    met = context(tiny)
    met.real, given = Plain(met.real), {}
    met.neural.reset = lambda seed, options: given.update(options)
    (shown, _), roll = met.reset(3), tiny.rolling
    real, still = Arena(tiny.world.height, tiny.world.width), np.zeros(8, np.int8)
    count = roll.sink_frames + (roll.recent_blocks + 1) * roll.frames_per_block
    frames = np.stack([real.reset(seed=3)[0], *(real.step(still)[0] for _ in range(count - 1))])
    assert np.array_equal(given["anchors"], frames[: roll.sink_frames])
    assert np.array_equal(given["frames"], frames[roll.sink_frames :]) and np.array_equal(shown, frames[-1])
    turn = np.eye(8, dtype=np.int8)[[4]]
    assert np.array_equal(met.play_real(3, turn), np.stack([frames[-1], real.step(turn[0])[0]]))


def test_a_game_that_hardly_moves_has_no_next_frame_measures(tiny):
    """Nor an onset: no key changes anything."""
    still = context(tiny)
    still.real.step = lambda action: (still.real.reset(seed=0)[0], 0.0, False, False, {})
    for part, reason in ((picture.next_frame, "no frame of the real game changes"), (control.onset, "no key change")):
        with pytest.raises(NotMeasured, match=reason):
            part(still)


def test_key_changes_cover_every_key(tiny):
    changes = control._changes(tiny.action_size, 0)
    assert np.max([after for _, after in changes], axis=0).all()


def test_late_windows_and_glimpses_are_cut_where_they_should_be(tiny):
    paired = context(tiny, late_seconds=(10,), late_rooms=1, late_glimpse=3).rollouts[0]
    keys = context(tiny).keys(0, 12 * 20)
    real = Arena(tiny.world.height, tiny.world.width)
    frames = np.stack([real.reset(seed=0)[0], *(real.step(key)[0] for key in keys)])
    assert np.array_equal(paired.window(10).real, frames[161:241])
    assert np.array_equal(paired.window(10).made, paired.window(10).real)
    assert np.array_equal(paired.window(2).real, frames[1:81])
    assert list(paired.glimpses) == [1, 2, 3, 4, 5, 6, 9, 12]
    assert np.array_equal(paired.glimpses[9].real, frames[179:181])


def test_drift_is_that_of_the_real_game_unless_the_frames_fade(tiny):
    perfect = drift(context(tiny))
    assert perfect["drift_ratio_4s"] == perfect["drift_ratio_4s@real"]
    fading = context(tiny)
    for paired in fading.rollouts:
        paired.made[80:] //= 8
    assert drift(fading)["drift_ratio_4s"].value > 1.5 * perfect["drift_ratio_4s"].value


def test_the_room_of_a_perfect_game_is_identified_and_of_one_lost_in_another_is_not(tiny):
    perfect = place.room_identity(context(tiny))
    assert perfect["room_identity_share"] == perfect["room_identity_share@real"]
    assert perfect["room_identity_share"].value >= 0.5
    assert place.room_identity(context(tiny, "lost"))["room_identity_share"].value == 0


def test_turning_round_comes_back_only_in_the_same_place(tiny):
    perfect = place.loop_closure(context(tiny))
    assert perfect["loop_closure_ssim_gap"].value == pytest.approx(0)
    assert perfect["loop_closure_ssim_gap"].n == 4, "both ways round, in two rooms"
    assert perfect["loop_halfway_ssim"].value == pytest.approx(1)
    frozen = place.loop_closure(context(tiny, "deaf"))
    assert frozen["loop_closure_ssim_gap"].value == pytest.approx(0)
    assert frozen["loop_halfway_ssim"] == frozen["loop_halfway_ssim@copy_last"]
    assert frozen["loop_halfway_ssim"].value < 0.8, "a frozen frame closes every loop, but is another one halfway"


def test_a_game_that_moves_by_itself_does_not_close_the_loop(tiny):
    wandering = context(tiny)
    step = wandering.neural.step
    wandering.neural.step = lambda action: step(np.maximum(action, np.eye(8, dtype=np.int8)[0]))
    assert place.loop_closure(wandering)["loop_closure_ssim_gap"].value > 0.1


def test_the_lights_stay_as_switched_or_are_forgotten(tiny):
    assert place._toggles(context(tiny)) == [tiny.world.keys.index("e")]
    kept = place.lights_kept(context(tiny))
    assert kept["lights_kept_share"].value == 1 and kept["lights_kept_share@copy_last"].value == 0
    assert place.lights_kept(context(tiny, "deaf"))["lights_kept_share"].value < 0.5
    forgotten = place.lights_kept(context(tiny, "forgetful"))["lights_kept_share"]
    assert forgotten.value <= 0.3 and forgotten.n == 8, "a second of four"


def test_a_game_without_loops_and_toggles_is_not_measured(tiny):
    deaf = context(tiny)
    deaf.real = Posing(tiny, "deaf")
    deaf.real.unwrapped = deaf.real.arena
    for part in (place.loop_closure, place.lights_kept):
        with pytest.raises(NotMeasured, match="no key"):
            part(deaf)


def test_every_name_is_measured_or_skipped(tiny, monkeypatch):
    from world_model.evaluate import suite

    parts = {part: suite.PARTS[part] for part in (picture.rollout, picture.persistence, drift)}
    monkeypatch.setattr(suite, "PARTS", parts)
    measures, skipped = evaluate(context(tiny))
    assert set(measures) | set(skipped) >= {name for names in parts.values() for name in names}
    assert {name for name in skipped if "@" not in name} == {f"drift_ratio_{at}" for at in ("60s", "10min", "60min")}


class PosingKeep:
    """The real keep with the methods of a neural game, and one fault at most: gone has no hero, late is a tick late."""

    runtime = Posing.runtime

    def __init__(self, config, fault: str = ""):
        self.config, self.fault, self.keep = config, fault, Keep()

    def reset(self, *, seed=None, options=None):
        self.before, info = self.keep.reset(seed=seed)
        return self.before, info

    def step(self, action):
        frame, *rest, info = self.keep.step(action)
        before, self.before = self.before, frame
        if self.fault == "gone":
            x, y = info["position"]
            frame = frame.copy()
            frame[y : y + 8, x : x + 8] = self.keep.anchors()[info["room"], y : y + 8, x : x + 8]
        return (before if self.fault == "late" else frame), *rest, info


class ShortKeep(Keep):
    """Its episodes end after 15 ticks and cannot be stepped after that."""

    def reset(self, **how):
        self.left = 15
        return super().reset(**how)

    def step(self, action):
        self.left -= 1
        assert self.left >= 0
        frame, reward, _, _, info = super().step(action)
        return frame, reward, self.left == 0, False, info


def test_both_games_stop_where_the_real_episode_ends(tiny_keep):
    context = EvaluationContext(PosingKeep(tiny_keep), ShortKeep(), [0, 1], replace(SHORT, seconds=(2, 12)))
    (paired, _), played = context.rollouts, context.play_real(0, context.keys(0, 40))
    for frames, last in ((paired.real, 15), (paired.made, 14), (played, 15)):
        assert (frames[last:] == frames[last]).all() and (frames[last - 1] != frames[last]).any()
    assert (paired.made[:15] == paired.real[1:16]).all()


def test_sprites_are_in_place_in_a_perfect_keep_and_a_missing_hero_is_measured(tiny_keep, monkeypatch):
    monkeypatch.setattr(picture, "next_from_real", lambda context, paired, at: paired.real[at : at + 1])
    values = []
    for fault in ("", "gone", "late"):
        faulty = EvaluationContext(PosingKeep(tiny_keep, fault), Keep(), [0, 1, 2], replace(SHORT, seconds=(2, 12)))
        measures = picture.cells(faulty) | sprites.sprites(faulty)
        values.append({name: measure.value for name, measure in measures.items()})
    perfect, gone, late = values
    own = {name: value for name, value in perfect.items() if "@" not in name}
    names = {"cells_equal_next", "cells_equal_10s", "hero_there_10s", "hero_somewhere_10s", "flip_room_right"}
    assert names <= set(own) and set(own.values()) == {1.0}
    assert perfect["cells_equal_10s@first_kept"] < 0.9 and perfect["cells_equal_next@copy_last"] < 1
    assert gone["hero_somewhere_10s"] == gone["hero_there_10s"] == 0 and gone["room_right_10s"] == 1
    assert late["hero_somewhere_10s"] == 1 and late["cells_equal_10s"] < 1 and late["flip_room_right"] < 1
