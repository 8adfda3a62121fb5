"""From trained stages to a folder that plays: one file of weights, the graphs, start scenes and a card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from world_model import checkpoint
from world_model.config import Config
from world_model.episode import Session
from world_model.episode.dataset import DatasetSplit, room_of
from world_model.play import scenes
from world_model.play.export import export, reuse

TRAINED_SCENES, HELD_OUT_SCENES = 12, 4


@dataclass(frozen=True)
class TrainingResult:
    """Where a run's weights are, what they were trained on, and the last logs of each stage."""

    config: Config
    dataset: DatasetSplit
    codec: Path | None  # patches have no weights
    student: Path
    base: Path | None  # the trained world that the run began from
    report: dict[str, dict[str, float]]


def assemble(folder: Path, result: TrainingResult, hardware: str, graphs: bool = True) -> bool:
    """Write weights, scenes, card.md and ONNX graphs into ``folder``: what ``play.py --checkpoint folder`` plays.
    Without ``graphs`` none are made, but those of before are kept if they fit. Returns whether there are graphs."""
    tensors = {
        f"{prefix}.{name}": array
        for prefix, path in (("autoencoder", result.codec), ("student", result.student))
        if path is not None
        for name, array in checkpoint.tensors(path, prefix).items()
    }
    about = checkpoint.describe(result.student)[1]
    checkpoint.save(folder / checkpoint.WEIGHTS, tensors, result.config, about)
    fit = any(reuse(folder, source) for source in (folder, result.base) if source)
    for graph in () if fit else folder.glob("*.onnx"):
        graph.unlink()  # of weights of other shapes
    unseen = [s for s in result.dataset.held_out if checkpoint.was_trained_on(about, room_of(s)) is False]
    names = write_scenes(folder, result.dataset, result.config)
    (folder / "card.md").write_text(_card(folder, result, unseen, hardware, names))
    if graphs and not fit:
        export(folder)
    return graphs or fit


def write_scenes(folder: Path, dataset: DatasetSplit, config: Config) -> dict[str, Session]:
    """Start scenes from recordings, a few of them held out; returns each one's name and where it is from."""
    written = {}
    for sessions, most in ((dataset.train, TRAINED_SCENES), (dataset.held_out, HELD_OUT_SCENES)):
        able = [session for session in sessions if can_begin(session, config)]
        rooms = {session.meta.seed: session for session in reversed(able)}  # the first session of each room
        for seed in sorted(rooms, key=lambda seed: (seed is None, seed))[:most]:
            scene = _scene(rooms[seed], config)
            scenes.write(folder, scene)
            written[scene.name] = rooms[seed]
    return written


def can_begin(session: Session, config: Config) -> bool:
    """Whether play can begin where a session did: its sinks are known, and a frame that is none of them."""
    return bool(session.meta.anchors) or len(session) > config.rolling.sink_frames


def _scene(session: Session, config: Config) -> scenes.Scene:
    """A session's start: its anchors, and its first frame. Without anchors its first frames are the sinks, and as many
    follow as fill the context, or as there are."""
    rolling = config.rolling
    name = session.path.name if session.meta.seed is None else str(session.meta.seed)
    if session.meta.anchors:
        return scenes.Scene(name, session.anchors[: rolling.sink_frames], session.frames(0, 1))
    wanted = rolling.sink_frames + (rolling.recent_blocks + 1) * rolling.frames_per_block
    frames = session.frames(0, min(wanted, len(session)))
    return scenes.Scene(name, frames[: rolling.sink_frames], frames[rolling.sink_frames :])


def _card(folder: Path, result: TrainingResult, unseen: list[Session], hardware: str, names: dict[str, Session]) -> str:
    """``unseen``: the sessions of rooms that neither these weights nor those that they started from were trained on."""
    sessions = result.dataset.train
    of_unseen = [name for name, session in names.items() if session in unseen]
    seconds = sum(len(session) for session in sessions) / result.config.world.fps
    lines = [
        f"# {result.config.name}",
        "",
        f"- weights: `{checkpoint.WEIGHTS}`, hash `{checkpoint.digest(folder / checkpoint.WEIGHTS)}`",
        f"- data: {len(sessions)} recorded sessions, {seconds / 60:.0f} minutes, "
        f"{len({s.meta.seed for s in sessions})} rooms; held out: {len(unseen)} sessions, "
        f"{len({s.meta.seed for s in unseen})} rooms",
        f"- start scenes (room seeds): {', '.join(name for name in names if name not in of_unseen) or 'none'}; "
        f"of rooms never trained on: {', '.join(of_unseen) or 'none'}",
        f"- hardware: {hardware}",
        "",
        "| stage | what its last step reported |",
        "|---|---|",
    ]
    for name, values in result.report.items():
        lines.append(f"| {name} | " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()) + " |")
    return "\n".join(lines) + "\n"
