"""The measures on games whose answers are known: the real arena posing as a model, and one that ignores its keys."""

from __future__ import annotations

import numpy as np
import pytest

from game.arena import Arena
from world_model.evaluate import control, picture
from world_model.evaluate import subject as subjects
from world_model.evaluate.subject import Subject


class Posing:
    """The real arena with the verbs of a neural game; deaf, it stands still whatever is pressed."""

    def __init__(self, config, deaf: bool = False):
        self.config, self.deaf, self.arena = config, deaf, Arena(config.world.height, config.world.width)

    def reset(self, *, seed=None, options=None):
        return self.arena.reset(seed=seed)

    def step(self, action):
        return self.arena.step(action * 0 if self.deaf else action)

    def get_state(self):
        return self.arena.get_state()

    def set_state(self, state):
        self.arena.set_state(state)


def subject(config, deaf: bool = False) -> Subject:
    return Subject(Posing(config, deaf), Arena(config.world.height, config.world.width), [0, 1])


def test_a_perfect_game_obeys_at_once_and_a_deaf_one_never(tiny):
    assert control.onset(subject(tiny))["onset_first_frame_share"].value == 1
    deaf = control.onset(subject(tiny, deaf=True))
    assert all(measure.value == 0 for measure in deaf.values())


def test_a_perfect_game_is_as_sharp_and_as_lively_as_the_real_one(tiny, monkeypatch):
    monkeypatch.setattr(subjects, "SECONDS", (3,))
    ratios = picture.persistence(subject(tiny))
    assert ratios["sharpness_ratio_3s"].value == ratios["motion_ratio_3s"].value == 1
    deaf = picture.persistence(subject(tiny, deaf=True))
    assert deaf["motion_ratio_3s"].value == 0


def test_a_perfect_game_rolls_out_exactly_and_beats_the_copied_frame(tiny, monkeypatch):
    monkeypatch.setattr(subjects, "SECONDS", (3,))
    measures = picture.rollout(subject(tiny), ticks=40)
    assert measures["rollout63_psnr_db"].value == pytest.approx(60)
    assert measures["rollout63_gain_over_copy_last_db"].value > 20


def test_key_changes_cover_every_key(tiny):
    changes = control._changes(tiny.action_size, 0)
    assert np.max([after for _, after in changes], axis=0).all()
