"""The report: tables on the terminal, ``report.json``, and ``report.html``, which needs no other file.

``gather`` takes what the pictures need from an evaluation, so that its rollouts can be freed before the next.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Column, Table

from world_model.evaluate.evaluation_context import EvaluationContext, Measures, Pair, PairedRollout
from world_model.evaluate.metrics import Measure, psnr
from world_model.play.pictures import motion, sharpness
from world_model.play.runtime import WorldError

STRIP_SECONDS = (1, 2, 5, 10, 20, 40, 60, 120, 300, 600, 1200, 2400, 3600)
STRIPS = 2
BASELINES = {"real": "real game", "floor": "autoencoder", "copy_last": "copied frame", "first_kept": "first frame kept",
             "teacher": "teacher"}  # fmt: skip
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px}td,th{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left;font-family:monospace}img{max-width:100%}small{color:#666}"""


@dataclass(frozen=True)
class Curves:
    """Metrics of both games over the seconds of their rollouts, each [n], means over rooms."""

    seconds: np.ndarray
    sharpness: np.ndarray
    sharpness_real: np.ndarray
    motion: np.ndarray
    motion_real: np.ndarray
    psnr: np.ndarray
    psnr_copied: np.ndarray


@dataclass(frozen=True)
class Gathered:
    """Contents of the pictures: curves, and the film strips of some rooms (seconds, and the frames at them)."""

    curves: Curves
    strips: list[tuple[list[int], Pair]]


@dataclass(frozen=True)
class Report:
    """Circumstances, and by group (``measures``: held-out rooms; ``trained``) the rooms, the measures, and the reasons
    of what was skipped."""

    about: dict[str, Any]
    rooms: dict[str, list[int]]
    groups: dict[str, Measures]
    skipped: dict[str, dict[str, str]]


def need_plots() -> None:
    """Raises WorldError where matplotlib is missing, before time is spent on measuring."""
    if not importlib.util.find_spec("matplotlib"):
        raise WorldError('a report needs matplotlib: pip install -e ".[train]"')


def gather(context: EvaluationContext) -> Gathered:
    return Gathered(_curves(context.rollouts), [_strip(w) for w in context.rollouts[:STRIPS]])


def _curves(rollouts: list[PairedRollout]) -> Curves:
    """Means over the rooms whose rollouts last until each second; late ones have fewer."""
    rows = []
    for second in sorted({second for paired in rollouts for second in paired.glimpses}):
        glimpses = [(paired, paired.glimpses[second]) for paired in rollouts if second in paired.glimpses]
        metrics = [
            (
                sharpness(pair.made).mean(),
                sharpness(pair.real).mean(),
                motion(pair.made)[0],
                motion(pair.real)[0],
                psnr(pair.made, pair.real).mean(),
                psnr(paired.real[:1].repeat(2, 0), pair.real).mean(),
            )
            for paired, pair in glimpses
        ]
        rows.append((second, *np.mean(metrics, 0)))
    return Curves(*np.array(rows).T)


def _strip(paired: PairedRollout) -> tuple[list[int], Pair]:
    seconds = [second for second in STRIP_SECONDS if second in paired.glimpses]
    pairs = [paired.glimpses[second] for second in seconds]
    return seconds, Pair(np.stack([pair.real[1] for pair in pairs]), np.stack([pair.made[1] for pair in pairs]))


def show(report: Report, console: Console) -> None:
    """Print two tables, the groups of rooms and the baselines of the first group, and what was skipped."""
    console.print("  ".join(f"{k} {v}" for k, v in report.about.items() if isinstance(v, str)), highlight=False)
    rows, groups, titles = _rows(report), len(report.groups), _columns(report)
    without_counts = [(name, [cell.rpartition(" ")[0] for cell in cells[:groups]]) for name, cells in rows]
    console.print(_table(titles[:groups], without_counts))
    baselines = [(name, cells[groups:]) for name, cells in rows if any(cells[groups:])]
    console.print(_table(titles[groups:], baselines))
    for name, reason in report.skipped.get("measures", {}).items():
        console.print(f"skipped {name}: {reason}", highlight=False)


def _table(titles: list[str], rows: list[tuple[str, list[str]]]) -> Table:
    widest = max((len(name) for name, _ in rows), default=0)
    table = Table(Column("measure", no_wrap=True, min_width=widest), box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right")
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def write(folder: Path, report: Report, gathered: Gathered) -> None:
    """report.json, report.html and the pictures in it, each also as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(as_json(report), indent=1) + "\n")
    pictures = {"strip": _strip_picture(gathered.strips), **_plots(report, gathered)}
    for name, data in pictures.items():
        (folder / f"{name}.png").write_bytes(data)
    (folder / "report.html").write_text(_page(report, pictures))


def as_json(report: Report) -> dict[str, Any]:
    """Measures by name; those of baselines are under ``baselines``, by name and baseline."""
    content: dict[str, Any] = dict(report.about) | {"rooms": report.rooms}
    for group in ("measures", "trained"):
        measures = report.groups.get(group, {})
        prefix = "" if group == "measures" else f"{group}_"
        content[group] = {name: m.as_dict() for name, m in measures.items() if "@" not in name}
        content[f"{prefix}baselines"] = nested = {}
        for name, m in measures.items():
            if "@" in name:
                of, baseline = name.split("@")
                nested.setdefault(of, {})[baseline] = m.as_dict()
        content[f"{prefix}skipped"] = report.skipped.get(group, {})
    return content


def _columns(report: Report) -> list[str]:
    titles = {"measures": "held-out rooms", "trained": "rooms trained on"}
    return [titles[group] for group in report.groups] + list(BASELINES.values())


def _rows(report: Report) -> list[tuple[str, list[str]]]:
    """Every measured name and its cells: one for each group, then one for each baseline of the first group."""
    names = dict.fromkeys(name.split("@")[0] for group in report.groups.values() for name in group)
    first = next(iter(report.groups.values()))
    rows = []
    for name in names:
        cells = [_cell(group.get(name)) for group in report.groups.values()]
        cells += [_cell(first.get(f"{name}@{baseline}"), short=True) for baseline in BASELINES]
        rows.append((name, cells))
    return rows


def _cell(m: Measure | None, short: bool = False) -> str:
    if m is None:
        return ""
    return f"{m.value:.2f}" if short else f"{m.value:.2f} [{m.low:.2f}, {m.high:.2f}] {m.n}"


def _strip_picture(strips: list[tuple[list[int], Pair]]) -> bytes:
    """Film strips, real above generated, the time written above each column."""
    rows = []
    for seconds, pair in strips:
        scale = max(1, 112 // pair.real.shape[1])
        width = pair.real.shape[2] * scale
        rows.append(np.concatenate([_title(second, width) for second in seconds], 1))
        rows += [np.concatenate(list(frames), 1).repeat(scale, 0).repeat(scale, 1) for frames in (pair.real, pair.made)]
    return cv2.imencode(".png", np.ascontiguousarray(np.concatenate(rows)[..., ::-1]))[1].tobytes()


def _title(second: int, width: int) -> np.ndarray:
    """A bar with the time in it, uint8 [18, width, 3]."""
    bar = np.full((18, width, 3), 24, np.uint8)
    text = f"{second} s" if second < 60 else f"{second // 60} min"
    return cv2.putText(bar, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230), 1, cv2.LINE_AA)


def _plots(report: Report, gathered: Gathered) -> dict[str, bytes]:
    measures = next(iter(report.groups.values()))
    return {"curves": _plot_curves(gathered.curves, measures), "onset": _plot_onset(measures)}


def _plot_curves(curves: Curves, measures: Measures) -> bytes:
    figure, axes = _figure(2, 2)
    panels = (
        ("sharpness", curves.sharpness, curves.sharpness_real, "real game"),
        ("motion", curves.motion, curves.motion_real, "real game"),
        ("PSNR against the real game, dB", curves.psnr, curves.psnr_copied, "first frame, kept"),
    )
    for axis, (title, made, reference, name) in zip(axes.flat, panels, strict=False):
        axis.plot(curves.seconds, reference, color="0.6", label=name)
        axis.plot(curves.seconds, made, color="C0", label="generated")
        axis.set(title=title, xlabel="seconds of play", ylim=(0, None))
    for name, colour, suffix in (("generated", "C0", ""), ("real game", "0.6", "@real")):
        matches = ((re.fullmatch(rf"drift_distance_(\d+)(s|min){suffix}", n), m.value) for n, m in measures.items())
        points = [(int(match[1]) * (60 if match[2] == "min" else 1), value) for match, value in matches if match]
        if points:
            axes[1, 1].plot(*zip(*sorted(points), strict=True), "o-", color=colour, label=name)
    axes[1, 1].set(title="drift: distance of latents to real play", xlabel="seconds of play", ylim=(0, None))
    for axis in axes.flat:
        if axis.lines:
            axis.legend(frameon=False)
        else:
            axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        if curves.seconds[-1] > 120:
            axis.set_xscale("log")
    return _png(figure)


def _plot_onset(measures: Measures) -> bytes:
    """Shares of key changes by the first frame that shows them."""
    figure, axes = _figure(1, 1)
    names = [f"onset_{frames}_share" for frames in ("first_frame", "two_frames", "four_frames")]
    if all(name in measures for name in names):
        bars = np.diff([0, *(measures[name].value for name in names), 1])
        axes[0, 0].bar(["the first", "the second", "third or fourth", "none of four"], bars, color=["C0"] * 3 + ["0.7"])
    else:
        axes[0, 0].text(0.5, 0.5, "not measured", ha="center", transform=axes[0, 0].transAxes)
    axes[0, 0].set(title="first frame that shows a key change", ylim=(0, 1), ylabel="share of key changes")
    return _png(figure)


def _figure(rows: int, columns: int):
    from matplotlib.figure import Figure

    figure = Figure((5 * columns, 3.4 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _page(report: Report, pictures: dict[str, bytes]) -> str:
    captions = {
        "strip": "Under the same keys: the real game above, the generated one beneath.",
        "curves": "Over time, held-out rooms.",
        "onset": "From a key change to the picture.",
    }
    figures = "".join(
        f'<h2>{captions[name]}</h2><img alt="{name}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        for name, data in pictures.items()
    )
    head = "".join(f"<th>{html.escape(title)}</th>" for title in ["measure", *_columns(report)])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in (name, *cells)) + "</tr>"
        for name, cells in _rows(report)
    )
    missing = {name: reason for group in report.skipped.values() for name, reason in group.items()}
    skipped = "".join(f"<li><code>{html.escape(n)}</code>: {html.escape(why)}</li>" for n, why in missing.items())
    about = html.escape(json.dumps(report.about | {"rooms": report.rooms}))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(str(report.about["world"]))}</title>'
        f"<style>{STYLE}</style><h1>Measures of the world {html.escape(str(report.about['world']))}</h1>"
        "<p>Value [95 % bootstrap interval over rooms] number of samples. Baselines: the first column's rooms.</p>"
        f"<table><tr>{head}</tr>{body}</table><h2>Skipped</h2><ul>{skipped}</ul>{figures}"
        f"<h2>About</h2><small>{about}</small></html>\n"
    )
