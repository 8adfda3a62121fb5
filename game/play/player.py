"""Poll -> sample -> step -> draw, paced. One loop for window and headless, for real game and neural game.

Why a key is seen soon: the keyboard is sampled as late as it can be, right before the step, and the frame is
shown the moment it is computed rather than at the next tick. A key therefore waits for the next sample (half
a tick on average) plus the step, decode and draw times; showing at the next tick would add the rest of the
tick to every key. The step runs on a thread of its own, because a window must be listened to from the
main thread: so an event that comes during a step is stamped within about a millisecond, not when the
step ends, and the latency figures are of the real waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import gymnasium
import numpy as np

from game.draw.map_editor import MapEditor, MapEditorError, drawable
from game.play.branch import Branch
from game.play.camera import Camera
from game.play.keyboard import Keyboard, Sample
from game.play.reference_game import ReferenceGame
from game.play.report import Ledger, Tick, seconds_since_start
from game.play.rewind import RewindBuffer
from game.play.saves import SAVES, SaveError, load, save
from game.play.screen import Hud, Screen
from game.worlds.sources import asked
from world_model.play.maps import nearest
from world_model.play.runtime import WorldError

SLICE = 0.001  # between two looks at the window, seconds: how exactly an event's arrival is known
SPIN = 0.0003  # sleeps end late by about this much; the last bit of a wait is spun
PAUSED_FPS = 20
FIGURES_EVERY = 10  # ticks; figures that change at every tick cannot be read
NOTICE_SECONDS = 3.0

now = time.perf_counter


class Controller(Protocol):
    """Who presses the keys: a person's Keyboard, a bot, a recording."""

    def sample(self) -> Sample: ...

    def new_room(self, seed: int) -> None: ...


class Recording(Protocol):
    """What R switches: ``start`` and ``stop`` give a line for the person."""

    seconds: float | None  # so far; None while not recording

    def start(self, shown: np.ndarray) -> str: ...

    def stop(self) -> str: ...


class Pacer:
    """Absolute deadlines: a late tick is caught up by a shorter wait, a stall is not caught up in a burst."""

    def __init__(self, fps: float, start: float):
        self.period = 1 / fps if fps else 0.0
        self.deadline = start

    def restart(self, time_now: float) -> None:
        """Count from now: after a pause nothing is late."""
        self.deadline = time_now

    def next(self, time_now: float) -> float:
        """The deadline of the next tick; ``time_now`` in seconds of the clock that ``start`` was read from."""
        self.deadline += self.period
        if time_now - self.deadline > self.period:
            self.deadline = time_now
        return self.deadline


@dataclass
class Options:
    """How to play. ``map``: four pictures uint8 [4, H, W, 3] for the first place's own; ``draws``: with the map open.
    ``frames``: stop after so many ticks. ``fps`` 0: as fast as it goes; ``game_fps``: at its own.
    ``stands_for``: a keyboard's other keys for the world's."""

    keys: tuple[str, ...]
    fps: float = 20.0
    seed: int = 0
    frames: int | None = None
    title: str = ""
    kind: str = ""
    hud: bool = True
    game_fps: int = 20
    stands_for: Mapping[str, str] = field(default_factory=dict)
    map: np.ndarray | None = None
    draws: bool = False


class Player:
    """Plays a frame source on a screen: ``run`` returns the ledger when the person or the frame count ends it.

    source: gymnasium.Env with uint8 RGB observations. hands: who plays; the keyboard when None.
    watch: called with (frame uint8 [H, W, 3], action int8 [keys]) after each flip, outside the tick's time.
    ``first_frame_s`` is the process's age when the first frame was out.
    """

    def __init__(
        self,
        source: gymnasium.Env,
        screen: Screen,
        options: Options,
        controller: Controller | None = None,
        recording: Recording | None = None,
        watch: Callable[[np.ndarray, np.ndarray], None] | None = None,
    ):
        self.source, self.screen, self.options = source, screen, options
        self.keyboard = Keyboard(options.keys, options.stands_for)
        self.controller = controller or self.keyboard
        self.recording, self.watch = recording, watch
        self.ledger = Ledger(options.game_fps, options.fps)
        self._figures = self.ledger.recent()
        self.first_frame_s: float | None = None
        self._seed = options.seed
        self._hud = {"visible": options.hud, "fullscreen": False, "help": False, "paused": False, "research": False}
        self._notice, self._notice_ends = "", 0.0
        self._running = True
        self._rewind_buffer: RewindBuffer | None = (
            RewindBuffer(source) if controller is None and hasattr(source.unwrapped, "get_state") else None
        )
        self._rewound, self._resumes = 0, False
        self._map_editor = MapEditor(source, self.say)
        self._reference: ReferenceGame | None = None
        self._played: list[np.ndarray] | None = None  # the keys of each tick since the room's start, if they are known
        self._branch: Branch | None = None
        self._camera = Camera(options.keys, options.game_fps)

    def run(self) -> Ledger:
        with ThreadPoolExecutor(1, "step") as self._stepper:
            self._new_room(self._seed)
            if self.options.draws:
                self._do("draw")
            pacer = Pacer(self.options.fps, now())
            while self._goes_on():
                self._listen_until(pacer.next(now()))
                self._obey()
                self._draw()
                if self._hud["paused"] or self._hud["help"]:
                    self._rest()
                    pacer.restart(now())
                elif self.keyboard.rewinding and self._rewind_buffer is not None:
                    self._go_back()
                elif self._running:
                    self._go_forward()
                    self._tick()
        return self.ledger

    def say(self, notice: str) -> None:
        """Show a line over the frame for a few seconds."""
        self._notice, self._notice_ends = notice, now() + NOTICE_SECONDS

    def _goes_on(self) -> bool:
        return self._running and not self._over()

    def _over(self) -> bool:
        return self.options.frames is not None and self.ledger.frames >= self.options.frames

    def _tick(self) -> None:
        self._listen()
        sample, sampled = self.controller.sample(), now()
        frame, _, terminated, truncated, _ = self._compute(self.source.step, sample.action)
        if self._played is not None:
            self._played.append(sample.action)
        if self._reference is not None:
            self._reference.step(sample.action)
        if self._branch is not None:
            self._compute(self._branch.step, sample.action)
        stepped = now()
        self._show(frame, sample.action, sample.arrivals)
        decode = getattr(self.source.unwrapped, "timing_ms", {}).get("decode", 0.0) / 1e3
        self.ledger.add(Tick(sampled, stepped, now(), decode, sample.arrivals, **self._health()), frame)
        if self.ledger.frames % FIGURES_EVERY == 0:
            self._figures = self.ledger.recent()
        if self.watch:
            self.watch(frame, sample.action)
        self._camera.look(frame, sample.action)
        if self._rewind_buffer is not None:
            self._rewind_buffer.tick(sample.action)
        if (terminated or truncated) and self._running and not self._over():
            self._new_room(self._seed + 1)

    def _new_room(self, seed: int) -> None:
        self._seed, self._branch = seed, None
        self._played = [] if self._rewind_buffer is not None else None
        frame, _ = self._compute(lambda: self.source.reset(seed=seed))
        self._look_around()
        self._begin_reference()
        self.controller.new_room(seed)
        self.keyboard.new_room(seed)
        self.ledger.cut()
        nothing = np.zeros(len(self.options.keys), dtype=np.int8)
        self._show(frame, nothing)
        if self.watch:
            self.watch(frame, nothing)
        self._camera.look(frame, nothing)
        if self.options.map is not None and seed == self.options.seed:
            self._change_map(self.options.map)
        if self._rewind_buffer is not None:
            self._rewind_buffer.clear()
            self._rewind_buffer.begin()

    def _go_back(self) -> None:
        """One tick towards the past. A recording ends where its future is given up."""
        self._listen()
        self._end_recording()
        self._branch = None
        if self._compute(self._rewind_buffer.back):
            self._rewound += 1
            if self._played:
                self._played.pop()
            if self._reference is not None and not self._compute(self._reference.back):
                self._reference = None
            self._arrive()
        else:
            self._show(*self._shown)

    def _go_forward(self) -> None:
        """Time runs on: from the past, in a recording of its own."""
        self._rewound = 0
        if self._resumes:
            self._resumes = False
            self.say(self.recording.start(self._shown[0]))

    def _end_recording(self) -> None:
        if self.recording is not None and self.recording.seconds is not None:
            self._resumes = True
            self.recording.stop()

    def _arrive(self) -> None:
        """Show the moment that the game was set to; no key of the time that is given up counts."""
        self._look_around()
        self.ledger.cut()
        self.keyboard.new_room(self._seed)
        self._show(self.source.unwrapped.render(), np.zeros(len(self.options.keys), dtype=np.int8))

    def _look_around(self) -> None:
        """What the source says of its new place: pictures of it, and its name."""
        self._anchors = asked(self.source, "anchors")
        said = asked(self.source, "provenance", {})
        room = said.get("scene") or said.get("seed", self._seed)
        self._place = " · ".join(filter(None, (self.options.kind, f"room {room}")))
        self._drawable = drawable(self.source)
        self._runs = asked(self.source, "runs", "")
        self._map_editor.look_around()

    def _draw(self) -> None:
        """What was drawn since the last tick is in the sinks before the next."""
        if (pictures := self._map_editor.drawn()) is not None:
            self._change_map(pictures)

    def _change_map(self, pictures: np.ndarray) -> None:
        """Other sinks between two ticks. A recording ends here, and another one goes on from here."""
        self._end_recording()
        self._branch = None
        if self._reference is not None:
            self._reference = None
            self.say("There is no real game of this map")
        self._compute(self.source.unwrapped.redraw, pictures)
        self._played = None
        if self._rewind_buffer is not None:
            self._rewind_buffer.begin()
        self._look_around()
        self._show(self.source.unwrapped.render(), self._shown[1])

    def _health(self) -> dict:
        """What a neural game says of its picture."""
        place = self.source.unwrapped
        return {"collapse": getattr(place, "collapse", None), "reprimes": getattr(place, "reprimes", 0)}

    def _show(self, frame: np.ndarray, held: np.ndarray, answers: tuple[float, ...] = ()) -> None:
        self._shown = frame, held
        self.screen.show(frame, self._draw_list(held, answers))
        if self.first_frame_s is None:
            self.first_frame_s = seconds_since_start()

    def _draw_list(self, held: np.ndarray, answers: tuple[float, ...]) -> Hud:
        return Hud(
            answers=answers,
            title=self.options.title,
            place=self._place,
            keys=self.options.keys,
            held=held,
            anchors=self._anchors,
            present=self._present(),
            drawable=self._drawable,
            runs=self._runs,
            recording=self.recording.seconds if self.recording else None,
            canvas=self._map_editor.canvas,
            beside=self._beside(),
            notice=self._notice if now() < self._notice_ends else "",
            rewound=self._rewound / self.options.game_fps if self._rewound else None,
            behind=len(self._rewind_buffer or ()) / self.options.game_fps,
            **self._health(),
            **self._figures,
            **self._hud,
        )

    def _beside(self) -> tuple[str, np.ndarray] | None:
        if self._reference is not None:
            return "the real game", self._reference.frame
        return ("another future", self._branch.frame) if self._branch is not None else None

    def _present(self) -> int | None:
        """Where on the map the picture is, if the source's pictures of its place are one."""
        mapped = self.source.unwrapped.metadata.get("map") and self._anchors is not None
        return nearest(self._shown[0], self._anchors) if mapped else None

    def _rest(self) -> None:
        """Paused: keep the window alive, and let no key press of the pause count as play."""
        self._show(*self._shown)
        self._listen_until(now() + 1 / PAUSED_FPS)
        self.ledger.cut()
        self.keyboard.new_room(self._seed)

    def _compute(self, call, *arguments):
        """``call(*arguments)`` on the step thread, listening to the window meanwhile."""
        future = self._stepper.submit(call, *arguments)
        while not wait([future], timeout=SLICE).done:
            self._listen()
        return future.result()

    def _listen_until(self, deadline: float) -> None:
        while (left := deadline - now()) > SPIN:
            self._listen()
            time.sleep(min(SLICE, max(0.0, left - SPIN)))
        while now() < deadline:
            pass

    def _listen(self) -> None:
        events = self.screen.poll()
        if self._branch is not None:
            events = self._branch.listen(events)
        self.keyboard.feed(events)
        for event in events:
            self._map_editor.touch(event)

    def _obey(self) -> None:
        for command in self.keyboard.commands():
            self._do(command)

    def _do(self, command: str) -> None:
        """What a command asks for; what cannot be done is told, and the game goes on."""
        try:
            getattr(self, f"_on_{command}")()
        except (MapEditorError, OSError, SaveError, WorldError) as error:
            self.say(str(error))

    def _on_quit(self) -> None:
        """Esc: out of the help, if it is open, or of the game."""
        self._running, self._hud["help"] = self._hud["help"], False

    def _on_close(self) -> None:
        self._running = False

    def _on_restart(self) -> None:
        self._hud["paused"] = False
        self._new_room(self._seed)

    def _on_pause(self) -> None:
        self._hud["paused"] = not self._hud["paused"]

    def _on_hud(self) -> None:
        self._hud["visible"] = not self._hud["visible"]

    def _on_fullscreen(self) -> None:
        self._hud["fullscreen"] = not self._hud["fullscreen"]

    def _on_save(self) -> None:
        self._need_rewind_buffer()
        save(self._slot(), asked(self.source, "get_state"), asked(self.source, "provenance", {}))
        self.say(f"Saved to {self._slot()}; F9 comes back to it")

    def _on_load(self) -> None:
        self._need_rewind_buffer()
        try:
            state = load(self._slot(), asked(self.source, "provenance", {}))
            self._end_recording()
            self.source.unwrapped.set_state(state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # what is no state of this source
            raise SaveError(str(error)) from error
        self._reference = self._branch = self._played = None
        self._rewind_buffer.begin()
        self._arrive()
        self.say("Back at the saved moment")

    def _need_rewind_buffer(self) -> None:
        if self._rewind_buffer is None:
            raise SaveError("Only a game that a person plays can be saved, loaded and branched")

    def _slot(self) -> Path:
        kind = asked(self.source, "provenance", {}).get("source", "game")
        return SAVES / f"{self.options.title or 'game'}-{kind}.safetensors"

    def _on_draw(self) -> None:
        self._map_editor.toggle()
        self._reference = self._branch = None

    def _on_undo(self) -> None:
        if self._map_editor.canvas is not None:
            self._map_editor.canvas.undo()

    def _on_teleport(self) -> None:
        self._change_map(self._map_editor.elsewhere(self._seed))
        self.say("The same moment in another map; Home begins this room again")

    def _on_pin(self) -> None:
        self._change_map(self._map_editor.pinned(self._shown[0]))
        self.say("This view is a sink frame from now on; Home begins this room again")

    def _on_drop(self) -> None:
        self._change_map(self._map_editor.dropped(self._shown[0]))

    def _on_reference(self) -> None:
        """The real game beside this one, brought here by the keys since the room's start; or no more."""
        if self._reference is not None:
            self._reference = None
            return
        reference = self._compute(ReferenceGame, self.source)
        self.say("The real game, after the same keys since this room's start")
        self._show(*self._shown)  # an hour of keys takes a while
        self._compute(reference.follow, self._played)
        self._reference, self._branch, self._map_editor.canvas = reference, None, None

    def _on_branch(self) -> None:
        """Two futures of this moment under the same keys; then the arrows steer the second; then it ends."""
        self._need_rewind_buffer()
        if self._branch is None:
            self._branch, self._reference, self._map_editor.canvas = Branch(self.source, self.options.keys), None, None
            steers = "; B: the arrows steer the second" if self._branch.can_be_steered else ""
            self.say(f"Two futures of this moment under the same keys{steers}; Enter takes it")
        elif self._branch.can_be_steered:
            self._branch.steer()
            self.say("Letters steer the first future, arrows the second; Enter takes it")
        else:
            self._branch = None

    def _on_swap(self) -> None:
        if self._branch is None:
            raise SaveError("There is one future; B begins another")
        self._end_recording()
        if self._branch.is_steered:
            self._played = None
        frame = self._compute(self._branch.swap)
        self._rewind_buffer.clear()
        self._rewind_buffer.begin()
        self._show(frame, self._shown[1])

    def _begin_reference(self) -> None:
        """The real game, if it is to be seen, to where this one has just begun."""
        try:
            if self._reference is not None:
                self._reference.follow(())
        except WorldError as error:
            self._reference = None
            self.say(str(error))

    def _on_picture(self) -> None:
        self.say(f"Saved {self._compute(self._camera.picture)}")

    def _on_film(self) -> None:
        self.say(f"Saved {self._compute(self._camera.film)}")

    def _on_research(self) -> None:
        self._hud["research"] = not self._hud["research"]

    def _on_help(self) -> None:
        self._hud["help"] = not self._hud["help"]

    def _on_next_room(self) -> None:
        self._hud["paused"] = False
        self._new_room(self._seed + 1)

    def _on_record(self) -> None:
        if self.recording is None:
            self.say("This cannot be recorded")
        else:
            self.say(self.recording.start(self._shown[0]) if self.recording.seconds is None else self.recording.stop())
