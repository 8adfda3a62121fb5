"""A checkpoint's ONNX graphs: encoder, prime, step, refill_window, replace_sinks and decoder, next to its weights.

    python -m world_model.play.export assets/worlds/arena

The graphs hold no weights: each weight is marked as *external data* whose place is ``weights.safetensors``, at the
offset that this file's own header gives, so one file serves ONNX Runtime and PyTorch alike. The graphs are rolling.py
itself, traced. A state goes in and comes out as arrays named like rolling.py's; what a graph changes comes out as
``next_<name>``, what it leaves alone does not come out.

    graph          inputs                                         outputs
    encoder        frames uint8 [n, H, W, 3]                      latents [n, C, h, w]
    prime          sinks, frames, actions, noise (of rolling)     next_* (the whole state)
    step           the state, action [1, keys], noise             next_* (but the sinks'), latent [1, B, C, h, w]
    refill_window  the state (but window, tick), action,          next_window
                   noise [1, K, K, B, C, h, w]
    replace_sinks  keys, values, clean_action, sinks              next_keys, next_values, next_* (the head's of sinks)
    decoder        latents [n, C, h, w]                           frames uint8 [n, H, W, 3]
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, DeduplicateInitializersPass, OutputFixPass
from onnxscript.optimizer import optimize_ir
from rich.progress import track
from torch import Tensor, nn

from world_model import checkpoint
from world_model.checkpoint import WEIGHTS, CheckpointError
from world_model.config import Config
from world_model.model import rolling
from world_model.model.autoencoder import to_frames, to_network
from world_model.model.codec import Codec, make_codec
from world_model.model.transformer import Transformer

OPSET = 20  # 23 has attention and RMS norm of its own, but is no faster on the CPU and needs a newer ONNX Runtime
STATE = ("keys", "values", "window", "clean", "clean_action", "sinks", "tick")
"""The arrays of every state; what the head keeps follows them."""
RINGS = ("keys", "values", "clean_action")
"""Those that ``replace_sinks`` reads."""


def export(folder: str | Path, show_progress: bool = False) -> list[Path]:
    """Write the six graphs into a checkpoint folder and return their paths. Raises CheckpointError."""
    folder = Path(folder)
    weights = folder / WEIGHTS
    config, _ = checkpoint.describe(weights)
    graphs = _graphs(config, *_models(weights, config))
    paths = []
    for name in track(graphs, "Exporting", disable=not show_progress, transient=True):
        with _quiet():
            model = _traced(*graphs[name])
            _simplify(model, weights)
        model.metadata_props.update(graph=name, weights_layout=checkpoint.layout_digest(weights))
        paths.append(folder / f"{name}.onnx")
        partial = paths[-1].with_suffix(".partial")
        ir.save(model, partial)
        os.replace(partial, paths[-1])
    return paths


def _models(weights: Path, config: Config) -> tuple[Codec, Transformer]:
    models = {"autoencoder": make_codec(config), "student": Transformer(config)}
    for name, model in models.items():
        arrays = checkpoint.tensors(weights, name) if model.state_dict() else {}
        try:
            model.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
        except RuntimeError as error:
            raise CheckpointError(f"{weights}: does not fit its own configuration: {error}") from error
        model.eval()
    return models["autoencoder"], models["student"]


class Graph(nn.Module):
    """A function of named tensors as a module; its models' names are the prefixes in the weights file."""

    def __init__(self, function: Callable, **models: nn.Module):
        super().__init__()
        self.function = function
        for name, model in models.items():
            self.add_module(name, model)
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.function(*inputs)


Traceable = tuple[Graph, dict[str, Tensor], list[str], bool]
"""A graph, its inputs, the names of its outputs, and whether the first input's length is free."""


def _graphs(config: Config, codec: Codec, student: Transformer) -> dict[str, Traceable]:
    roll, arrays = config.rolling, _examples(config, student)
    every, encoded = (*STATE, *student.state_names), tuple(student.encode_sinks(arrays["sinks"]))
    stepped = tuple(name for name in every if name not in ("sinks", *encoded))
    refilled = tuple(name for name in every if name not in ("window", "tick"))
    of_sinks = ("keys", "values", *encoded)

    def given(*names: str) -> dict[str, Tensor]:
        return {name: arrays[name] for name in names}

    def after(state: rolling.State, names: tuple[str, ...] = every) -> tuple[Tensor, ...]:
        return tuple(state[name] for name in names)

    def prime(*inputs: Tensor) -> tuple[Tensor, ...]:
        return after(rolling.prime(student, roll, *inputs))

    def step(*inputs: Tensor) -> tuple[Tensor, ...]:
        state, latent = rolling.step(student, roll, dict(zip(every, inputs, strict=False)), *inputs[-2:])
        return *after(state, stepped), latent

    def refill_window(*inputs: Tensor) -> tuple[Tensor, ...]:
        state = rolling.refill_window(student, roll, dict(zip(refilled, inputs, strict=False)), *inputs[-2:])
        return after(state, ("window",))

    def replace_sinks(*inputs: Tensor) -> tuple[Tensor, ...]:
        state = rolling.replace_sinks(student, roll, dict(zip(RINGS, inputs, strict=False)), inputs[-1])
        return after(state, of_sinks)

    def changed(names: tuple[str, ...]) -> list[str]:
        return [f"next_{name}" for name in names]

    encoder = Graph(lambda frames: codec.encode(to_network(frames)), autoencoder=codec)
    decoder = Graph(lambda latents: to_frames(codec.decode(latents)), autoencoder=codec)
    refill_inputs = given(*refilled, "action") | {"noise": arrays["refill_noise"]}
    prime_inputs = given("sinks", "frames", "actions", "noise")
    return {
        "encoder": (encoder, {"frames": arrays["pictures"]}, ["latents"], True),
        "prime": (Graph(prime, student=student), prime_inputs, changed(every), False),
        "step": (Graph(step, student=student), given(*every, "action", "noise"), [*changed(stepped), "latent"], False),
        "refill_window": (Graph(refill_window, student=student), refill_inputs, ["next_window"], False),
        "replace_sinks": (Graph(replace_sinks, student=student), given(*RINGS, "sinks"), changed(of_sinks), False),
        "decoder": (decoder, {"latents": arrays["latents"]}, ["frames"], True),
    }


def _examples(config: Config, student: Transformer) -> dict[str, Tensor]:
    """Arrays of every input's shape, for the tracer."""
    roll, latent, keys = config.rolling, config.latent_shape, config.action_size
    blocks = (roll.window_blocks, roll.frames_per_block, *latent)
    past = roll.recent_blocks + 1
    arrays = {
        "pictures": torch.zeros(2, config.world.height, config.world.width, 3, dtype=torch.uint8),
        "latents": torch.zeros(2, *latent),
        "sinks": torch.zeros(1, roll.sink_frames, *latent),
        "frames": torch.zeros(1, past, roll.frames_per_block, *latent),
        "actions": torch.zeros(1, past, keys),
        "action": torch.zeros(1, keys),
        "noise": torch.zeros(1, *blocks),
        "refill_noise": torch.zeros(1, roll.window_blocks, *blocks),
    }
    with torch.no_grad():
        prime = (arrays[name] for name in ("sinks", "frames", "actions", "noise"))
        return arrays | rolling.prime(student, roll, *prime)


@torch.no_grad()
def _traced(graph: Graph, inputs: dict[str, Tensor], outputs: list[str], free: bool) -> ir.Model:
    """The graph in ONNX as the exporter writes it."""
    graph(*inputs.values())  # tables made once are made here, not of the tracer's symbols
    shapes = ({0: torch.export.Dim("n")},) if free else None
    model = torch.onnx.export(
        graph,
        tuple(inputs.values()),
        dynamo=True,
        optimize=False,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=outputs,
        dynamic_shapes={"inputs": shapes} if shapes else None,
        verbose=False,
    ).model
    OutputFixPass()(model)
    for value, name in zip(model.graph.inputs, inputs, strict=True):
        value.name = name  # an input that is also an output came out under the output's name
    return model


def _simplify(model: ir.Model, weights: Path) -> None:
    """Fold what is constant, except the weights, which become external data inside their file."""
    places = checkpoint.places(weights)
    held = [value for name, value in model.graph.initializers.items() if name in places]
    for value in held:
        value.const_value = None  # without values nothing can be folded or merged into copies of them
    optimize_ir(model)
    DeduplicateInitializersPass(size_limit=2**20)(model)
    ClearMetadataAndDocStringPass()(model)
    for value in held:
        value.const_value = ir.ExternalTensor(
            WEIGHTS, *places[value.name], value.dtype, shape=value.shape, name=value.name, base_dir=weights.parent
        )


@contextlib.contextmanager
def _quiet():
    """Without the exporter's notes: packages that nobody asked for, weights that have no values."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the ONNX graphs of a checkpoint folder, next to its weights.")
    parser.add_argument("folder", type=Path, help=f"folder that holds {WEIGHTS}, such as assets/worlds/arena")
    try:
        paths = export(parser.parse_args().folder, show_progress=True)
    except CheckpointError as error:
        sys.exit(str(error))
    for path in paths:
        print(f"{path}  {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
