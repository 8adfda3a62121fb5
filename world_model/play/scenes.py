"""Start scenes: the places where a world's neural game can begin, as PNG pictures.

    scenes/<name>/0.png 1.png ...    the pictures that become the sink frames ("anchors"), in order
    scenes/<name>/frames/0.png ...   optional: the frames before play, oldest first; without them, the first anchor

For a game without anchors, they are the first frames of a session and ``frames`` those that follow. In the arena a
scene's name is the seed of its room.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from world_model.play.runtime import WorldError

SCENES = "scenes"
FRAMES = "frames"


@dataclass(frozen=True, eq=False)
class Scene:
    """anchors uint8 [n, H, W, 3]; frames uint8 [m, H, W, 3], m >= 1."""

    name: str
    anchors: np.ndarray
    frames: np.ndarray


def names(folder: Path) -> list[str]:
    """The scenes of a checkpoint folder; numbers in the order of their values."""
    scenes = [path.name for path in (folder / SCENES).glob("*") if (path / "0.png").is_file()]
    return sorted(scenes, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))


def read(folder: Path, name: str) -> Scene:
    """One scene. Raises WorldError."""
    place = folder / SCENES / name
    anchors = _pictures(place)
    return Scene(name, anchors, _pictures(place / FRAMES)) if (place / FRAMES).is_dir() else standing(name, anchors)


def write(folder: Path, scene: Scene) -> None:
    """Add a scene to a checkpoint folder, or replace its pictures."""
    place = folder / SCENES / scene.name
    shutil.rmtree(place, ignore_errors=True)
    _save(place, scene.anchors)
    if not np.array_equal(scene.frames, scene.anchors[:1]):
        _save(place / FRAMES, scene.frames)


def standing(name: str, anchors: np.ndarray) -> Scene:
    """A scene whose only frame before play is the first anchor."""
    return Scene(name, anchors, anchors[:1])


def _pictures(place: Path) -> np.ndarray:
    paths = sorted(place.glob("*.png"), key=lambda path: (len(path.stem), path.stem))
    pictures = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in paths]
    if not pictures or any(picture is None or picture.shape != pictures[0].shape for picture in pictures):
        raise WorldError(f"{place}: should hold 0.png, 1.png, ... of one size, all readable")
    return np.stack(pictures)[..., ::-1]


def _save(place: Path, pictures: np.ndarray) -> None:
    place.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        if not cv2.imwrite(str(place / f"{index}.png"), picture[..., ::-1]):
            raise WorldError(f"{place / f'{index}.png'}: cannot be written")
