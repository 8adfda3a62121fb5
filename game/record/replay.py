"""Replay of a recording: computed again from its seed and actions, and compared with the recorded frames."""

from __future__ import annotations

from dataclasses import dataclass, field

import gymnasium
import numpy as np

from game.worlds.sources import optional
from world_model.episode import Session
from world_model.episode.format import START_STATE
from world_model.play import scenes
from world_model.play.neural_game import NeuralGame


class ReplayError(ValueError):
    """A recording that cannot be played again; the message says why."""


@dataclass
class Verdict:
    """Comparison of the replayed frames with the recorded ones. ``outcomes``: those whose reward or end differs."""

    recorded: int
    frames: int = 0
    different: int = 0
    first: int | None = None
    worst: int = 0
    outcomes: list[int] = field(default_factory=list)

    def add(self, replayed: np.ndarray, recorded: np.ndarray) -> None:
        difference = int(np.abs(replayed.astype(int) - recorded).max())
        if difference:
            self.first = self.frames if self.first is None else self.first
            self.different, self.worst = self.different + 1, max(self.worst, difference)
        self.frames += 1

    @property
    def holds(self) -> bool:
        """Whether every recorded frame was replayed, and neither it nor its reward nor its end differs."""
        return self.frames == self.recorded and not self.different and not self.outcomes

    def __str__(self) -> str:
        if self.outcomes:
            count, first = len(self.outcomes), self.outcomes[0]
            return f"{self._frames}; {count} rewards or ends differ, the first is of frame {first}"
        return self._frames

    @property
    def _frames(self) -> str:
        if self.frames == self.recorded and not self.different:
            return f"all {self.frames} frames are bit-equal to the recording"
        if not self.different:
            return f"stopped early: the first {self.frames} of {self.recorded} frames are bit-equal to the recording"
        return (
            f"{self.different} of {self.frames} frames differ from the recording, the first is frame {self.first}; "
            f"the largest difference is {self.worst} of 255"
        )


class Replay(gymnasium.Wrapper):
    """A source that starts where a session started and is stepped with its actions, whatever ``step`` is given.

    ``verdict`` compares every frame with the recording, and its reward and end where they are recorded. The episode is
    truncated at the session's last frame, and ends nowhere else.
    """

    def __init__(self, env: gymnasium.Env, session: Session):
        super().__init__(env)
        self.session, self.verdict = session, Verdict(len(session))
        if session.meta.keys != tuple(env.metadata["keys"]):
            raise ReplayError(f"{session.path}: has the keys {' '.join(session.meta.keys)}, the game has others")
        if not len(session):
            raise ReplayError(
                f"{session.path}: no frame of it can be read; {'; '.join(session.damage) or 'it holds none'}"
            )

    def reset(self, *, seed=None, options=None):
        session, source = self.session, self.env.unwrapped
        self._at, self.verdict = 0, Verdict(len(session))
        frame, info = self.env.reset(seed=session.meta.seed, options=self._start_options())
        state = session.start_state
        self._from_reset = state is None
        if state is not None:
            self._continue(state)
            frame = source.render()
        self.verdict.add(frame, self._recorded(0))
        return frame, info

    def step(self, action):
        self._at += 1
        frame, reward, *ends, info = self.env.step(self.session.actions[self._at])
        if not self._has_outcome(reward, *ends):
            self.verdict.outcomes.append(self._at)
        self.verdict.add(frame, self._recorded(self._at))
        return frame, reward, False, self._at + 1 >= len(self.session), info

    def _continue(self, state: dict[str, np.ndarray]) -> None:
        """Set the recording's start state. ReplayError where it is not a state of this game."""
        try:
            self.env.unwrapped.set_state(state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ReplayError(f"{self.session.path}: {START_STATE}: {error}") from error

    def _recorded(self, at: int) -> np.ndarray:
        """Frame ``at`` of the recording; a second is decoded at a time."""
        second = self.session.meta.fps
        if at % second == 0:
            self._decoded = self.session.frames(at, min(at + second, len(self.session)))
        return self._decoded[at % second]

    def _has_outcome(self, reward: float, terminated: bool, truncated: bool) -> bool:
        """Whether the recording has the same, or none. A time limit counts from the reset, which no state knows."""
        session, at = self.session, self._at
        if session.rewards is None:
            return True
        in_time = truncated == session.truncated[at] or not self._from_reset
        return np.float32(reward) == session.rewards[at] and terminated == session.terminated[at] and in_time

    def _start_options(self) -> dict | None:
        """Options of ``reset`` for a neural session: its scene, and the recorded anchors if the world lacks it."""
        source, name = self.env.unwrapped, self.session.meta.provenance.get("scene")
        if not isinstance(source, NeuralGame) or name is None:
            return None
        if name in scenes.names(source.folder) or self.session.anchors is None:
            return {"scene": name}
        return {"scene": name, "anchors": self.session.anchors}


def caveats(session: Session, env: gymnasium.Env) -> list[str]:
    """Sentences on what differs between the session's provenance and the source's."""
    now = optional(env, "provenance", {})
    words = {
        "checkpoint": "weights",
        "runtime": "runtime",
        "device": "device",
        "policy": "policy",
        "collapse": "answer to a collapse",
    }
    recorded = session.meta.provenance
    return [
        f"recorded with the {word} {recorded[key]}, played again with {now[key]}: frames may differ"
        + ("; --checkpoint DIR names the folder of the former" if key == "checkpoint" else "")
        for key, word in words.items()
        if key in recorded and key in now and recorded[key] != now[key]
    ]
