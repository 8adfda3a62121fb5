"""A static site in which neural games play in any browser, without Python: what ``play.py --publish DIR`` writes.

    index.html main.js input.js clip.js worker.js game.js noise.js saves.js record.js sw.js licences.txt
                                                             the page
    ort.js, ort.wasm.bin                                     onnxruntime-web
    ort.webgpu.js, ort.webgpu.wasm.bin                       the same for browsers with a GPU, which load only this
    worlds.json                                              of each world: keys, sizes, scenes; of each .bin file: the
                                                             first 12 digits of its SHA-256, and its size
    worlds/WORLD/weights.safetensors.bin, step.onnx.bin, ... of its checkpoint
    worlds/WORLD/scenes/NAME.bin                             uint8 [n, H, W, 3]: the sink frames, then those before play
    worlds/WORLD/demo.webp                                   some seconds of the neural game, as an animated picture
    worlds/WORLD/card.md                                     how the weights were made, where the checkpoint says it

NAME.bin is NAME, gzipped: it is smaller, and a browser that unpacks it finds out whether it is whole. Hosts and servers
treat names that end in .gz, .mjs or .wasm each in their own way; these they leave alone.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from game.play.menu import Demo, about
from world_model.checkpoint import WEIGHTS
from world_model.config import CONFIGS, load
from world_model.play.neural_game import NeuralGame

GRAPHS = ("encoder", "prime", "step", "decoder")
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's tarball, in base64, as npm writes it. A new version needs a new one."""
PARTS = {
    "ort.js": "dist/ort.wasm.bundle.min.mjs",
    "ort.wasm": "dist/ort-wasm-simd-threaded.wasm",
    "ort.webgpu.js": "dist/ort.webgpu.bundle.min.mjs",
    "ort.webgpu.wasm": "dist/ort-wasm-simd-threaded.asyncify.wasm",
}
"""The site's names of what it takes from the package."""
DEMO_TICKS, DEMO_STEP = 160, 2
"""How many ticks a demo shows, and every which frame of them: small and fluent."""


class PublishError(ValueError):
    """A site that cannot be written; the message is for the person."""


def publish(games: Sequence[NeuralGame], folder: Path, package: Path | None = None) -> int:
    """Write the site of these games' worlds, each of another name, into ``folder``, new or empty; its size in bytes.

    package: a folder or tarball of onnxruntime-web; without, npm brings it, from its cache where that has it. Raises
    PublishError, WorldError for scenes that do not fit, and OSError.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise PublishError(f"{folder}: is there already and not empty; name a new folder")
    files = _page() | _onnxruntime(package)
    try:  # before the work
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PublishError(f"{folder}: no folder can be there ({error.strerror})") from error
    worlds = []
    for game in games:
        told, parts = _world(game)
        worlds.append(told)
        files |= {f"worlds/{game.world}/{name}": content for name, content in parts.items()}
    packed = {name: content for name, content in files.items() if name.endswith(".bin")}
    versions = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in packed.items()}
    sizes = {name: len(content) for name, content in packed.items()}
    files["worlds.json"] = json.dumps({"versions": versions, "sizes": sizes, "worlds": worlds}).encode()
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    except BaseException as error:  # of a Ctrl-C, too
        for written in files:
            (folder / written).unlink(missing_ok=True)
        shutil.rmtree(folder / "worlds", ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise PublishError(f"{folder / name}: cannot be written ({error.strerror}); nothing is left there") from error
    return sum(map(len, files.values()))


def _page() -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in (resources.files(__package__) / "page").iterdir()}


def _world(game: NeuralGame) -> tuple[dict, dict[str, bytes]]:
    """What worlds.json says of a world, and its files."""
    scenes = game.start_scenes()
    count, card = game.config.rolling.sink_frames, game.folder / "card.md"
    files = {name: (game.folder / name).read_bytes() for name in (WEIGHTS, *(f"{graph}.onnx" for graph in GRAPHS))}
    for scene in scenes:
        files[f"scenes/{scene.name}"] = np.concatenate([scene.anchors[:count], scene.frames]).tobytes()
    plain = {"card.md": card.read_bytes()} if card.is_file() else {}
    told = _told(game) | {"scenes": [scene.name for scene in scenes], "card": bool(plain)}
    return told, _packed(files) | plain | {"demo.webp": _demo(game)}


def _told(game: NeuralGame) -> dict:
    """What the page must know of the world, in the words of ``page/game.js``."""
    world, roll, file = game.config.world, game.config.rolling, CONFIGS / f"{game.world}.yaml"
    own = load(file).world if file.is_file() else world  # what is the person's is in no weights
    return {
        "name": game.world,
        "about": about(game.world),
        "checkpoint": game.provenance()["checkpoint"],
        "keys": world.keys,
        "meanings": [own.meanings.get(key, key) for key in world.keys],
        "stands_for": own.stands_for,
        "rest": own.rest,
        "fps": world.fps,
        "height": world.height,
        "width": world.width,
        "sinks": roll.sink_frames,
        "recents": roll.recent_blocks,
        "window": roll.window_blocks,
        "block": (roll.frames_per_block, *game.config.latent_shape),
    }


def _demo(game: NeuralGame) -> bytes:
    """The menu's demo as an animated WebP: lossless, which suits pixel art, or not, whichever is smaller."""
    demo, pictures = Demo(game), []
    for tick in range(DEMO_TICKS):
        demo.step()
        if tick % DEMO_STEP == 0:
            pictures.append(Image.fromarray(demo.frame))
    how = {"save_all": True, "append_images": pictures[1:], "duration": 1000 * DEMO_STEP // game.config.world.fps}
    films = [io.BytesIO(), io.BytesIO()]
    for film, is_lossless in zip(films, (True, False), strict=True):
        pictures[0].save(film, "WEBP", loop=0, lossless=is_lossless, **how)
    return min((film.getvalue() for film in films), key=len)


def _packed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.bin": gzip.compress(content, mtime=0) for name, content in files.items()}


def _onnxruntime(package: Path | None) -> dict[str, bytes]:
    """The files of onnxruntime-web that the page needs."""
    if package is None:
        with tempfile.TemporaryDirectory() as place:
            parts = _of_tarball(_downloaded(Path(place)))
    else:
        parts = (_of_folder if package.is_dir() else _of_tarball)(package)
    scripts = {name: content for name, content in parts.items() if name.endswith(".js")}
    return scripts | _packed({name: content for name, content in parts.items() if name not in scripts})


def _downloaded(place: Path) -> Path:
    """The package's tarball, by npm, which knows where packages come from and keeps what it once had."""
    advice = f"or name a folder or tarball of {PACKAGE} {VERSION} with --onnxruntime-web"
    npm = shutil.which("npm")
    if npm is None:
        raise PublishError(f"{PACKAGE} is brought by npm, which is not installed: install Node.js, {advice}")
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--prefer-offline", "--pack-destination", str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = list(place.glob("*.tgz"))
    if done.returncode or not found:
        words = " ".join(done.stderr.split())[:200]
        raise PublishError(f"npm could not bring {PACKAGE} {VERSION} ({words}); try again with a network, {advice}")
    return found[0]


def _of_tarball(path: Path) -> dict[str, bytes]:
    if not path.is_file():
        raise PublishError(f"{path}: no such folder or tarball of {PACKAGE}")
    if base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode() != SHA512:
        raise PublishError(f"{path}: not the tarball of {PACKAGE} {VERSION}, or damaged: its SHA-512 is another")
    with tarfile.open(path) as tarball:
        return {name: tarball.extractfile(f"package/{part}").read() for name, part in PARTS.items()}


def _of_folder(path: Path) -> dict[str, bytes]:
    """From a folder such as node_modules/onnxruntime-web; only its version can be checked."""
    try:
        version = json.loads((path / "package.json").read_text())["version"]
        parts = {name: (path / part).read_bytes() for name, part in PARTS.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PublishError(f"{path}: no package {PACKAGE} ({error})") from error
    if version != VERSION:
        raise PublishError(f"{path}: is version {version}, and the page is made for {VERSION}")
    return parts
