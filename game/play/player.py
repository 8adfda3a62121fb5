"""Poll -> sample -> step -> draw, paced. One loop for window and headless, for real game and neural game.

Low latency: the keyboard is sampled right before the step, and a frame is shown as soon as it is computed, not at
the next tick. A key waits for the next sample (half a tick on average) plus the step, decode and draw times. The step
runs on a thread of its own, because a window has to be polled from the main thread: so an event that comes during a
step is stamped within about a millisecond, and the latency figures are the real ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol

import gymnasium
import numpy as np

from game.draw.map_editor import MapEditor, MapEditorError, drawable
from game.play.camera import Camera
from game.play.history import History
from game.play.keyboard import Keyboard, Sample
from game.play.reference_game import ReferenceGame
from game.play.report import Ledger, Tick, seconds_since_start
from game.play.saves import SaveError
from game.play.screen import Hud, Screen
from game.worlds.sources import is_over, optional
from world_model.play.maps import nearest
from world_model.play.runtime import WorldError

SLICE = 0.001  # seconds between two polls: the error of an event's time stamp
SPIN = 0.0003  # seconds by which a sleep may end late; the end of a wait is spun
PAUSED_FPS = 20
FIGURES_EVERY = 10  # ticks; figures that change with every tick cannot be read
NOTICE_SECONDS = 3.0
TOGGLES = {"pause": "paused", "hud": "visible", "fullscreen": "fullscreen", "research": "research", "help": "help"}
"""Commands that switch a field of the HUD."""

now = time.perf_counter


class Controller(Protocol):
    """Who presses the keys: a person's Keyboard, a bot, a recording."""

    def sample(self) -> Sample: ...

    def new_room(self, seed: int) -> None: ...


class Recording(Protocol):
    """What the R key switches: ``start`` and ``stop`` return a line for the player."""

    seconds: float | None  # recorded so far; None while not recording

    def start(self, shown: np.ndarray) -> str: ...

    def stop(self) -> str: ...


class Pacer:
    """Absolute deadlines: after a late tick the wait is shorter, but a stall is not followed by a burst."""

    def __init__(self, fps: float, start: float):
        self.period = 1 / fps if fps else 0.0
        self.deadline = start

    def next(self, time_now: float) -> float:
        """The deadline of the next tick; ``time_now`` in seconds of the clock that ``start`` was read from."""
        self.deadline += self.period
        if time_now - self.deadline > self.period:
            self.deadline = time_now
        return self.deadline


@dataclass
class Options:
    """How to play.

    fps: ticks a second, 0 for as fast as it goes; game_fps: the world's own. frames: stop after so many ticks.
    stands_for, rest: other keys for the world's, and how held ones act (see Keyboard). meanings: what keys do.
    map: uint8 [4, H, W, 3] in place of the first room's anchors; draws: begin with the map editor open.
    """

    keys: tuple[str, ...]
    fps: float = 20.0
    seed: int = 0
    frames: int | None = None
    title: str = ""
    kind: str = ""
    game_fps: int = 20
    stands_for: Mapping[str, str] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    rest: int = 0
    map: np.ndarray | None = None
    draws: bool = False


class Player:
    """Plays a frame source on a screen: ``run`` returns the ledger when the person or the frame count ends it.

    source: gymnasium.Env with uint8 RGB observations. controller: who presses the keys; the keyboard when None.
    watch: called with (frame uint8 [H, W, 3], action int8 [keys]) after each frame, outside the tick's time.
    ``first_frame_s`` is the age of the process when the first frame was shown, seconds.
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
        self.keyboard = Keyboard(options.keys, options.stands_for, options.rest)
        self.controller = controller or self.keyboard
        self.recording, self.watch = recording, watch
        self.ledger = Ledger(options.game_fps, options.fps)
        self._figures = self.ledger.recent()
        self.first_frame_s: float | None = None
        self._seed = options.seed
        self._hud = {"visible": True, "fullscreen": False, "help": False, "paused": False, "research": False}
        self._notice, self._notice_ends = "", 0.0
        self._running = True
        self._history = History(source, options.keys, options.title, can_rewind=controller is None)
        self._rewound = 0  # ticks, since the rewind key went down
        self._records_again = False  # once time runs forwards
        self._map_editor = MapEditor(source, self.say)
        self._camera = Camera(options.keys, options.game_fps)

    def run(self) -> Ledger:
        with ThreadPoolExecutor(1, "step") as self._stepper:
            self._new_room(self._seed)
            if self.options.draws:
                self._try(self._on_draw)
            pacer = Pacer(self.options.fps, now())
            while self._running and not self._is_over():
                self._listen_until(pacer.next(now()))
                self._obey()
                self._apply_drawing()
                if self._hud["paused"] or self._hud["help"]:
                    self._rest()
                    pacer.deadline = now()  # after a pause nothing is late
                elif self.keyboard.rewinding and self._history.can_rewind:
                    self._go_back()
                elif self._running:
                    if self.keyboard.rewinding and now() > self._notice_ends:
                        self._try(self._history.need_states)
                    self._go_forward()
                    self._tick()
        return self.ledger

    def say(self, notice: str) -> None:
        """Show a line over the frame for a few seconds."""
        self._notice, self._notice_ends = notice, now() + NOTICE_SECONDS

    @property
    def _score(self) -> float | None:
        """What a game with rewards says of them."""
        return getattr(self.source.unwrapped, "score", None)

    def _is_over(self) -> bool:
        return self.options.frames is not None and self.ledger.frames >= self.options.frames

    def _tick(self) -> None:
        self._listen()
        sample, sampled = self.controller.sample(), now()
        frame, _, terminated, truncated, _ = self._compute(self.source.step, sample.action)
        if self._history.beside is not None:
            self._compute(self._history.step_beside, sample.action)
            if self._history.beside is None:
                self.say("The game beside this one is over")
        stepped = now()
        self._show(frame, sample.action, sample.arrivals)
        decode = getattr(self.source.unwrapped, "timing_ms", {}).get("decode", 0.0) / 1e3
        self.ledger.add(Tick(sampled, stepped, now(), decode, sample.arrivals, **self._health()), frame)
        if self.ledger.frames % FIGURES_EVERY == 0:
            self._figures = self.ledger.recent()
        if self.watch:
            self.watch(frame, sample.action)
        self._camera.look(frame, sample.action)
        self._history.tick(sample.action)
        if is_over(self.source, terminated, truncated) and self._running and not self._is_over():
            self.say(" · ".join(filter(None, ("The episode is over", Hud(score=self._score).scored))))
            self._new_room(self._seed + 1)

    def _new_room(self, seed: int) -> None:
        self._seed = seed
        frame, _ = self._compute(lambda: self.source.reset(seed=seed))
        self._read_place()
        self._try(lambda: self._compute(self._history.start))
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
            self._history.start()

    def _go_back(self) -> None:
        """One tick back in time. A recording ends here."""
        self._listen()
        self._end_recording()
        if self._compute(self._history.back):
            self._rewound += 1
            self._arrive()
        else:
            self._show(*self._shown)

    def _go_forward(self) -> None:
        """Time runs forwards: after a jump in time, a game that was being recorded goes on in a new recording."""
        self._rewound = 0
        if self._records_again:
            self._records_again = False
            self.say(self.recording.start(self._shown[0]))

    def _end_recording(self) -> None:
        if self.recording is not None and self.recording.seconds is not None:
            self._records_again = True
            self.recording.stop()

    def _arrive(self) -> None:
        """Show the state that the game was set to; no key that was pressed before it counts."""
        self._read_place()
        self.ledger.cut()
        self.keyboard.new_room(self._seed)
        self._show(self.source.unwrapped.render(), np.zeros(len(self.options.keys), dtype=np.int8))

    def _read_place(self) -> None:
        """Read what the source says of its room: anchors, name, runtime."""
        self._anchors = optional(self.source, "anchors")
        provenance = optional(self.source, "provenance", {})
        room = provenance.get("scene") or provenance.get("seed", self._seed)
        self._place = " · ".join(filter(None, (self.options.kind, f"room {room}")))
        self._drawable = drawable(self.source)
        self._runs = optional(self.source, "runs", "")
        self._map_editor.refresh()

    def _apply_drawing(self) -> None:
        """Make what was drawn since the last tick the sinks of the next."""
        if (pictures := self._map_editor.take_drawing()) is not None:
            self._change_map(pictures)

    def _change_map(self, pictures: np.ndarray) -> None:
        """Replace the sinks, between two ticks. A recording ends here and another begins."""
        self._end_recording()
        if self._history.reference is not None:
            self.say("There is no real game of this map")
        self._compute(self.source.unwrapped.redraw, pictures)
        self._history.change()
        self._read_place()
        self._show(self.source.unwrapped.render(), self._shown[1])

    def _health(self) -> dict:
        """What a neural game reports of its picture."""
        game = self.source.unwrapped
        return {"collapse": getattr(game, "collapse", None), "reprimes": getattr(game, "reprimes", 0)}

    def _show(self, frame: np.ndarray, held: np.ndarray, answers: tuple[float, ...] = ()) -> None:
        self._shown = frame, held
        self.screen.show(frame, self._make_hud(held, answers))
        if self.first_frame_s is None:
            self.first_frame_s = seconds_since_start()

    def _make_hud(self, held: np.ndarray, answers: tuple[float, ...]) -> Hud:
        return Hud(
            answers=answers,
            title=self.options.title,
            place=self._place,
            keys=self.options.keys,
            meanings=self.options.meanings,
            held=held,
            anchors=self._anchors,
            present=self._room_on_map(),
            drawable=self._drawable,
            runs=self._runs,
            recording=self.recording.seconds if self.recording else None,
            canvas=self._map_editor.canvas,
            beside=self._history.beside,
            score=self._score,
            notice=self._notice if now() < self._notice_ends else "",
            rewound=self._rewound / self.options.game_fps if self._rewound else None,
            behind=self._history.moments / self.options.game_fps,
            **self._health(),
            **self._figures,
            **self._hud,
        )

    def _room_on_map(self) -> int | None:
        """The anchor that is most like the frame, where the anchors are a map."""
        has_map = self.source.unwrapped.metadata.get("map") and self._anchors is not None
        return nearest(self._shown[0], self._anchors) if has_map else None

    def _rest(self) -> None:
        """Paused: keep the window alive; keys that are tapped meanwhile do not count."""
        self._show(*self._shown)
        self._listen_until(now() + 1 / PAUSED_FPS)
        self.ledger.cut()
        self.keyboard.new_room(self._seed)

    def _compute(self, call, *arguments):
        """``call(*arguments)`` on the step thread, polling the window meanwhile."""
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
        events = self._history.listen(self.screen.poll())
        self.keyboard.feed(events)
        for event in events:
            self._map_editor.touch(event)

    def _obey(self) -> None:
        for command in self.keyboard.commands():
            if command in TOGGLES:
                self._hud[TOGGLES[command]] ^= True
            else:
                self._try(getattr(self, f"_on_{command}"))

    def _try(self, call: Callable[[], None]) -> None:
        """``call()``; where it fails, show why and go on with the game."""
        try:
            call()
        except (MapEditorError, OSError, SaveError, WorldError) as error:
            self.say(str(error))

    def _on_quit(self) -> None:
        """Close the help, if it is open, or else the game."""
        self._running, self._hud["help"] = self._hud["help"], False

    def _on_close(self) -> None:
        self._running = False

    def _on_restart(self) -> None:
        self._hud["paused"] = False
        self._new_room(self._seed)

    def _on_save(self) -> None:
        self.say(f"Saved to {self._history.save()}; F9 comes back to it")

    def _on_load(self) -> None:
        self._history.load()
        self._end_recording()
        self._arrive()
        self.say("Back at the saved moment")

    def _on_draw(self) -> None:
        self._map_editor.toggle()
        self._history.close()

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
        """Show the real game beside this one, or close it."""
        if self._history.reference is not None:
            self._history.close()
            return
        reference = self._compute(ReferenceGame, self.source)
        self.say("The real game, after the same keys since this room's start")
        self._show(*self._shown)  # the keys of an hour take some seconds
        self._compute(self._history.open_reference, reference)
        self._map_editor.canvas = None

    def _on_branch(self) -> None:
        self.say(self._history.next_branch())
        self._map_editor.canvas = None

    def _on_swap(self) -> None:
        frame = self._compute(self._history.swap)
        self._end_recording()
        self._show(frame, self._shown[1])

    def _on_picture(self) -> None:
        self.say(f"Saved {self._compute(self._camera.picture)}")

    def _on_film(self) -> None:
        self.say(f"Saved {self._compute(self._camera.film)}")

    def _on_next_room(self) -> None:
        self._hud["paused"] = False
        self._new_room(self._seed + 1)

    def _on_record(self) -> None:
        if self.recording is None:
            self.say("This cannot be recorded")
        else:
            self.say(self.recording.start(self._shown[0]) if self.recording.seconds is None else self.recording.stop())
