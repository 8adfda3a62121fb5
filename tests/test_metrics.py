"""The metrics on pictures and samples whose values are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from world_model.evaluate.metrics import measure, obeyed, psnr, quantiles, ratio, ssim, sticky_keys
from world_model.play.pictures import motion, sharpness


def moving(seed: int, shift: int, count: int = 4) -> np.ndarray:
    """A smooth random texture [count, 32, 32, 3] that slides by ``shift`` pixels a frame."""
    noise = np.random.default_rng(seed).normal(0, 1, (32, 64, 3))
    blots = cv2.GaussianBlur(noise, (0, 0), 5)
    wall = (127 + 100 * blots / np.abs(blots).max()).astype(np.uint8)
    return np.stack([np.roll(wall, shift * (i + 1), 1)[:, 16:48] for i in range(count)])


def test_psnr_of_a_known_error():
    a = np.zeros((2, 8, 8, 3), np.uint8)
    assert psnr(a, a + 10) == pytest.approx(20 * np.log10(25.5), abs=1e-4)
    assert psnr(a, a)[0] == pytest.approx(60)


def test_blur_is_less_sharp_and_stillness_has_no_motion():
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    blurred = (frames.astype(int) + np.roll(frames, 1, 2) + np.roll(frames, 2, 2)) // 3
    assert sharpness(blurred.astype(np.uint8)).mean() < 0.8 * sharpness(frames).mean()
    assert motion(moving(0, 3)).mean() > 1 and not motion(frames[:1].repeat(3, 0)).any()


def test_a_key_is_obeyed_by_moving_the_right_way():
    still, right, left = moving(1, 0), moving(1, 1), moving(1, -1)
    assert obeyed(right, still, right, still).all()
    assert not obeyed(still, still, right, still).any(), "ignoring a key is not obeying it"
    assert not obeyed(left, still, right, still).any(), "nor is moving the other way"
    half = (right.astype(int) + still) // 2
    assert obeyed(half.astype(np.uint8), still, right, still).all(), "a weak effect of the right kind counts"


def test_intervals_hold_the_mean_and_groups_widen_them():
    samples = np.repeat(np.random.default_rng(0).normal(5, 1, 10), 20)
    alone, grouped = measure(samples), measure(samples, np.repeat(np.arange(10), 20))
    assert alone.low < alone.value < alone.high and alone.n == 200
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_a_ratio_is_not_dominated_by_one_bare_wall():
    assert ratio([5.0, 5.0, 5.0], [10.0, 10.0, 0.01]).value == pytest.approx(0.75, abs=0.01)
    assert ratio([1.0, 1.0], [0.0, 1.0]).high == 2, "of rooms that all stand still there is no ratio"


def test_sticky_keys_hold_every_key_and_also_nothing():
    keys = sticky_keys(0, 4000, 8)
    assert keys.any(0).all() and (keys.sum(1) == 0).mean() > 0.1
    assert np.array_equal(keys, sticky_keys(0, 4000, 8)) and not np.array_equal(keys, sticky_keys(1, 4000, 8))


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    wall = moving(3, 0, 1)
    noisy, noisier = (np.clip(wall + np.random.default_rng(0).normal(0, s, wall.shape), 0, 255) for s in (5, 20))
    other = moving(4, 0, 1)
    assert ssim(wall, wall)[0] == pytest.approx(1)
    assert ssim(wall, wall // 2 + 60)[0] > ssim(wall, other)[0], "contrast matters less than structure"
    assert 1 > ssim(wall, noisy.astype(np.uint8))[0] > ssim(wall, noisier.astype(np.uint8))[0]


def test_quantiles_tell_how_far_normals_are_apart():
    random = np.random.default_rng(0)
    a, moved, wider, other = (
        quantiles(random.normal(mean, deviation, (5000, 3))) for mean, deviation in ((0, 1), (2, 1), (0, 3), (0, 1))
    )
    assert np.abs(a - other).mean() < 0.05
    assert np.abs(a - moved).mean() == pytest.approx(2, abs=0.05)
    assert np.abs(a - wider).mean() == pytest.approx(2 * np.sqrt(2 / np.pi), abs=0.07)
