"""The site that plays in a browser: its noise, its frames beside Python's, its page, and who may write it where."""

from __future__ import annotations

import base64
import errno
import functools
import gzip
import hashlib
import http.server
import json
import os
import shutil
import struct
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
import toy
from browser import CHROMIUM, Browser
from PIL import Image

import play
from game.play import command
from game.publish import site
from game.record.replay import Replay
from world_model.episode import EpisodeError, Session, find_sessions, from_browser
from world_model.episode import format as writing
from world_model.episode.__main__ import main as episodes
from world_model.episode.dataset import Clips, DatasetSplit, encode_session
from world_model.model.noise import seeded
from world_model.play import export
from world_model.play.neural_game import PRIME, REFILL, NeuralGame
from world_model.play.runtime import GRAPHS

NODE = shutil.which("node")
PAGE = Path(site.__file__).parent / "page"
SEED = 1


@pytest.fixture(scope="session")
def game(exported) -> NeuralGame:
    return NeuralGame("arena", exported, "onnx", "cpu")


@pytest.fixture(scope="session")
def wild(tmp_path_factory) -> NeuralGame:
    """A world with a mixture head, which predicts rewards and ends and draws its chance from the tick's noise."""
    folder = tmp_path_factory.mktemp("wild")
    shape = toy.load("tiny_mixture").model_copy(update={"name": "the wild"})  # addresses write it otherwise
    toy.save(folder, shape, seed=1)  # with others it ends in the first tick
    toy.add_scenes(folder, shape)
    with pytest.MonkeyPatch.context() as patch:  # the graphs that a page needs; the others take as long again
        graphs = export._graphs
        patch.setattr(export, "_graphs", lambda *of: {n: g for n, g in graphs(*of).items() if n in site.GRAPHS})
        export.export(folder)
    for name in set(GRAPHS) - set(site.GRAPHS):
        (folder / f"{name}.onnx").touch()
    return NeuralGame("the wild", folder, "onnx", "cpu")


@pytest.fixture
def package(tmp_path) -> Path:
    """A folder that looks like the package that the page needs, to be written but not run."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": site.VERSION}))
    for name in site.PARTS.values():
        (folder / name).write_bytes(b"not run")
    return folder


# ---------------------------------------------------------------- what is written


def test_a_site_is_written_whole(game, package, tmp_path):
    size = site.publish([game], tmp_path / "site", package)
    written = {path.relative_to(tmp_path / "site").as_posix(): path for path in (tmp_path / "site").rglob("*.*")}
    parts = {"index.html", "main.js", "ort.js", "ort.wasm.bin", "licences.txt", "worlds/arena/scenes/12.bin"}
    assert parts <= set(written)
    assert size == sum(path.stat().st_size for path in written.values())
    (about,) = json.loads(written["worlds.json"].read_text())["worlds"]
    assert about["scenes"] == ["3", "12", "100"] and about["keys"] == list(game.metadata["keys"]) and not about["card"]
    with Image.open(written["worlds/arena/demo.webp"]) as demo:
        assert demo.n_frames > 20 and demo.size == (32, 32)


def test_all_shipped_worlds_are_published_unless_one_is_named(monkeypatch, package, tmp_path, capsys):
    published = []
    monkeypatch.setattr(site, "publish", lambda games, *_: published.append([game.world for game in games]) or 0)
    for flags in ([], ["--world", "arena"], ["--checkpoint", "assets/worlds/keep"]):
        assert not play._play(play.parser().parse_args(["--publish", str(tmp_path / "site"), *flags]))
    assert published == [list(command.SHIPPED), ["arena"], ["keep"]]


def told(capsys, *flags) -> str:
    """The error line of ``play.py`` under these flags."""
    assert play._play(play.parser().parse_args([str(flag) for flag in flags])) == 2
    return capsys.readouterr().err


def test_what_cannot_be_published_is_said_in_a_line(exported, package, tmp_path, capsys):
    full, ungraphed = tmp_path / "full", tmp_path / "ungraphed"
    shutil.copytree(exported, ungraphed, ignore=shutil.ignore_patterns("step.onnx"))
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    of_toy, into = ("--checkpoint", exported, "--publish"), tmp_path / "site"
    assert "not empty" in told(capsys, *of_toy, full, "--onnxruntime-web", package)
    assert "no folder" in told(capsys, *of_toy, full / "mine.txt", "--onnxruntime-web", package)
    assert "step.onnx" in told(capsys, "--checkpoint", ungraphed, "--publish", into)
    assert "--host goes" in told(capsys, *of_toy, into, "--host", "::")
    assert "leave" in told(capsys, "--engine", "--checkpoint", exported, "--publish", into)
    assert "only --world" in told(capsys, *of_toy, into, "--headless", "--bot", "mix", "--frames", "5")
    for how in (
        ("--seed", 5),
        ("--fps", 0),
        ("--scale", 2),
        ("--pixels",),
        ("--device", "cpu"),
        ("--collapse", "ignore"),
    ):
        assert "only --world" in told(capsys, *of_toy, into, *how)
    assert "no package" in told(capsys, *of_toy, into, "--onnxruntime-web", tmp_path)
    assert "tarball" in told(capsys, *of_toy, into, "--onnxruntime-web", full / "mine.txt")
    assert "no such folder" in told(capsys, *of_toy, into, "--onnxruntime-web", tmp_path / "nowhere.tgz")
    (package / "package.json").write_text('{"version": "1.0.0"}')
    assert "1.0.0" in told(capsys, *of_toy, into, "--onnxruntime-web", package)
    assert not into.exists()


def test_a_full_disk_leaves_nothing_that_blocks_another_try(game, package, tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "encoder.onnx.bin":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    with monkeypatch.context() as patch, pytest.raises(site.PublishError, match=r"encoder.*No space left"):
        patch.setattr(Path, "write_bytes", full)
        site.publish([game], tmp_path / "site", package)
    assert not list((tmp_path / "site").iterdir())
    assert site.publish([game], tmp_path / "site", package)


def test_without_npm_or_a_network_it_says_what_to_do(game, tmp_path, monkeypatch):
    fails = shutil.which("false") or "false"
    monkeypatch.setattr(site.shutil, "which", lambda name: None)
    with pytest.raises(site.PublishError, match="install Node.js"):
        site.publish([game], tmp_path / "site")
    monkeypatch.setattr(site.shutil, "which", lambda name: fails)
    with pytest.raises(site.PublishError, match="--onnxruntime-web"):
        site.publish([game], tmp_path / "site")


# ---------------------------------------------------------------- the noise


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
@pytest.mark.parametrize(("seed", "counter"), [(0, 0), (7, 3), (2**63 + 12345, 2**40), (2**62, PRIME), (5, REFILL + 1)])
def test_noise_in_the_browser_is_numpys(seed, counter):
    """Bit for bit, but in the tail: numpy takes the logarithm there in float32, from the machine's C library."""
    count = 20_000
    script = (PAGE / "noise.js").read_text() + (
        f"process.stdout.write(Buffer.from(normal({seed}n, {counter}n, {count}).buffer));"
    )
    done = subprocess.run([NODE, "--input-type=module", "-e", script], capture_output=True, timeout=60)
    assert not done.returncode, done.stderr
    ours, theirs = seeded(seed, counter, (count,)), np.frombuffer(done.stdout, np.float32)
    in_tail = np.abs(ours) > 3.654
    assert in_tail.any()
    np.testing.assert_array_equal(theirs[~in_tail], ours[~in_tail])
    np.testing.assert_array_almost_equal_nulp(theirs[in_tail], ours[in_tail], 4)


# ---------------------------------------------------------------- what a page recorded

ABOUT = {"rollplay": 1, "world": "arena", "keys": ["w", "a"], "fps": 20, "height": 2, "width": 2, "checkpoint": "c",
         "seed": "7", "scene": "3", "block": 0, "score": 0, "runtime": "r", "created": "now",
         "arrays": [{"name": "anchors", "type": "uint8", "shape": [1, 2, 2, 3]}]}  # fmt: skip


def recording(times=(0.0, 0.05, 0.1), actions=((0, 0), (1, 0), (0, 1)), over=0, **about) -> bytes:
    """Such a file, uncompressed; its pictures are grey."""
    rows = [struct.pack("<dfB2B", time, 0.5, over, *action) + bytes([90] * 12)
            for time, action in zip(times, actions, strict=True)]  # fmt: skip
    return json.dumps(ABOUT | about).encode() + b"\n" + bytes([60] * 12) + b"".join(rows)


def test_a_small_recording_becomes_a_session(tmp_path, capsys):
    (tmp_path / "a.rollplay").write_bytes(gzip.compress(recording(over=1)))
    assert not episodes(["import", str(tmp_path / "a.rollplay"), "--into", str(tmp_path / "in")])
    (path,) = find_sessions(tmp_path / "in")
    session = Session.open(path)
    assert session.check() == [] and str(path) in capsys.readouterr().out
    assert session.actions.tolist() == [[0, 0], [1, 0], [0, 1]] and session.times.tolist() == [0, 0.05, 0.1]
    assert (session.frames() == 90).all() and (session.anchors == 60).all() and session.terminated.all()
    assert session.meta.source == "neural" and session.meta.seed == 7 and session.start_state is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        gzip.compress(b"", mtime=0),
        gzip.compress(recording())[:-9],
        gzip.compress(recording()[:-1]),
        gzip.compress(recording((), ())),
        gzip.compress(recording((0.1, 0.05), ((0, 0), (0, 0)))),
        gzip.compress(recording((float("nan"),), ((0, 0),))),
        gzip.compress(recording((0.0,), ((1, 0),))),
        gzip.compress(recording((0.0, 0.1), ((0, 0), (2, 0)))),
        gzip.compress(recording(over=2)),
        gzip.compress(b"[" * 100_000),
        *(gzip.compress(recording(**{name: value})) for name, value in (
            *((name, None) for name in ABOUT), ("rollplay", 2), ("world", "../up"), ("keys", ["w", "w"]), ("keys", []),
            ("height", 10**9), ("width", 2_000_000), ("seed", -1), ("source", "engine"), ("score", float("nan")),
            ("arrays", []),
            ("arrays", 2 * ABOUT["arrays"]), *(("arrays", [ABOUT["arrays"][0] | wrong]) for wrong in (
                {"name": "../x"}, {"type": "object"}, {"type": "int64", "shape": [1, 1, 1, 3]},
                {"shape": [10**9] * 4}, {"shape": [12]}, {"shape": []},
                {"shape": [-1, 2, 2, 3]}, {"shape": [0, 2, 2, 3]}, {"shape": 2 * [1, 1, 1, 1, 1]})),
        )),
    ],
)  # fmt: skip
def test_a_strange_recording_is_refused_in_a_line(tmp_path, capsys, content):
    (tmp_path / "a.rollplay").write_bytes(content)
    assert episodes(["import", str(tmp_path / "a.rollplay"), "--into", str(tmp_path / "in")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "a.rollplay: " in said.err
    assert not list((tmp_path / "in").glob("*"))


def test_a_recording_of_endless_arrays_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """The limit is on all of them together."""
    monkeypatch.setattr(from_browser, "LIMIT", 20)
    arrays = [*ABOUT["arrays"], {"name": "held", "type": "uint8", "shape": [12]}]
    (tmp_path / "a.rollplay").write_bytes(gzip.compress(recording(arrays=arrays)))
    with pytest.raises(EpisodeError, match="more than 20 bytes"):
        from_browser.import_file(tmp_path / "a.rollplay", tmp_path / "in")


def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch):
    """Its writer ends the session in any case, which looks whole then."""

    def interrupted(*_):
        raise KeyboardInterrupt

    (tmp_path / "a.rollplay").write_bytes(gzip.compress(recording()))
    for where, name in ((from_browser, "_write"), (writing, "_png_bytes")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(where, name, interrupted)
            from_browser.import_file(tmp_path / "a.rollplay", tmp_path / "in")
        assert not list((tmp_path / "in").glob("*"))


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
def test_keys_act_in_the_browser_as_in_the_window():
    """Other keys for the world's, and a press is one turn."""
    script = (
        "const on = {}; globalThis.addEventListener = (kind, f) => { on[kind] = f; }; globalThis.setInterval = () => 0;"
    )
    script += (
        (PAGE / "input.js").read_text()
        + """
        const keyboard = new Keyboard(["a", "w"], () => false, { stands_for: { z: "w" }, rest: 2 });
        const event = { timeStamp: 0, target: { matches: () => false }, preventDefault() {} };
        const send = (kind, code) => on[kind]({ ...event, code });
        const sampled = ticks => Array.from({ length: ticks }, () => keyboard.sample().action);
        send("keydown", "ArrowLeft"), send("keydown", "KeyZ"), send("keyup", "KeyZ");
        const held = sampled(5);
        send("keydown", "KeyA"), send("keyup", "KeyA");
        console.log(JSON.stringify([...held, ...sampled(1)]));"""
    )
    done = subprocess.run([NODE, "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout or "[]") == [[1, 1], [0, 0], [0, 0], [1, 0], [1, 0], [0, 0]], done.stderr


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="session")
def published(game, wild, tmp_path_factory) -> Path:
    """Two toys' site with the real onnxruntime-web, in a folder below the one that is served."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    folder = tmp_path_factory.mktemp("host")
    try:
        site.publish([game, wild], folder / "deep" / "site")
    except site.PublishError as error:
        pytest.skip(f"no onnxruntime-web: {error}")
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


class Host:
    """A folder, served by nothing but Python's own server."""

    def __init__(self, folder: Path):
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="session")
def host(published):
    with closing(Host(published)) as host:
        yield host.address


@pytest.fixture(scope="session")
def browser(host, tmp_path_factory):
    with closing(Browser(tmp_path_factory.mktemp("chromium"))) as browser:
        yield browser


def go(browser: Browser, address: str) -> None:
    browser.call("Page.navigate", url="about:blank")
    browser.events.clear()
    browser.call("Page.navigate", url=address)


def until_it_plays(browser: Browser) -> None:
    browser.until("document.body.dataset.failed || Number(document.getElementById('screen').dataset.frames) > 3")
    assert not browser.ask("document.body.dataset.failed"), browser.ask("document.body.innerText")


def begun(browser: Browser, game: NeuralGame) -> np.ndarray:
    """The frame that the game began with, to which it goes back: it is not yet 30 ticks old."""
    browser.key("keyDown", "Backspace", "Backspace")
    browser.ask("window.before = Number(document.getElementById('screen').dataset.frames)")
    browser.until("Number(document.getElementById('screen').dataset.frames) > window.before + 30")
    frame = canvas(browser, game)
    browser.key("keyUp", "Backspace", "Backspace")
    return frame


def canvas(browser: Browser, game: NeuralGame) -> np.ndarray:
    """What the canvas shows, once it has drawn what it was told to, uint8 [H, W, 3]."""
    browser.ask("new Promise(requestAnimationFrame)")
    text = browser.ask(
        "btoa(String.fromCharCode(...(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
        "(document.getElementById('screen'))))"
    )
    world = game.config.world
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(world.height, world.width, 4)[..., :3]


def assert_alike(theirs: np.ndarray, ours: np.ndarray) -> None:
    """Equal but for rounding: WebAssembly multiplies and adds in two steps where a processor may take one."""
    assert np.abs(theirs.astype(int) - ours).max() <= 1


def frames_of(browser: Browser, game: NeuralGame, actions: np.ndarray, how: str, then: str = "") -> list:
    """What the world shows in the browser after a reset and each of the actions, and what ``then`` adds to it."""
    texts = browser.ask(
        "(async () => { const { Game, listed } = await import('./game.js');"
        f"const world = (await listed()).find(({{ name }}) => name === '{game.world}');"
        f"const game = await Game.open(world, {how});"
        f"const shown = [await game.reset({SEED}n, game.world.scenes[{SEED}])];"
        f"for (const action of {actions.tolist()}) shown.push(await game.tick(action)); {then}"
        "return shown.map(({ frame }) => btoa(String.fromCharCode(...frame))); })().catch(error => error.stack)"
    )
    assert isinstance(texts, list), texts
    world = game.config.world
    shape = (world.height, world.width, 3)
    return [np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape) for text in texts]


@pytest.mark.parametrize("world", ["game", "wild"])
def test_frames_are_pythons_under_the_same_keys(browser, host, world, request):
    game = request.getfixturevalue(world)
    keys = len(game.metadata["keys"])
    actions = np.random.default_rng(0).integers(0, 2, (6, keys))
    ours = [game.reset(seed=SEED)[0], *(game.step(action)[0] for action in actions)]
    go(browser, f"{host}deep/site/worlds.json")
    theirs = frames_of(
        browser,
        game,
        actions,
        "1, () => {}",
        "game.back(); game.back(); const kept = structuredClone(await game.saved());"
        f"shown.push(await game.tick({actions[4].tolist()})); await game.reset(0n, game.world.scenes[0]);"
        f"game.resume(kept); shown.push(await game.tick({actions[4].tolist()}));",
    )
    for frame, expected in zip(theirs, [*ours, ours[5], ours[5]], strict=True):
        assert_alike(frame, expected)
    assert any(np.abs(a.astype(int) - b).max() > 8 for a, b in zip(ours, ours[1:], strict=False)), "nothing moved"
    np.testing.assert_array_equal(theirs[-2], theirs[5], "two ticks back and one on is where it was, exactly")
    np.testing.assert_array_equal(theirs[-1], theirs[5], "from a saved moment, too")


ON_A_GPU = """
    (async () => {
        Object.defineProperty(navigator, 'gpu', { configurable: true, value: {
            requestAdapter: async () => ({ info: { isFallbackAdapter: FAULT === 'none, but a processor' } }) } });
        const { InferenceSession } = await import('./ort.webgpu.js');
        const create = window.create ??= InferenceSession.create.bind(InferenceSession);
        const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
        InferenceSession.create = async (graph, options) => {
            const isGpu = options.executionProviders[0] === 'webgpu';
            if (isGpu && FAULT === 'no shader') throw new Error(FAULT);
            const session = await create(graph, { ...options, executionProviders: ['wasm'] });
            const run = session.run.bind(session);
            session.run = async feeds => {
                await sleep(isGpu ? (FAULT === 'slower') * 300 : 100);
                const outputs = await run(feeds);
                if (isGpu && FAULT === 'other frames' && outputs.frames) outputs.frames.data[5] += 2;
                return outputs;
            };
            return session;
        };
        const { Game, listed } = await import('./game.js'), [world] = await listed();
        const game = await Game.open(world, 1, () => {});
        const { frame } = await game.reset(0n, world.scenes[1]);
        return { runsOn: game.runsOn, provider: game.provider, frame: frame[5] };
    })().catch(error => error.stack)"""
"""What a game runs on where there is a GPU with a fault, which WebAssembly plays."""


def test_a_gpu_is_taken_where_it_draws_the_same_frames_in_less_time(browser, host):
    go(browser, f"{host}deep/site/worlds.json")
    plain, *faulty, good = (
        browser.ask(ON_A_GPU.replace("FAULT", repr(fault)))
        for fault in ("none, but a processor", "no shader", "slower", "other frames", "none")
    )
    assert plain["runsOn"] == "1 thread" and plain["provider"] == "wasm"
    for fault, opened in zip(("no shader", "slower", "other frames"), faulty, strict=True):
        assert opened["runsOn"].startswith("1 thread (GPU: ") and fault in opened["runsOn"]
        assert opened["provider"] == "wasm" and opened["frame"] == plain["frame"]
    assert good["runsOn"] == "the GPU" and good["provider"] == "webgpu" and good["frame"] == plain["frame"]


def test_a_person_plays_goes_back_and_goes_on(browser, host, game):
    first, _ = game.reset(seed=SEED)
    go(browser, f"{host}deep/site/#world=arena&seed={SEED}")
    until_it_plays(browser)
    browser.key("keyDown", "w", "KeyW")
    browser.until(
        "document.querySelectorAll('.held').length === 1 && !isNaN(document.getElementById('photon').textContent)"
    )
    assert np.abs(canvas(browser, game).astype(int) - first).max() > 8
    browser.key("keyUp", "w", "KeyW")
    browser.until("document.querySelectorAll('.held').length === 0")
    assert_alike(begun(browser, game), first)
    assert browser.ask("location.hash") == f"#world=arena&seed={SEED}&scene=12"
    browser.key("keyDown", "n", "KeyN")
    browser.until(
        "location.hash === '#world=arena&seed=2&scene=100' && document.getElementById('scene').value === '100'"
    )
    browser.ask("(scene => { scene.value = '12'; scene.onchange(); })(document.getElementById('scene'))")
    browser.until("location.hash === '#world=arena&seed=2&scene=12'")
    browser.key("keyDown", "n", "KeyN")  # the next place, wherever one is
    browser.until("location.hash === '#world=arena&seed=3&scene=100'")
    browser.ask("location.hash = '#world=arena&seed=9&scene=3'")
    browser.until("document.getElementById('seed').value === '9' && document.getElementById('scene').value === '3'")
    assert_alike(begun(browser, game), game.reset(seed=9, options={"scene": "3"})[0])
    assert np.abs(game.reset(seed=9, options={"scene": "3"})[0].astype(int) - first).max() > 8
    side = browser.ask("document.getElementById('screen').getBoundingClientRect().width * devicePixelRatio")
    assert side >= game.config.world.width and side % game.config.world.width == 0
    assert browser.complaints() == []


def test_fields_and_pause_keep_no_keys_from_the_game(browser, host):
    go(browser, f"{host}deep/site/#world=the%20wild&seed=4&scene=3")
    until_it_plays(browser)
    notice = "document.getElementById('notice').textContent"
    browser.ask("document.getElementById('scene').focus()")
    browser.key("keyDown", "w", "KeyW")
    browser.until("document.querySelectorAll('.held').length === 1")
    browser.key("keyUp", "w", "KeyW")
    browser.ask("(seed => { seed.focus(); seed.value = '4d'; seed.onchange(); })(document.getElementById('seed'))")
    assert "4d" in browser.ask(notice) and browser.ask("document.getElementById('seed').value") == "4"
    browser.key("keyUp", "Escape", "Escape")
    assert browser.ask("document.activeElement === document.body")
    browser.key("keyDown", "p", "KeyP")
    browser.key("keyDown", "F5", "F5")
    browser.until(f"{notice}.includes('Saved') && {notice}.includes('Paused')")
    browser.ask("(post => { window.acts = []; Worker.prototype.postMessage = function (told) {"
                "acts.push(...(told.action ?? [])); post.call(this, told); }; })"
                "(Worker.prototype.postMessage)")  # fmt: skip
    browser.key("keyDown", "d", "KeyD")
    browser.key("keyUp", "d", "KeyD")
    browser.ask("window.before = Number(document.getElementById('screen').dataset.frames)")
    browser.key("keyDown", "p", "KeyP")
    browser.until("Number(document.getElementById('screen').dataset.frames) > window.before + 4")
    assert browser.ask("acts.length > 0 && !acts.includes(1)"), "what was tapped while it paused is played"
    assert browser.ask(f"!{notice}.includes('Paused')")
    assert browser.complaints() == []


def test_another_address_is_followed_while_a_world_loads(browser, host):
    go(browser, f"{host}deep/site/#world=arena")
    browser.until("document.getElementById('list').children.length === 2")
    browser.ask("location.hash = ''")
    browser.until("document.readyState === 'complete' && document.activeElement.hash === '#world=arena'")
    assert browser.ask("document.getElementById('stage').getBoundingClientRect().width") == 0
    browser.ask("location.hash = '#world=nowhere'")
    browser.until("document.getElementById('choose').textContent.includes('no world “nowhere”')")


def test_a_person_chooses_a_world_and_another(browser, host, wild):
    go(browser, f"{host}deep/site/")
    browser.until("document.images.length === 2 && [...document.images].every(image => image.naturalWidth)")
    assert browser.ask("document.getElementById('stage').getBoundingClientRect().width") == 0
    browser.ask("document.querySelectorAll('#list a')[1].click()")
    until_it_plays(browser)
    assert browser.ask("location.hash") == "#world=the+wild&seed=0&scene=3"
    assert "score" in browser.ask("document.getElementById('score').textContent")
    assert canvas(browser, wild).any()
    browser.ask("document.getElementById('worlds').click()")
    browser.until("document.activeElement.hash === '#world=arena'")
    assert browser.complaints() == []


def test_a_saved_moment_outlives_the_page_but_not_its_weights(browser, host, game):
    go(browser, f"{host}deep/site/#world=arena&seed=6&scene=100")
    until_it_plays(browser)
    browser.key("keyDown", "F9", "F9")
    browser.until("document.getElementById('notice').textContent.includes('Nothing is saved')")
    browser.key("keyDown", "p", "KeyP")
    browser.key("keyDown", "F5", "F5")
    browser.until("document.getElementById('notice').textContent.includes('Saved')")
    saved = canvas(browser, game)
    go(browser, f"{host}deep/site/#world=arena&seed=1&scene=3")
    until_it_plays(browser)
    assert np.abs(canvas(browser, game).astype(int) - saved).max() > 8
    browser.key("keyDown", "p", "KeyP")
    browser.key("keyDown", "F9", "F9")
    browser.until("document.getElementById('notice').textContent.includes('Back')")
    browser.until("document.getElementById('seed').value === '6' && document.getElementById('scene').value === '100'")
    np.testing.assert_array_equal(canvas(browser, game), saved)
    spoil = ("import('./saves.js').then(async ({ load, save }) => { const key = new URL('.', location) + ' arena';"
             "const saved = await load(key); %s; await save(key, saved); })")  # fmt: skip
    for change, words in (("delete saved.state.keys", "damaged"), ("saved.checkpoint = 'of others'", "other weights")):
        browser.ask(spoil % change)
        browser.key("keyDown", "F9", "F9")
        browser.until(f"document.getElementById('notice').textContent.includes('{words}')")
    for key, words in (("F5", "Saved"), ("F9", "Back")):  # which mends it
        browser.key("keyDown", key, key)
        browser.until(f"document.getElementById('notice').textContent.includes('{words}')")
    browser.key("keyDown", "p", "KeyP")
    browser.until("!document.getElementById('notice').textContent.includes('Paused')")
    assert browser.complaints() == []


def downloaded(folder: Path, ending: str) -> Path:
    """The file that comes into a folder, once it is whole."""
    end = time.monotonic() + 30
    while not (found := [path for path in folder.glob(f"*.{ending}") if path.stat().st_size]):  # a placeholder is empty
        assert time.monotonic() < end, list(folder.iterdir())
        time.sleep(0.05)
    return found[0]


@pytest.fixture(scope="session")
def recorded(browser, host, tmp_path_factory) -> Path:
    """What the page recorded from the middle of a game."""
    folder = tmp_path_factory.mktemp("downloads")
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    go(browser, f"{host}deep/site/#world=arena&seed=7")
    until_it_plays(browser)
    browser.key("keyDown", "r", "KeyR")
    browser.until("document.getElementById('notice').textContent.includes('Recording')")
    browser.key("keyDown", "d", "KeyD")
    browser.until("(frames => frames > window.since + 12 || (window.since ??= frames, false))"
                  "(Number(document.getElementById('screen').dataset.frames))")  # fmt: skip
    browser.key("keyUp", "d", "KeyD")
    browser.key("keyDown", "Backspace", "Backspace")
    browser.until("document.getElementById('notice').textContent.includes('import arena-')")
    browser.key("keyUp", "Backspace", "Backspace")
    return downloaded(folder, "rollplay")


def test_what_was_recorded_replays_and_trains(recorded, game, tmp_path):
    assert not episodes(["import", str(recorded), "--into", str(tmp_path)])
    assert not episodes([str(tmp_path)])
    (session,) = DatasetSplit.open(tmp_path, game.config, generated=True).train
    assert session.check() == [] and len(session) > 12 and session.actions[:, 3].any()
    assert session.start_state is not None and session.meta.provenance["scene"] == "12"
    replay = Replay(game, session)
    replay.reset()
    for _ in session.actions[1:]:
        replay.step(None)
    assert replay.verdict.frames == len(session) and replay.verdict.worst <= 1 and not replay.verdict.outcomes
    clips = Clips([encode_session(session, game.config, game.runtime.encode)], 4, game.config.rolling.frames_per_block)
    assert clips.take(np.zeros(1))[1].shape[:2] == (1, 4)


def test_a_game_that_fails_leaves_its_recording(browser, host, tmp_path):
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    go(browser, f"{host}deep/site/#world=arena&seed=7")
    until_it_plays(browser)
    browser.key("keyDown", "r", "KeyR")
    browser.until("(frames => frames > window.since + 6 || (window.since ??= frames, false))"
                  "(Number(document.getElementById('screen').dataset.frames))")  # fmt: skip
    browser.ask("(post => Worker.prototype.postMessage = function ({ verb, ...rest }) {"
                "post.call(this, { verb: verb === 'tick' ? 'reset' : verb, ...rest }); })"
                "(Worker.prototype.postMessage)")  # fmt: skip
    browser.until("document.body.dataset.failed")
    episodes(["import", str(downloaded(tmp_path, "rollplay")), "--into", str(tmp_path / "sessions")])
    (found,) = find_sessions(tmp_path / "sessions")
    session = Session.open(found)
    assert len(session) > 6 and session.check() == []


def test_a_gamepad_plays(browser, host):
    def held(axes: list[float], *buttons: int) -> None:
        pad = {"axes": axes, "buttons": [{"pressed": i in buttons} for i in range(16)]}
        browser.ask(f"navigator.getGamepads = () => [null, {json.dumps(pad)}]")

    keys = "[...document.querySelectorAll('.held')].map(button => button.dataset.key).join()"
    go(browser, f"{host}deep/site/#world=the%20wild&seed=2")
    until_it_plays(browser)
    held([0.9, -0.2], 0)
    browser.until(f"{keys} === 'd,space'")
    held([-0.1, 0.9])
    browser.until(f"{keys} === 's'")
    held([0, 0], 4, 12)
    browser.until(f"{keys} === 'w,backspace'")
    held([0, 0], 9)
    browser.until("document.getElementById('notice').textContent.startsWith('Paused')")
    held([0, 0])
    held([0, 0], 8)
    browser.until("document.getElementById('notice').textContent === ''")
    assert browser.complaints() == []


def test_a_clip_shows_what_was_played(browser, host, game, tmp_path):
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    go(browser, f"{host}deep/site/#world=arena&seed=7")
    until_it_plays(browser)
    browser.until("Number(document.getElementById('screen').dataset.frames) > 40")  # of a shorter one a busy machine
    browser.key("keyDown", "p", "KeyP")  # may encode nothing
    browser.key("keyDown", "F11", "F11")
    browser.until("document.getElementById('notice').textContent.startsWith('The film is arena-')")
    last = canvas(browser, game)
    with av.open(str(downloaded(tmp_path, "[mw][pe][4b]*"))) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert frames[-1].shape == (512, 512, 3)
    assert np.abs(frames[-1][8::16, 8::16].astype(int) - last).mean() < 12
    browser.ask("delete window.MediaRecorder")
    browser.ask("document.querySelector('[data-command=f11]').click()")
    browser.until("document.getElementById('notice').textContent.includes('no MediaRecorder')")
    assert browser.complaints() == []


def test_opened_from_a_file_it_says_what_to_do(browser, published):
    go(browser, (published / "deep" / "site" / "index.html").as_uri())
    browser.until("document.body.dataset.failed")
    notice = browser.ask("document.getElementById('notice').textContent")
    assert "from a file" in notice and "python -m http.server" in notice


def test_after_the_first_load_it_plays_without_its_host_and_with_threads(browser, published, game):
    with closing(Host(published)) as own:
        address = f"{own.address}deep/site/#world=arena&seed=4"
        go(browser, address)
        until_it_plays(browser)
        browser.until("crossOriginIsolated")
    go(browser, address)
    until_it_plays(browser)
    assert browser.ask("document.getElementById('scene').value") == "12"
    actions = np.eye(len(game.metadata["keys"]), dtype=int)[:2]
    ours = [game.reset(seed=SEED)[0], *(game.step(action)[0] for action in actions)]
    for frame, expected in zip(frames_of(browser, game, actions, "2, () => {}"), ours, strict=True):
        assert_alike(frame, expected)
    assert browser.ask("import('./ort.js').then(ort => ort.env.wasm.numThreads)") == 2


def test_only_the_sites_own_files_are_kept_and_new_ones_are_seen(browser, published, tmp_path):
    shutil.copytree(published, tmp_path / "host")
    deep = tmp_path / "host" / "deep" / "site"
    (deep / "blog").mkdir()
    (deep / "blog" / "index.html").write_text("of others")
    with closing(Host(tmp_path / "host")) as own:
        at = f"{own.address}deep/site/"
        go(browser, f"{at}?from=friend#world=arena")
        until_it_plays(browser)
        browser.until("navigator.serviceWorker.controller !== null")
        assert browser.ask("fetch('blog/index.html?a=1').then(answer => answer.text())") == "of others"
        arena = json.loads((deep / "worlds.json").read_text())["versions"]["worlds/arena/step.onnx.bin"]
        kept = [url.removeprefix(at) for url in browser.ask(KEPT)]
        assert f"worlds/arena/step.onnx.bin?{arena}" in kept and "main.js" in kept
        assert not any(url.startswith(("blog", "worlds/the%20wild/step")) for url in kept)
        step = deep / "worlds" / "arena" / "step.onnx.bin"
        step.write_bytes(gzip.compress(gzip.decompress(step.read_bytes()), mtime=1))
        new = hashlib.sha256(step.read_bytes()).hexdigest()[:12]
        for name in ("index.html", "worlds.json"):
            (deep / name).write_text((deep / name).read_text().replace("Neural games", "New games").replace(arena, new))
        browser.call("Page.reload")
        browser.until("document.getElementById('menu')?.textContent.includes('New games')")
        until_it_plays(browser)
        browser.until(f"{KEPT}.then(all => all.some(url => url.endsWith('step.onnx.bin?{new}')))")
        assert not any(url.endswith(f"?{arena}") for url in browser.ask(KEPT)), "an older version stays"
        assert browser.complaints() == []


KEPT = """(async () => (await Promise.all((await caches.keys()).filter(name => name.includes(origin)).map(async name =>
    (await (await caches.open(name)).keys()).map(({ url }) => url)))).flat())()"""
"""The addresses of what the service workers of this host keep."""


def test_what_cannot_be_had_ends_neither_game_nor_recording(browser, host, published):
    folder = published / "no scene"
    shutil.copytree(published / "deep" / "site", folder)
    (folder / "worlds" / "arena" / "scenes" / "12.bin").unlink()
    go(browser, f"{host}no%20scene/#world=arena&seed=0")
    until_it_plays(browser)
    browser.key("keyDown", "r", "KeyR")
    browser.until("document.getElementById('record').classList.contains('held')")
    for key, code, words in (("n", "KeyN", "12.bin cannot be loaded"), ("F9", "F9", "Nothing is saved")):
        browser.key("keyDown", key, code)
        browser.until(f"document.getElementById('notice').textContent.includes('{words}')")
    assert browser.ask("location.hash") == "#world=arena&seed=0&scene=3"
    assert browser.ask("document.getElementById('scene').value") == "3"
    assert browser.ask("document.getElementById('record').classList.contains('held')")
    leaves = "dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    assert not browser.ask(leaves), "what is recorded would be lost without a word"
    browser.key("keyDown", "r", "KeyR")
    browser.until("!document.getElementById('record').classList.contains('held')")
    assert browser.ask(leaves)


def test_a_file_that_is_damaged_or_missing_is_named(browser, host, published):
    for name, word, spoil in (
        ("worlds/arena/step.onnx.bin", "damaged", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        ("worlds/arena/weights.safetensors.bin", "damaged", lambda path: path.write_bytes(flipped(path.read_bytes()))),
        ("worlds/arena/scenes/3.bin", "404", Path.unlink),
        ("worlds/arena/prime.onnx.bin", "damaged", lambda path: path.write_bytes(gzip.compress(b"of another world"))),
        ("worlds.json", "damaged", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        ("ort.js", "damaged", lambda path: path.write_bytes(path.read_bytes()[:9999])),
        ("clip.js", "damaged", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        ("game.js", "script", Path.unlink),
        ("input.js", "script", Path.unlink),
    ):
        folder = published / f"without {Path(name).stem}"
        shutil.copytree(published / "deep" / "site", folder)
        spoil(folder / name)
        go(browser, f"{host}without%20{Path(name).stem}/#world=arena")
        browser.until("document.body.dataset.failed")
        notice = browser.ask("document.getElementById('notice').textContent")
        assert (name in notice or word == "script") and word in notice, notice
    shutil.copy(published / "deep" / "site" / "input.js", folder)
    browser.ask("document.getElementById('again').click()")
    until_it_plays(browser)


def flipped(content: bytes) -> bytes:
    """One bit in the middle changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
