"""A student ready to play: ONNX Runtime or PyTorch behind one interface, numpy in and out.

    runtime = load_runtime("assets/worlds/arena")
    state = runtime.prime(sinks, frames, actions, noise)
    state, latent = runtime.step(state, action, noise)
    picture = runtime.decode(latent)

A state is a dictionary of the arrays of ``rolling.py``, on the device of the network; ``to_numpy`` and ``from_numpy``
convert it to plain arrays and back, exactly. States are never changed in place. The batch size is 1.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from world_model import checkpoint, hardware
from world_model.checkpoint import WEIGHTS
from world_model.config import Rolling

THREADS = 2
GRAPHS = ("encoder", "prime", "step", "refill_window", "replace_sinks", "decoder")
NO_GPU = "no CUDA GPU that it can use ({})"
WORDS = 200
"""Characters of ONNX Runtime's error message that are shown."""

State = dict[str, Any]
"""The arrays of ``rolling.py`` by name, in the backend's own type."""


class WorldError(ValueError):
    """A world that cannot be played; the message is for the person who wants to play it."""


class Runtime(Protocol):
    """What both backends do. Shapes are rolling.py's with N = 1; floats are float32."""

    name: str
    device: str
    description: str  # backend, device and why these, in one line

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [n, H, W, 3] -> latents [n, C, h, w]."""

    def prime(self, sinks: np.ndarray, frames: np.ndarray, actions: np.ndarray, noise: np.ndarray) -> State:
        """sinks [1, S*B, C, h, w], frames [1, R+1, B, C, h, w], actions [1, R+1, keys], noise [1, K, B, C, h, w]."""

    def step(self, state: State, action: np.ndarray, noise: np.ndarray) -> tuple[State, np.ndarray]:
        """action [1, keys], noise [1, K, B, C, h, w] -> the next state and the block to show [1, B, C, h, w]."""

    def refill_window(self, state: State, action: np.ndarray, noise: np.ndarray) -> State:
        """The state with its window denoised again from pure noise under ``action``; noise [1, K, K, B, C, h, w]."""

    def replace_sinks(self, state: State, sinks: np.ndarray) -> State:
        """The state with sinks [1, S*B, C, h, w] instead of its own, nothing else changed."""

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents [..., C, h, w] -> uint8 [n, H, W, 3], all leading dimensions in one."""

    def to_numpy(self, state: State) -> dict[str, np.ndarray]:
        """A copy of the state in plain arrays."""

    def from_numpy(self, arrays: Mapping[str, np.ndarray]) -> State:
        """Inverse of ``to_numpy``; the arrays are copied."""


def load_runtime(
    folder: str | Path,
    runtime: Literal["auto", "onnx", "torch"] = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Runtime:
    """The student of a checkpoint folder. ``auto``: ONNX Runtime where the graphs are, unless PyTorch alone sees a GPU.

    Raises WorldError (no graphs, no such backend, no GPU) and checkpoint.CheckpointError (no or damaged weights).
    """
    folder = Path(folder)
    checkpoint.describe(folder / WEIGHTS)
    checkpoint.check(folder / WEIGHTS)
    if runtime not in ("auto", *BACKENDS):
        raise WorldError(f"no runtime {runtime!r}; there are auto, {', '.join(BACKENDS)}")
    if device not in ("auto", "cpu", "cuda"):
        raise WorldError(f"no device {device!r}; there are auto, cpu, cuda")
    made = _automatic(folder, device) if runtime == "auto" else BACKENDS[runtime](folder, device)
    if device == "cuda" != made.device:
        raise WorldError(f"--device cuda: {made.description}; --device cpu plays without one")
    return made


def _automatic(folder: Path, device: str) -> Runtime:
    has_torch = importlib.util.find_spec("torch") is not None
    if has_torch and not importlib.util.find_spec("onnxruntime"):
        return TorchRuntime(folder, device, "onnxruntime is not installed")
    if has_torch and (missing := _missing(folder)):
        return TorchRuntime(folder, device, f"no {missing[0]}")
    onnx = OnnxRuntime(folder, device)  # raises where graphs are missing
    # PyTorch takes seconds to import: only where there is a driver.
    if device == "cpu" or onnx.device == "cuda" or not has_torch or hardware.missing_driver():
        return onnx
    torch = TorchRuntime(folder, device, f"ONNX Runtime finds {onnx.why}")
    return torch if torch.device == "cuda" else onnx


class OnnxRuntime:
    """The exported graphs."""

    name = "onnx"

    def __init__(self, folder: str | Path, device: str = "auto"):
        self._folder = Path(folder)
        self._ort = _imported("onnxruntime", "pip install onnxruntime-gpu (or onnxruntime)")
        if missing := _missing(self._folder):
            raise WorldError(f"{self._folder}: no {', '.join(missing)}; {_export_again(self._folder)}")
        self._layout = checkpoint.layout_digest(self._folder / WEIGHTS)
        self._sessions: dict[str, Any] = {}
        self.why = "" if device == "cpu" else self._without_cuda()
        self.device = "cpu" if device == "cpu" or self.why else "cuda"
        where = "a CUDA GPU" if self.device == "cuda" else f"{self._options().intra_op_num_threads} CPU threads"
        self.description = _described("ONNX Runtime", where, self.why)

    def encode(self, frames: np.ndarray) -> np.ndarray:
        return self._run("encoder", {"frames": self._on_device(frames)})["latents"].numpy()

    def prime(self, sinks: np.ndarray, frames: np.ndarray, actions: np.ndarray, noise: np.ndarray) -> State:
        inputs = self._floats(sinks=sinks, frames=frames, actions=actions, noise=noise)
        return _changed({}, self._run("prime", inputs))

    def step(self, state: State, action: np.ndarray, noise: np.ndarray) -> tuple[State, np.ndarray]:
        outputs = self._run("step", state | self._floats(action=action, noise=noise))
        return _changed(state, outputs), outputs["latent"].numpy()

    def refill_window(self, state: State, action: np.ndarray, noise: np.ndarray) -> State:
        return _changed(state, self._run("refill_window", state | self._floats(action=action, noise=noise)))

    def replace_sinks(self, state: State, sinks: np.ndarray) -> State:
        state = state | self._floats(sinks=sinks)
        return _changed(state, self._run("replace_sinks", state))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        flat = latents.reshape(-1, *latents.shape[-3:])
        return self._run("decoder", self._floats(latents=flat))["frames"].numpy()

    def to_numpy(self, state: State) -> dict[str, np.ndarray]:
        return {name: value.numpy().copy() for name, value in state.items()}

    def from_numpy(self, arrays: Mapping[str, np.ndarray]) -> State:
        return {name: self._on_device(array.copy()) for name, array in arrays.items()}

    def _floats(self, **arrays: np.ndarray) -> State:
        return {name: self._on_device(array.astype(np.float32, copy=False)) for name, array in arrays.items()}

    def _on_device(self, array: np.ndarray) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device, 0)

    def _run(self, graph: str, values: State) -> State:
        """Outputs by name, left on the device. ``values`` may hold more than the graph's inputs."""
        session = self._session(graph)
        binding = session.io_binding()
        for graph_input in session.get_inputs():
            binding.bind_ortvalue_input(graph_input.name, values[graph_input.name])
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, self.device, 0)
        try:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:  # ONNX Runtime's own exception classes are not public
            path, words = self._folder / f"{graph}.onnx", " ".join(str(error).split())[:WORDS]
            raise WorldError(f"{path}: cannot be run ({words}); {_export_again(self._folder)}") from error
        return dict(zip(names, binding.get_outputs(), strict=True))

    def _without_cuda(self) -> str:
        """Why no GPU is used; "" where one is."""
        reason = hardware.missing_driver()
        if "CUDAExecutionProvider" not in self._ort.get_available_providers():
            reason = "this onnxruntime is built without CUDA"
        if not reason and not self._cuda_works():
            reason = 'its CUDA libraries do not load: pip install -e ".[gpu]"'
            self._sessions.clear()
        return reason and NO_GPU.format(reason)

    def _cuda_works(self) -> bool:
        """Whether a session gets CUDA. Where it does not, ONNX Runtime falls back to the CPU and prints much."""
        self.device = "cuda"
        self._ort.set_default_logger_severity(4)
        with contextlib.redirect_stdout(io.StringIO()):
            if hasattr(self._ort, "preload_dlls"):
                self._ort.preload_dlls()  # CUDA and cuDNN from their Python packages
            works = "CUDAExecutionProvider" in self._session("step").get_providers()
        self._ort.set_default_logger_severity(2)
        return works

    def _session(self, graph: str) -> Any:
        """The session of a graph, opened when it is first needed. Raises WorldError."""
        if graph in self._sessions:
            return self._sessions[graph]
        path = self._folder / f"{graph}.onnx"
        try:
            session = self._ort.InferenceSession(path, self._options(), providers=self._providers())
        except Exception as error:  # ONNX Runtime's own exception classes are not public
            raise WorldError(f"{path}: cannot be loaded ({error}); {_export_again(self._folder)}") from error
        metadata = session.get_modelmeta().custom_metadata_map
        if metadata.get("graph") != graph:
            raise WorldError(f"{path}: is another graph, {metadata.get('graph')}; {_export_again(self._folder)}")
        if metadata.get("weights_layout") != self._layout:
            raise WorldError(f"{path}: was made for other weights; {_export_again(self._folder)}")
        self._sessions[graph] = session
        return session

    def _options(self) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = min(THREADS, hardware.cores())
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        # Waiting threads that spin take the cores from the game loop and from each other: on two busy cores the median
        # step took 24 ms with spinning and 7 ms without.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        return options

    def _providers(self) -> list:
        if self.device == "cpu":
            return ["CPUExecutionProvider"]
        # An algorithm chosen by timing, and TF32, would not give the same frames again.
        options = {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}
        return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


class TorchRuntime:
    """The functions of ``rolling.py``, as training runs them. Imports PyTorch when it is made."""

    name = "torch"

    def __init__(self, folder: str | Path, device: str = "auto", because: str = ""):
        """``because``: why not ONNX Runtime."""
        self._torch = torch = _imported("torch", 'pip install -e ".[train]"')
        from world_model.model.codec import make_codec
        from world_model.model.transformer import Transformer

        self.device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        where, why = f"{torch.get_num_threads()} CPU threads", ""
        if self.device == "cuda":
            where = torch.cuda.get_device_name()
        elif device != "cpu":
            built = "" if torch.version.cuda else "this PyTorch is built without CUDA: see pytorch.org"
            why = NO_GPU.format(built or hardware.missing_driver() or "CUDA does not start")
        self.description = _described("PyTorch", where, because, why)
        weights = Path(folder) / WEIGHTS
        self.config, _ = checkpoint.describe(weights)
        self._codec = self._loaded(make_codec(self.config), weights, "autoencoder")
        self._student = self._loaded(Transformer(self.config), weights, "student")

    def encode(self, frames: np.ndarray) -> np.ndarray:
        from world_model.model.autoencoder import to_network

        with self._torch.inference_mode():
            return self._codec.encode(to_network(self._on_device(frames))).cpu().numpy()

    def prime(self, sinks: np.ndarray, frames: np.ndarray, actions: np.ndarray, noise: np.ndarray) -> State:
        return self._rolled("prime", *self._floats(sinks, frames, actions, noise))

    def step(self, state: State, action: np.ndarray, noise: np.ndarray) -> tuple[State, np.ndarray]:
        state, latent = self._rolled("step", state, *self._floats(action, noise))
        return state, latent.cpu().numpy()

    def step_many(
        self, states: Sequence[State], actions: np.ndarray, noise: np.ndarray
    ) -> tuple[list[State], np.ndarray]:
        """``step`` of N games at once: actions [N, keys], noise [N, K, B, C, h, w] -> N states, blocks [N, B, C, h, w].
        The graphs of ``OnnxRuntime`` are for one game."""
        from world_model.model import rolling

        with self._torch.inference_mode():
            state, latents = self.step(rolling.stack(states), actions, noise)
            return rolling.unstack(state), latents

    def refill_window(self, state: State, action: np.ndarray, noise: np.ndarray) -> State:
        return self._rolled("refill_window", state, *self._floats(action, noise))

    def replace_sinks(self, state: State, sinks: np.ndarray) -> State:
        return self._rolled("replace_sinks", state, *self._floats(sinks))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        from world_model.model.autoencoder import to_frames

        flat = latents.reshape(-1, *latents.shape[-3:])
        with self._torch.inference_mode():
            return to_frames(self._codec.decode(*self._floats(flat))).cpu().numpy()

    def to_numpy(self, state: State) -> dict[str, np.ndarray]:
        return {name: value.cpu().numpy().copy() for name, value in state.items()}

    def from_numpy(self, arrays: Mapping[str, np.ndarray]) -> State:
        return {name: self._on_device(array.copy()) for name, array in arrays.items()}

    def _rolled(self, verb: str, *arguments: Any, shape: Rolling | None = None) -> Any:
        from world_model.model import rolling

        with self._torch.inference_mode():
            return getattr(rolling, verb)(self._student, shape or self.config.rolling, *arguments)

    def _floats(self, *arrays: np.ndarray) -> list[Any]:
        return [self._on_device(array.astype(np.float32, copy=False)) for array in arrays]

    def _on_device(self, array: np.ndarray) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _loaded(self, model: Any, weights: Path, prefix: str) -> Any:
        if model.state_dict():
            checkpoint.load(model, weights, prefix)
        return model.to(self.device).eval()


BACKENDS = {"onnx": OnnxRuntime, "torch": TorchRuntime}


def _changed(state: State, outputs: State) -> State:
    """The state with the outputs named ``next_<name>`` in place of its arrays."""
    return state | {name[5:]: value for name, value in outputs.items() if name.startswith("next_")}


def _missing(folder: Path) -> list[str]:
    return [f"{graph}.onnx" for graph in GRAPHS if not (folder / f"{graph}.onnx").is_file()]


def _export_again(folder: Path) -> str:
    return f"write the graphs with: python -m world_model.play.export {folder}"


def _described(what: str, where: str, *reasons: str) -> str:
    return ": ".join(filter(None, (f"{what} on {where}", "; ".join(filter(None, reasons)))))


def _imported(package: str, install: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise WorldError(f"this runtime needs {package}: {install}") from error
