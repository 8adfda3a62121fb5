"""A checkpoint's ONNX graphs: encoder, prime, step, refill_window, replace_sinks and decoder, next to its weights.

    python -m world_model.play.export assets/worlds/arena

The graphs hold no weights: each weight is ONNX *external data* in ``weights.safetensors``, at the offset that the
header of this file gives, so ONNX Runtime and PyTorch read the same file. The graphs are the functions of
``rolling.py``, traced. The arrays of a state are inputs under their names there; those that a graph changes are outputs
named ``next_<name>``.

    graph          inputs                                         outputs
    encoder        frames uint8 [n, H, W, 3]                      latents [n, C, h, w]
    prime          sinks, frames, actions, noise (of rolling)     next_* (the whole state)
    step           the state, action [1, keys], noise             next_* (not the sinks'), latent [1, B, C, h, w]
    refill_window  the state without window and tick, action,     next_window
                   noise [1, K, K, B, C, h, w]
    replace_sinks  keys, values, clean_action, sinks              next_keys, next_values, next_* (Head.encode_sinks)
    decoder        latents [n, C, h, w]                           frames uint8 [n, H, W, 3]
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import onnx_ir as ir
import torch
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateInitializersPass,
    OutputFixPass,
    RemoveUnusedNodesPass,
)
from onnxscript.optimizer import optimize_ir
from rich.progress import track
from torch import Tensor, nn

from world_model import checkpoint
from world_model.checkpoint import WEIGHTS, CheckpointError
from world_model.config import Config
from world_model.model import rolling
from world_model.model.autoencoder import to_frames, to_network
from world_model.model.codec import Codec
from world_model.model.transformer import Transformer
from world_model.play.runtime import GRAPHS, TorchRuntime

OPSET = 20  # 23 has attention and RMS norm of its own, but is no faster on the CPU and needs a newer ONNX Runtime


def export(folder: str | Path, show_progress: bool = False) -> list[Path]:
    """Write the six graphs into a checkpoint folder and return their paths. Raises CheckpointError."""
    folder = Path(folder)
    weights = folder / WEIGHTS
    runtime = TorchRuntime(folder, "cpu")
    graphs = _graphs(runtime.config, runtime._codec, runtime._student)
    paths = []
    for name in track(graphs, "Exporting", disable=not show_progress, transient=True):
        with _quiet():
            model = _traced(graphs[name], free_length=name in ("encoder", "decoder"))
            _simplify(model, weights)
        model.metadata_props.update(graph=name, weights_layout=checkpoint.layout_digest(weights))
        paths.append(folder / f"{name}.onnx")
        partial = paths[-1].with_suffix(".partial")
        ir.save(model, partial)
        os.replace(partial, paths[-1])
    return paths


def reuse(folder: Path, source: Path) -> bool:
    """Take the graphs of ``source``, another checkpoint folder or the same, if they fit the weights in ``folder``;
    whether they do. They hold no weights, so retraining needs no new ones."""
    layout, paths = checkpoint.layout_digest(folder / WEIGHTS), [source / f"{name}.onnx" for name in GRAPHS]
    try:
        if any(ir.load(path).metadata_props["weights_layout"] != layout for path in paths):
            return False
    except (OSError, KeyError, DecodeError):  # none there, of an older version, or damaged
        return False
    for path in paths:
        if source.resolve() != folder.resolve():
            shutil.copyfile(path, folder / path.name)
    return True


class Graph(nn.Module):
    """A function from named tensors to named tensors. ``models``: those whose weights it uses, by their prefix in the
    weights file; ``inputs``: an example of each; ``outputs``: names, of state arrays with ``next_`` before them."""

    def __init__(self, function: Callable, inputs: rolling.State, outputs: Iterable[str], **models: nn.Module):
        super().__init__()
        self.function, self.inputs, self.outputs = function, inputs, tuple(outputs)
        for name, model in models.items():
            self.add_module(name, model)
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        results = self.function(dict(zip(self.inputs, inputs, strict=True)))
        return tuple(results[name.removeprefix("next_")] for name in self.outputs)


def _graphs(config: Config, codec: Codec, student: Transformer) -> dict[str, Graph]:
    roll, latent, keys = config.rolling, config.latent_shape, config.action_size
    block, past = (roll.frames_per_block, *latent), roll.recent_blocks + 1
    pictures = torch.zeros(2, config.world.height, config.world.width, 3, dtype=torch.uint8)
    noise = torch.zeros(1, roll.window_blocks, *block)
    refill_noise = torch.zeros(1, roll.window_blocks, roll.window_blocks, *block)
    sinks, action = torch.zeros(1, roll.sink_frames, *latent), torch.zeros(1, keys)
    to_prime = {"sinks": sinks, "frames": torch.zeros(1, past, *block), "actions": torch.zeros(1, past, keys),
                "noise": noise}  # fmt: skip
    with torch.no_grad():
        state, of_sinks = rolling.prime(student, roll, *to_prime.values()), student.encode_sinks(sinks)

    def without(*names: str) -> rolling.State:
        return {name: array for name, array in state.items() if name not in names}

    def changed(names: Iterable[str]) -> list[str]:
        return [f"next_{name}" for name in names]

    def step(inputs: rolling.State) -> rolling.State:
        after, latent = rolling.step(student, roll, inputs, inputs["action"], inputs["noise"])
        return after | {"latent": latent}

    def refill_window(inputs: rolling.State) -> rolling.State:
        return rolling.refill_window(student, roll, inputs, inputs["action"], inputs["noise"])

    return {
        "encoder": Graph(lambda inputs: {"latents": codec.encode(to_network(inputs["frames"]))},
                         {"frames": pictures}, ["latents"], autoencoder=codec),
        "prime": Graph(lambda inputs: rolling.prime(student, roll, *inputs.values()), to_prime, changed(state),
                       student=student),
        "step": Graph(step, state | {"action": action, "noise": noise},
                      [*changed(without("sinks", *of_sinks)), "latent"], student=student),
        "refill_window": Graph(refill_window, without("window", "tick") | {"action": action, "noise": refill_noise},
                               ["next_window"], student=student),
        "replace_sinks": Graph(lambda inputs: rolling.replace_sinks(student, roll, inputs, inputs["sinks"]),
                               {name: state[name] for name in ("keys", "values", "clean_action", "sinks")},
                               changed(["keys", "values", *of_sinks]), student=student),
        "decoder": Graph(lambda inputs: {"frames": to_frames(codec.decode(inputs["latents"]))},
                         {"latents": torch.zeros(2, *latent)}, ["frames"], autoencoder=codec),
    }  # fmt: skip


@torch.no_grad()
def _traced(graph: Graph, free_length: bool) -> ir.Model:
    """The graph in ONNX as the exporter writes it; ``free_length``: of the only input's first dimension."""
    inputs = tuple(graph.inputs.values())
    graph(*inputs)  # fills the caches of layouts: under the tracer they would be filled with its symbols
    model = torch.onnx.export(
        graph,
        inputs,
        dynamo=True,
        optimize=False,
        opset_version=OPSET,
        input_names=list(graph.inputs),
        output_names=graph.outputs,
        dynamic_shapes={"inputs": ({0: torch.export.Dim("n")},)} if free_length else None,
        verbose=False,
    ).model
    OutputFixPass()(model)
    for value, name in zip(model.graph.inputs, graph.inputs, strict=True):
        value.name = name  # an input that is also an output came out under the output's name
    return model


def _simplify(model: ir.Model, weights: Path) -> None:
    """Fold constants; the weights are left alone and become external data in ``weights``."""
    places = checkpoint.places(weights)
    held = [value for name, value in model.graph.initializers.items() if name in places]
    for value in held:
        value.const_value = None  # without values nothing can be folded or merged into copies of them
    optimize_ir(model)
    DeduplicateInitializersPass(size_limit=2**20)(model)
    RemoveUnusedNodesPass()(model)  # what stays of a constant that was folded in a loop
    ClearMetadataAndDocStringPass()(model)
    for value in held:
        value.const_value = ir.ExternalTensor(
            WEIGHTS, *places[value.name], value.dtype, shape=value.shape, name=value.name, base_dir=weights.parent
        )


@contextlib.contextmanager
def _quiet():
    """Silences the exporter's warnings: of packages that are not needed, and of weights without values."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


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
