"""The game on a page: who may play, who watches, what is refused; and in a browser, where there is one."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, Browser
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from game.play.screen import Hud
from game.serve.page import HEADER, Page
from world_model.episode import Session, find_sessions

ROOT = Path(__file__).resolve().parents[1]
FRAME = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)


@pytest.fixture
def page():
    with closing(Page(("w", "e"), "keep", "127.0.0.1", 0)) as page:
        yield page


@contextmanager
def visitor(page: Page | str, token: str | None = None):
    address, right = (page if isinstance(page, str) else page.address).split("#")
    with connect(address.replace("http", "ws") + "game", max_size=2**22) as socket:
        socket.send(right if token is None else token)
        yield socket


def words(socket, key: str) -> dict:
    """The next words that say something of ``key``."""
    while True:
        message = socket.recv(timeout=20)
        if isinstance(message, str) and key in (fields := json.loads(message)):
            return fields


def frame(socket) -> tuple[int, np.ndarray]:
    """The next frame, and the number of the key event that it answers."""
    while True:
        message = socket.recv(timeout=20)
        if isinstance(message, bytes):
            return HEADER.unpack(message[:8])[0], cv2.imdecode(np.frombuffer(message[8:], np.uint8), 1)[..., ::-1]


def polled(page: Page, count: int = 1) -> list:
    events, end = [], time.monotonic() + 20
    while len(events) < count and time.monotonic() < end:
        events += page.poll()
    return events


def closes(socket) -> int:
    """The code with which the server ends a connection."""
    with pytest.raises(ConnectionClosed) as error:
        for _ in itertools.count():
            socket.recv(timeout=20)
    return error.value.rcvd.code


def test_the_player_gets_frames_and_gives_keys(page):
    with visitor(page) as socket:
        assert words(socket, "keys")["keys"] == ["w", "e"]
        assert words(socket, "plays")["plays"]
        socket.send(json.dumps({"key": "w", "down": True, "number": 7}))
        (event,) = polled(page)
        assert (event.kind, event.key) == ("down", "w")
        hud = {"notice": "hello", "score": 3.0, "fps": 9.0, "slow_of": 20.0, "tick_ms": 40.04, "runs": "onnx on cpu"}
        page.show(FRAME, Hud(keys=("w", "e"), held=np.array([1, 0]), answers=(event.at,), **hud))
        fields = words(socket, "notice")
        assert (
            fields["held"] == [0] and fields["score"] == "score 3" and fields["rate"] == "slow: 9 of 20 frames a second"
        )
        assert fields["figures"] == {"runs": "onnx on cpu", "tick, ms": 40.0}
        newest, shown = frame(socket)
        assert newest == 7 and np.array_equal(shown, FRAME)
        page.show(FRAME, Hud())
        assert frame(socket)[0] == 0
        socket.send(json.dumps({"seen": 12.5}))
        socket.send(json.dumps({"key": "w", "down": False, "number": 8}))
        assert polled(page)[0].kind == "up" and list(page.latencies_ms) == [12.5]


@pytest.mark.parametrize("token", ["", "x", "ü" * 40, "0" * 24])
def test_nobody_comes_in_without_the_token(page, token):
    with visitor(page, token) as socket:
        assert closes(socket) == 4401
    assert page.poll() == []


JUNK = ["", "x", "[]", "{}", "[" * 400, b"\0" * 9, '{"seen": NaN}', '{"seen": "a"}',
        '{"key": "q", "down": true, "number": 1}', '{"key": "escape", "down": true, "number": 1}',
        '{"key": "w", "down": 1, "number": 1}', '{"key": "w", "down": true, "number": 1e99}']  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
def test_a_message_that_no_page_sends_ends_the_visit(page, junk):
    with visitor(page) as socket:
        words(socket, "plays")
        socket.send(junk)
        assert closes(socket) == 4400
    assert [event.kind for event in polled(page)] == ["blur"] and not page.latencies_ms


def test_a_message_of_any_length_ends_the_visit(page):
    with visitor(page) as socket:
        words(socket, "plays")
        socket.send("x" * 100_000)
        assert closes(socket) == 1009


def test_one_plays_and_the_others_watch_until_the_player_leaves(page):
    with visitor(page) as first:
        words(first, "plays")
        with visitor(page) as second:
            assert words(second, "plays") == {"plays": False, "watching": 1}
            second.send(json.dumps({"key": "w", "down": True, "number": 1}))
            page.show(FRAME, Hud())
            assert np.array_equal(frame(second)[1], FRAME) and np.array_equal(frame(first)[1], FRAME)
            assert page.poll() == []
            first.close()
            assert words(second, "plays")["plays"]
            assert [event.kind for event in polled(page)] == ["blur"]  # no key stays down
            second.send(json.dumps({"key": "e", "down": True, "number": 2}))
            assert polled(page)[0].key == "e"


def test_who_fetches_slowly_gets_the_newest_and_not_everything(page):
    big = np.random.default_rng(0).integers(0, 255, (192, 192, 3), np.uint8)
    with visitor(page) as slow, visitor(page) as fast:
        words(slow, "plays"), words(fast, "plays")
        for tick in range(250):
            page.show(big, Hud(place=str(tick)))
            frame(fast)
        ticks = []
        while not ticks or ticks[-1] < 250:
            message = slow.recv(timeout=20)
            ticks += [HEADER.unpack(message[:8])[1]] if isinstance(message, bytes) else []
    assert len(ticks) < 200 and ticks == sorted(ticks)


def test_what_was_said_is_reported_to_who_comes_later(page):
    page.poll()
    page.show(FRAME, Hud(place="room 3"))
    with visitor(page) as socket:
        assert words(socket, "place")["place"] == "room 3" and np.array_equal(frame(socket)[1], FRAME)


def test_a_port_that_is_taken_is_reported():
    with closing(Page(("w",), "keep", "127.0.0.1", 0)) as page:
        port = page.address.split(":")[2].split("/")[0]
        done = subprocess.run([sys.executable, "play.py", "--engine", "--serve", port], cwd=ROOT, capture_output=True,
                              text=True, timeout=120)  # fmt: skip
    assert (
        done.returncode == 2 and f"cannot serve on 127.0.0.1:{port}" in done.stderr and "Traceback" not in done.stderr
    )


@pytest.fixture
def served(tmp_path):
    """play.py on a page: its address, and the folder that it records into."""
    command = [sys.executable, "play.py", "--engine", "--config", "configs/tiny_keep.yaml", "--serve", "0", "--record"]

    def reset():
        signal.signal(signal.SIGINT, signal.default_int_handler)

    game = subprocess.Popen(
        [*command, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=reset,
    )
    address = re.search(r"http://\S+", game.stdout.readline())[0]
    yield address, tmp_path
    game.send_signal(signal.SIGINT)
    out, errors = game.communicate(timeout=60)
    assert "Traceback" not in errors and "recorded to" in out and "key to photon" in out, errors


def until_recorded(folder: Path, key: int, ticks: int) -> None:
    """Wait until the recording says that a key was held for so many ticks; it is written every half second."""
    end = time.monotonic() + 30
    while Session.open(find_sessions(folder)[0]).actions[:, key].sum() < ticks:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_whole_game_is_played_through_a_socket(served):
    address, folder = served
    assert b"<canvas" in urllib.request.urlopen(address.split("#")[0], timeout=20).read()
    with visitor(address) as socket:
        words(socket, "plays")
        before = frame(socket)[1]
        socket.send(json.dumps({"key": "right", "down": True, "number": 1}))  # stands for d
        while frame(socket)[0] != 1:
            pass
        for _ in range(25):
            after = frame(socket)[1]
        assert not np.array_equal(before, after)
        until_recorded(folder, 3, 5)
        socket.send(json.dumps({"seen": 40}))


# ---------------------------------------------------------------- in a browser


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_person_plays_in_a_browser(served, tmp_path_factory):
    address, folder = served
    with closing(Browser(tmp_path_factory.mktemp("chromium"))) as browser:
        browser.call("Page.navigate", url=address)
        browser.until("document.body.dataset.plays === 'true' && Number(at('screen').dataset.frames) > 5")
        browser.ask("document.querySelector('details').open = true")
        sides = browser.ask("(box => [box.width, box.height])(at('screen').getBoundingClientRect())")
        assert sides[0] == sides[1] > 64, "a frame is not stretched, however long the words beside it"
        browser.key("keyDown", "d")
        browser.until("document.querySelectorAll('#keys .held').length === 1")
        browser.until("waits.length > 0")
        browser.key("keyUp", "d")
        browser.until("document.querySelectorAll('#keys .held').length === 0")
        until_recorded(folder, 3, 1)
        assert browser.ask("waits[0]") > 0
        browser.call("Page.navigate", url="about:blank")
        browser.call("Page.navigate", url=address)
        browser.until("document.body.dataset.plays === 'true' && Number(at('screen').dataset.frames) > 5")
        browser.call("Page.navigate", url="about:blank")
        browser.call("Page.navigate", url=address.split("#")[0] + "#wrong")
        browser.until("at('notice').textContent.includes('token')")
