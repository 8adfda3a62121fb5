"""The viewer: a recording frame by frame, by keys and mouse, and what is damaged in it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from game.play import viewer
from game.play.keyboard import Event
from game.play.viewer import Viewer
from world_model.episode import EpisodeError, Session, find_sessions
from world_model.episode.format import chunk_file

LAST = 59


class Script:
    """A screen to which events come one by one, a frame apart; ``None`` waits for the search of damage to end."""

    def __init__(self, *events):
        self.events, self.huds, self.frames = list(events), [], []

    def poll(self):
        if not self.events:
            return [Event("quit")]
        return list(filter(None, [self.events.pop(0)]))

    def show(self, frame, hud):
        self.huds.append(hud)
        self.frames.append(frame)


@pytest.fixture
def session(tiny_data, tmp_path) -> Session:
    """60 frames, in chunks of a second."""
    return Session.open(shutil.copytree(find_sessions(tiny_data)[0], tmp_path / "session"))


def looked(session: Session, *events) -> Script:
    screen = Script(*events)
    Viewer(session, screen).run()
    return screen


def key(name: str) -> Event:
    return Event("down", name)


def at(screen: Script) -> list[int]:
    return [hud.timeline.at for hud in screen.huds]


@pytest.fixture(autouse=True)
def as_fast_as_it_goes(monkeypatch):
    monkeypatch.setattr(viewer.time, "sleep", lambda seconds: None)


def test_it_plays_with_its_keys_and_stops_at_the_end(session):
    screen = looked(session, *[None] * 70)
    assert at(screen)[:3] == [0, 1, 2] and at(screen)[-5:] == [LAST] * 5
    for number in (0, 17, LAST):
        np.testing.assert_array_equal(screen.frames[number], session.frames(number, number + 1)[0])
        np.testing.assert_array_equal(screen.huds[number].held, session.actions[number])
    assert not screen.huds[5].notice and "Space" in screen.huds[-1].notice


@pytest.mark.parametrize(
    "keys, end",
    [
        (["right", "right", "left"], 1),
        (["page down", "right"], 21),
        (["page down", "page up", "left"], 0),
        (["end"], LAST),
        (["end", "home"], 0),
        (["end", "space"], 2),  # plays from the start
        (["space"], 0),
        (["space", "f1", "f1"], 0),  # which shows the keys and plays nothing
    ],
)
def test_keys_step_and_jump(session, keys, end):
    assert at(looked(session, *map(key, keys), None))[-1] == end


def test_a_step_that_is_held_goes_on(session, monkeypatch):
    monkeypatch.setattr(viewer, "HOLD", 0)
    screen = looked(session, key("right"), *[None] * 5, Event("up", "right"), None, None)
    assert at(screen)[-1] == at(screen)[-3] >= 6


def test_the_line_is_dragged_and_the_picture_is_not(session):
    def mouse(kind, x, y):
        return Event(kind, over=(x, y))

    start, end = viewer.MARGIN, 1 - viewer.MARGIN
    screen = looked(session, mouse("press", 0.5, 0.93), mouse("drag", end, 0.5), mouse("drag", 2.0, 0.5), None)
    assert at(screen)[0] in (29, 30) and at(screen)[1:] == [LAST] * 4
    screen = looked(session, mouse("press", start, 0.93), Event("let_go"), mouse("drag", end, 0.93), None)
    assert set(at(screen)) == {0}
    assert 0 < at(looked(session, mouse("press", end, 0.3), None))[-1] < 5, "it plays on"


def damage(session: Session) -> None:
    """Frames 25 and 45 of what was recorded are others: two numbers of their tables' last column are changed."""
    for number, row in ((1, 5), (2, 5)):
        table = chunk_file(session.path, number).with_suffix(".csv")
        lines = table.read_text().splitlines()
        head, _, crc = lines[row + 1].rpartition(",")
        lines[row + 1] = f"{head},{int(crc) ^ 1}"
        table.write_text("\n".join(lines) + "\n")


def test_damage_is_marked_and_jumped_to(session):
    damage(session)
    damaged = Session.open(session.path)
    found = np.concatenate(list(damaged.damaged())).tolist()
    assert found == [25, 45]
    screen = Script(key("space"))
    shown = Viewer(damaged, screen)
    shown._find_damage()
    screen.events += [key("j"), key("j"), key("j"), None]
    shown._find_damage = lambda: None
    shown.run()
    assert at(screen)[1:4] == [25, 45, 25] and screen.huds[-1].timeline.damaged == (25, 45)


def test_what_cannot_be_decoded_is_black_says_so_and_is_damage(session):
    chunk_file(session.path, 1).write_bytes(b"no film")
    damaged = Session.open(session.path)
    screen = looked(damaged, key("page down"), key("right"), None)
    assert not screen.frames[-1].any() and "cannot be decoded" in screen.huds[-1].notice
    assert np.concatenate(list(damaged.damaged())).tolist() == list(range(20, 40))


def test_the_whole_is_searched_while_one_looks(session):
    damage(session)
    screen, end = Script(key("space")), time.monotonic() + 20
    screen.poll = lambda: [Event("quit")] if (screen.huds and screen.huds[-1].timeline.damaged == (25, 45)) else []
    shown = Viewer(Session.open(session.path), screen)
    shown.playing = False
    show = screen.show
    screen.show = lambda frame, hud: show(frame, hud) if time.monotonic() < end else pytest.fail("not found")
    shown.run()


def test_a_recording_without_frames_is_refused(session):
    for file in Path(session.path).glob("chunk_*"):
        file.unlink()
    with pytest.raises(EpisodeError, match="no frame"):
        Viewer(Session.open(session.path), Script())
