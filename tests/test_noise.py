import numpy as np
import pytest

from world_model.model.noise import renoise, seeded, shifted, sigmas


def test_the_papers_levels():
    """Section 4.1 of arXiv 2509.25161: five steps, shift 5."""
    assert sigmas(5, 5.0) == pytest.approx((0, 0.5556, 0.7692, 0.8824, 0.9524, 1), abs=5e-5)


def test_without_shift_levels_are_even():
    assert sigmas(4, 1.0) == pytest.approx((0, 0.25, 0.5, 0.75, 1))


def test_shift_bends_towards_noise_and_keeps_the_ends():
    u = np.linspace(0, 1, 11)
    bent = shifted(u, 5.0)
    assert bent[0] == 0 and bent[-1] == 1
    assert (bent[1:-1] > u[1:-1]).all() and (np.diff(bent) > 0).all()


def test_renoise_goes_from_x0_to_noise_in_a_straight_line():
    x0, noise = np.full((2, 3), 2.0), np.full((2, 3), -1.0)
    sigma = np.array([0.0, 0.25, 1.0])
    np.testing.assert_allclose(renoise(x0, noise, sigma), [[2.0, 1.25, -1.0]] * 2)


def test_noise_is_a_function_of_seed_and_tick():
    first = [seeded(7, tick, (3, 5)) for tick in range(4)]
    again = [seeded(7, tick, (3, 5)) for tick in reversed(range(4))][::-1]
    np.testing.assert_array_equal(first, again)
    assert first[0].dtype == np.float32
    high = [seeded(7, counter, (3, 5)) for counter in (2**62, 2**63, 2**63 + 1)]  # of priming and of refilled windows
    different = [*first, *high, seeded(8, 0, (3, 5))]
    assert len({array.tobytes() for array in different}) == len(different)


def test_noise_is_standard_normal_and_ticks_share_nothing():
    samples = np.stack([seeded(1, tick, (4096,)) for tick in range(50)])
    assert abs(samples.mean()) < 0.01 and abs(samples.std() - 1) < 0.01
    assert len(np.unique(samples)) > 0.99 * samples.size  # a tick that ran into the next one would repeat its numbers
    assert abs(np.corrcoef(samples) - np.eye(50)).max() < 0.1
