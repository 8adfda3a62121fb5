"""The real game beside the neural one, and pictures of what was played."""

import cv2
import gymnasium
import numpy as np
import pytest
from PIL import Image
from script import Short, down, play

import game.register  # noqa: F401 (registers the worlds)
from game.actions import KEEP_KEYS
from game.play import reference_game
from game.play.camera import Camera
from game.play.keyboard import Event
from game.worlds.keep import Keep
from world_model.play.neural_game import NeuralGame
from world_model.play.pictures import cells_apart
from world_model.play.real_game import open_game


@pytest.fixture(scope="module")
def neural() -> NeuralGame:
    return NeuralGame("keep", device="cpu")


def test_the_real_game_plays_the_same_keys_from_the_same_place(neural):
    """From the moment that one is in, also after going back in time before and with it."""
    turn = [Event("down", "backspace")], [Event("up", "backspace")]
    plan = {3: down("d"), 8: turn[0], 11: turn[1], 16: down("v"), 26: turn[0], 29: turn[1], 36: down("escape")}
    screen = play(neural, plan)
    begins = next(i for i, hud in enumerate(screen.huds) if hud.beside is not None)
    references = [hud.beside[1] for hud in screen.huds[begins:]]
    assert begins in (17, 18) and any(hud.rewound for hud in screen.huds)
    assert not any(np.array_equal(frame, screen.shown[0]) for frame in screen.shown[begins:]), "the room goes on"
    assert not np.array_equal(references[0], references[4])
    apart = [cells_apart(made, real).mean() for made, real in zip(screen.shown[begins:], references, strict=True)]
    assert max(apart[:6]) < 0.02 and np.mean(apart) < 0.05
    fixed = [cells_apart(made, references[0]).mean() for made in screen.shown[begins:]]
    assert np.mean(fixed) > np.mean(apart)


def test_there_is_no_real_game_of_another_map_nor_of_a_real_game(neural):
    plan = {2: down("v"), 8: down("t"), 12: down("v"), 16: down("home"), 19: down("v"), 23: down("escape")}
    huds = play(neural, plan).huds
    assert huds[6].beside is not None and huds[9].beside is None and huds[-1].beside is not None
    assert huds[14].beside is None and "no real game of this map" in huds[14].notice
    drawn = neural.place(5)
    huds = play(neural, {2: down("v"), 8: down("home"), 14: down("escape")}, map=drawn).huds
    assert all(hud.beside is None for hud in huds[8:]) and "no real game" in huds[7].notice
    assert np.array_equal(huds[7].anchors, drawn) and np.array_equal(huds[-1].anchors, drawn)  # from its start, too
    real = gymnasium.make("rollplay/Keep-v0", disable_env_checker=True)
    huds = play(real, {2: down("v"), 8: down("escape")}).huds
    assert huds[-1].beside is None and "real game" in huds[-1].notice


def test_a_real_game_whose_episode_is_over_is_no_longer_shown(neural, monkeypatch):
    monkeypatch.setattr(reference_game, "open_game", lambda world: Short(open_game(world), 6))
    huds = play(neural, {3: down("v"), 12: down("v"), 16: down("escape")}).huds
    assert huds[5].beside is not None and huds[8].beside is None and "beside this one is over" in huds[8].notice
    assert huds[-1].beside is None and "real game's episode is over under these keys" in huds[-1].notice


def test_a_moment_that_the_real_game_cannot_follow_to_is_reported(neural, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    huds = play(neural, {2: down("f5"), 5: down("f9"), 8: down("v"), 12: down("escape")}).huds
    assert huds[-1].beside is None and "cannot follow" in huds[-1].notice


def test_where_two_frames_differ():
    one = np.full((64, 64, 3), 100, np.uint8)
    other = one.copy()
    other[5, 9], other[40, 40] = 100 + 8, 100 + 9
    assert np.argwhere(cells_apart(one, other)).tolist() == [[10, 10]]


def test_a_film_and_a_picture_show_what_was_played(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    camera = Camera(KEEP_KEYS, 20)
    frames = [np.full((64, 64, 3), i, np.uint8) for i in range(230)]
    for frame in frames:
        camera.look(frame, np.zeros(len(KEEP_KEYS), np.int8))
    picture = cv2.imread(str(camera.picture()))
    assert picture.shape == (512, 512, 3) and (picture == 229).all()
    path = camera.film()
    film = cv2.VideoCapture(str(path))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 200 and film.get(cv2.CAP_PROP_FPS) == 20
    with Image.open(path.with_suffix(".gif")) as moving:
        assert moving.n_frames == 200 and moving.size == (256, 256) and moving.info["duration"] == 50
        assert np.asarray(moving.convert("RGB"))[0, 0].tolist() == [30, 30, 30]
    assert camera.film() != path


def test_a_capture_that_cannot_be_written_is_reported(neural, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captures").write_text("in the way")
    huds = play(neural, {2: down("f12"), 5: down("escape")}).huds
    assert "captures" in huds[-1].notice


def test_a_real_game_that_cannot_be_copied_follows_and_cannot_go_back(neural, monkeypatch):
    monkeypatch.delattr(Keep, "get_state")
    plan = {6: down("v"), 10: [Event("down", "backspace")], 13: [Event("up", "backspace")], 16: down("escape")}
    huds = play(neural, plan).huds
    assert huds[8].beside is not None and huds[-1].beside is None and any(hud.rewound for hud in huds)
