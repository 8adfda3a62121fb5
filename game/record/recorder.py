"""A wrapper around any frame source that records what is played, a session an episode."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from game.worlds.sources import optional
from world_model.config import World
from world_model.episode import EpisodeError, SessionMeta, SessionWriter, session_name
from world_model.episode.format import Outcome


class Recorder(gymnasium.Wrapper):
    """Records a frame source into ``folder``; the game itself is passed through unchanged.

    ``reset`` ends the session and starts the next; ``start`` and ``stop`` switch recording in mid-game and
    return a line for the person. A session that starts in mid-game has the frame on the screen as frames[0]
    and the source's ``get_state()``, where it has one, as its start state.

    env        frame source with metadata "keys" and "render_fps"; may have anchors(), depths(), spot(), provenance(),
               get_state()
    world      name of the world, as in its configuration
    config     the world's part of it, which is recorded, so that the game can be made anew
    player     who plays: a bot's name, or person
    clock      seconds, for the timestamps; None counts frames instead (frame / fps), so that what runs
               faster than real time is recorded the same every time
    recording  begin with the first reset; otherwise ``start`` begins
    name       seed -> name of the next session's directory
    on_error   called with the message when recording fails; the game then goes on unrecorded.
               Without it, the EpisodeError is raised.
    provenance added to what the source says of itself
    writing    options of SessionWriter
    """

    def __init__(
        self,
        env: gymnasium.Env,
        folder: str | Path,
        *,
        world: str,
        config: World | None = None,
        player: str = "person",
        clock: Callable[[], float] | None = time.perf_counter,
        recording: bool = True,
        name: Callable[[int | None], str] = session_name,
        on_error: Callable[[str], None] | None = None,
        provenance: dict[str, Any] | None = None,
        **writing,
    ):
        super().__init__(env)
        self.folder, self.world, self.config, self.player = Path(folder), world, config, player
        self.path: Path | None = None  # of the session being written, or of the last one
        self._clock, self._name, self._on_error, self._writing = clock, name, on_error, writing
        self._provenance = provenance or {}
        self._wanted = recording
        self._writer: SessionWriter | None = None
        self._frame: np.ndarray | None = None
        self._pose: np.ndarray | None = None
        self._seed: int | None = None
        self._ticks, self._began = 0, 0.0

    @property
    def recording(self) -> bool:
        return self._writer is not None

    @property
    def seconds(self) -> float | None:
        """Length of the session so far; None while not recording."""
        return None if self._writer is None else self._now()

    def reset(self, *, seed=None, options=None):
        self._end()
        observation, info = self.env.reset(seed=seed, options=options)
        self._frame, self._seed, self._pose = observation, seed, info.get("pose")
        if self._wanted:
            self._try(self._begin, False)
        return observation, info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._frame, self._pose = observation, info.get("pose")
        if self._writer:
            self._ticks += 1
            self._try(self._write, observation, action, (reward, terminated, truncated))
        return observation, reward, terminated, truncated, info

    def start(self, shown: np.ndarray | None = None) -> str:
        """Record from the frame on the screen on; before the first reset, from that reset on. shown: the frame on the
        screen, where it is not the last step's because the game was set to another state."""
        self._wanted = True
        self._frame = self._frame if shown is None else shown
        if self._frame is None:
            return f"Recording starts with the game, into {self.folder}"
        problem = self._try(self._begin, True) if self._writer is None else None
        return problem or f"Recording to {self.path}"

    def stop(self) -> str:
        """Finish the session, or delete it if no tick was played in it; a later reset does not start another."""
        self._wanted = False
        if self._writer is None:
            return "Not recording"
        frames = self._ticks + 1
        if problem := self._end():
            return problem
        if not self._ticks:
            shutil.rmtree(self.path, ignore_errors=True)
            return "Nothing was played, so nothing is recorded"
        return f"Recorded {frames} frames to {self.path}"

    def close(self) -> None:
        self._end()
        super().close()

    def _now(self) -> float:
        fps = self.env.metadata["render_fps"]
        return self._ticks / fps if self._clock is None else self._clock() - self._began

    def _begin(self, mid_game: bool) -> None:
        anchors, depths = optional(self.env, "anchors"), optional(self.env, "depths")
        state = optional(self.env, "get_state") if mid_game else None
        meta = self._meta(0 if anchors is None else len(anchors), depths is not None)
        self.path = self.folder / self._name(meta.seed)
        self._writer = SessionWriter(self.path, meta, anchors, state, depths=depths, **self._writing)
        self._ticks, self._began = 0, self._clock() if self._clock else 0.0
        self._write(self._frame, np.zeros(len(meta.keys), np.int8))

    def _write(self, frame: np.ndarray, action: np.ndarray, *outcome: Outcome) -> None:
        has_pose = self._writer.meta.spot is not None and self._pose is not None
        self._writer.add(frame, action, self._now(), self._pose if has_pose else (), *outcome)

    def _end(self) -> str | None:
        writer, self._writer = self._writer, None
        return self._try(writer.close) if writer else None

    def _try(self, call: Callable, *arguments) -> str | None:
        """``call(*arguments)``; where it fails, stop recording and return the error's message."""
        try:
            call(*arguments)
        except EpisodeError as error:
            self._writer, self._wanted = None, False
            if self._on_error is None:
                raise
            self._on_error(str(error))
            return str(error)
        return None

    def _meta(self, anchors: int, depths: bool) -> SessionMeta:
        provenance = optional(self.env, "provenance", {})
        spec_id = self.env.spec.id if self.env.spec else type(self.env.unwrapped).__name__
        env_id = provenance.get("env", spec_id)
        height, width, _ = self.env.observation_space.shape
        return SessionMeta(
            world=self.world,
            env=env_id,
            keys=tuple(self.env.metadata["keys"]),
            fps=self.env.metadata["render_fps"],
            height=height,
            width=width,
            anchors=anchors,
            depths=depths,
            spot=None if self._pose is None else optional(self.env, "spot"),
            seed=provenance.get("seed", self._seed),
            source=provenance.get("source", env_id),
            checkpoint=provenance.get("checkpoint"),
            code_version=code_version(),
            player=self.player,
            created=datetime.now(UTC).isoformat(),
            provenance={**provenance, **self._provenance},
            config=self.config,
        )


@lru_cache
def code_version() -> str:
    """The package's version, and the commit when the code is a git checkout."""
    try:
        version = metadata.version("rollplay")
    except metadata.PackageNotFoundError:
        version = "not installed"
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version} ({commit})"
