"""Two backends, one game: ONNX Runtime against PyTorch, and each against itself."""

import shutil

import numpy as np
import onnx
import pytest
import toy

from world_model import checkpoint
from world_model.checkpoint import WEIGHTS, CheckpointError
from world_model.model.noise import seeded
from world_model.play.export import reuse
from world_model.play.runtime import GRAPHS, THREADS, TorchRuntime, WorldError, load_runtime

SHAPE = toy.load("tiny")


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.fixture(scope="module")
def onnx_runtime(exported):
    return load_runtime(exported, "onnx", "cpu")


@pytest.fixture(scope="module")
def torch_runtime(exported):
    return load_runtime(exported, "torch", "cpu")


def noise(counter: int, *more: int) -> np.ndarray:
    roll = SHAPE.rolling
    return seeded(5, counter, (1, *more, roll.window_blocks, roll.frames_per_block, *SHAPE.latent_shape))


def keys(tick: int) -> np.ndarray:
    return np.random.default_rng(tick // 3).integers(0, 2, (1, 8)).astype(np.int8)


def primed(runtime):
    roll, rng = SHAPE.rolling, np.random.default_rng(1)
    sinks = runtime.encode(toy.pictures(rng, roll.sink_frames, SHAPE))
    frames = runtime.encode(toy.pictures(rng, roll.recent_blocks + 1, SHAPE))
    actions = rng.integers(0, 2, (1, roll.recent_blocks + 1, 8))
    return runtime.prime(sinks[None], frames[None, :, None], actions, noise(2**62))


def played(runtime, ticks: int, state=None, first: int = 0):
    """Latents and pictures of ``ticks`` ticks, one of them after refilling the window, and the last state."""
    state = primed(runtime) if state is None else state
    latents, pictures = [], []
    for tick in range(first, first + ticks):
        if tick == 20:
            state = runtime.refill_window(state, keys(tick), noise(2**63, SHAPE.rolling.window_blocks))
        state, latent = runtime.step(state, keys(tick), noise(tick))
        latents.append(latent)
        pictures.append(runtime.decode(latent))
    return np.stack(latents), np.stack(pictures), state


def test_onnx_equals_torch_over_64_rolled_steps(onnx_runtime, torch_runtime):
    """float32 on both sides: latents of size 1 within 1e-4, pixels within one level, with errors fed back 64 times."""
    latents, pictures, state = played(onnx_runtime, 64)
    expected, expected_pictures, expected_state = played(torch_runtime, 64)
    assert np.std(expected[40:] - expected[39:-1]) > 0.01  # it moves: equal stills would prove little
    np.testing.assert_allclose(latents, expected, atol=1e-4, rtol=0)
    assert np.abs(pictures.astype(int) - expected_pictures).max() <= 1
    arrays, expected_arrays = onnx_runtime.to_numpy(state), torch_runtime.to_numpy(expected_state)
    assert set(arrays) == set(expected_arrays) == {"keys", "values", "window", "clean", "clean_action", "sinks", "tick"}
    for name, array in arrays.items():
        assert array.shape == expected_arrays[name].shape and array.dtype == expected_arrays[name].dtype
        np.testing.assert_allclose(array, expected_arrays[name], atol=1e-4, rtol=0)
    assert arrays["tick"] == 64


def test_encoders_agree(onnx_runtime, torch_runtime):
    for count in (1, 5):
        frames = toy.pictures(np.random.default_rng(count), count, SHAPE)
        latents = onnx_runtime.encode(frames)
        assert latents.shape == (count, *SHAPE.latent_shape)
        np.testing.assert_allclose(latents, torch_runtime.encode(frames), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_replays_are_bit_exact(exported, name):
    """In another session object too; and from a snapshot in plain arrays."""
    first, second = load_runtime(exported, name, "cpu"), load_runtime(exported, name, "cpu")
    latents, pictures, state = played(first, 60)
    again, pictures_again, state_again = played(second, 60)
    assert np.array_equal(latents, again) and np.array_equal(pictures, pictures_again)
    saved, same = first.to_numpy(state), second.to_numpy(state_again)
    assert all(np.array_equal(saved[key], same[key]) for key in saved)
    on, _, _ = played(first, 5, state, first=60)
    from_saved, _, _ = played(second, 5, second.from_numpy(saved), first=60)
    assert np.array_equal(on, from_saved)


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_a_state_survives_what_is_done_with_it(exported, name):
    """Branches leave the trunk alone, and a snapshot shares no memory with the game."""
    runtime = load_runtime(exported, name, "cpu")
    _, _, state = played(runtime, 3)
    saved = runtime.to_numpy(state)
    snapshot = {key: value.copy() for key, value in saved.items()}
    restored = runtime.from_numpy(saved)
    for value in saved.values():
        value[...] = 0
    played(runtime, 3, state)
    for branch in (state, restored):
        now = runtime.to_numpy(branch)
        assert all(np.array_equal(now[key], snapshot[key]) for key in snapshot)


def test_graphs_hold_no_weights(exported, copy):
    """Their tensors are places in the weights file: other weights in those places need no new graphs."""
    held = set(checkpoint.places(exported / WEIGHTS))
    pointed = set()
    for graph in GRAPHS:
        model = onnx.load(exported / f"{graph}.onnx", load_external_data=False)
        pointed |= {tensor.name for tensor in model.graph.initializer if tensor.external_data}
        inside = sum(len(tensor.raw_data) for tensor in model.graph.initializer if not tensor.external_data)
        assert inside < 2**16, f"{graph} carries {inside} bytes of its own"
        assert b"/" + __file__.encode().split(b"/")[1] not in model.SerializeToString()  # nor paths of its maker
    assert pointed == held
    before, _, _ = played(load_runtime(copy, "onnx", "cpu"), 2)
    toy.save(copy, SHAPE, seed=9)
    after, _, _ = played(load_runtime(copy, "onnx", "cpu"), 2)
    expected, _, _ = played(load_runtime(copy, "torch", "cpu"), 2)
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(after, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", [{"sink_blocks": 3}, {"shift": 4.0}])
def test_weights_of_another_shape_ask_for_new_graphs(copy, change):
    """Another shift leaves every tensor's shape and place; only the levels differ, constants of the graphs."""
    toy.save(copy, SHAPE.model_copy(update={"rolling": SHAPE.rolling.model_copy(update=change)}))
    with pytest.raises(WorldError, match="made for other weights; .*python -m world_model.play.export"):
        played(load_runtime(copy, "onnx", "cpu"), 1)


@pytest.mark.parametrize(("graph", "other"), [("prime", "step"), ("step", "refill_window"), ("step", "replace_sinks")])
def test_a_graph_in_the_place_of_another_is_named(copy, graph, other):
    """The last two take what the step takes; fuzzing put them in its place."""
    shutil.copy(copy / f"{other}.onnx", copy / f"{graph}.onnx")
    with pytest.raises(WorldError, match=rf"{graph}\.onnx: is another graph, {other}"):
        played(load_runtime(copy, "onnx", "cpu"), 1)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_missing_graph_is_named(copy, graph):
    (copy / f"{graph}.onnx").unlink()
    with pytest.raises(WorldError, match=rf"no {graph}.onnx.*python -m world_model.play.export"):
        load_runtime(copy, "onnx", "cpu")


def test_auto_is_onnx_with_graphs_and_torch_without(copy):
    assert load_runtime(copy, "auto", "cpu").name == "onnx"
    (copy / "step.onnx").unlink()
    runtime = load_runtime(copy, "auto", "cpu")
    assert runtime.name == "torch" and runtime.description.endswith("CPU threads: no step.onnx")


def test_a_graph_that_loads_and_cannot_be_run(copy):
    """A flipped bit in a shape does that; here a state of another shape."""
    runtime = load_runtime(copy, "onnx", "cpu")
    state = primed(runtime)
    state["clean"] = runtime.from_numpy({"clean": runtime.to_numpy(state)["clean"][..., :-1]})["clean"]
    with pytest.raises(WorldError, match=r"step\.onnx: cannot be run \(.*\); write the graphs") as raised:
        runtime.step(state, keys(0), noise(0))
    assert "\n" not in str(raised.value)


def test_a_damaged_graph(copy):
    path = copy / "prime.onnx"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WorldError, match="prime.onnx: cannot be loaded"):
        primed(load_runtime(copy, "onnx", "cpu"))


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_damaged_weights(copy, runtime):
    path = copy / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_runtime(copy, runtime, "cpu")


@pytest.mark.parametrize("runtime", ["auto", "onnx", "torch"])
def test_a_gpu_that_is_not_there(exported, runtime, monkeypatch):
    """The game plays on the CPU and says why; ``cuda`` is refused."""
    monkeypatch.setattr("world_model.hardware.missing_driver", lambda: "libcuda.so.1 not found")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("torch.version.cuda", "12.8")
    made = load_runtime(exported, runtime)
    name = "PyTorch" if runtime == "torch" else "ONNX Runtime"
    assert made.description.startswith(f"{name} on ")
    assert made.description.endswith("CPU threads: no CUDA GPU that it can use (libcuda.so.1 not found)")
    with pytest.raises(WorldError, match=f"{name} .*no CUDA GPU.*--device cpu"):
        load_runtime(exported, runtime, "cuda")
    assert load_runtime(exported, runtime, "cpu").description.endswith("CPU threads")


def test_a_driver_without_the_libraries(exported, monkeypatch, capfd):
    """A machine that looks as if CUDA worked until ONNX Runtime tries; where PyTorch sees the GPU, it plays there."""
    if load_runtime(exported, "onnx").device == "cuda":
        pytest.skip("CUDA works here")
    monkeypatch.setattr("world_model.hardware.missing_driver", lambda: "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert load_runtime(exported, "auto").name == "onnx"
    assert "no CUDA GPU that it can use (" in load_runtime(exported, "onnx").description
    with pytest.raises(WorldError, match="no CUDA GPU"):
        load_runtime(exported, "onnx", "cuda")
    assert capfd.readouterr() == ("", "")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a large GPU")
    monkeypatch.setattr(TorchRuntime, "_loaded", lambda self, model, weights, prefix: model)
    for device in ("auto", "cuda"):
        made = load_runtime(exported, "auto", device)
        assert (made.name, made.device) == ("torch", "cuda")
        assert made.description.startswith("PyTorch on a large GPU: ONNX Runtime finds no CUDA GPU that it can use (")
    assert load_runtime(exported, "auto", "cpu").name == "onnx"


@pytest.mark.parametrize("wrong", [{"runtime": "tensorflow"}, {"device": "tpu"}])
def test_unknown_names(exported, wrong):
    with pytest.raises(WorldError, match="there are auto"):
        load_runtime(exported, **wrong)


def test_threads_are_capped(onnx_runtime):
    assert 1 <= onnx_runtime._options().intra_op_num_threads <= THREADS


def test_graphs_serve_other_weights_of_the_same_shapes_and_no_others(exported, tmp_path):
    """Copied, they play the new weights as PyTorch does."""
    for name, shape in (("same", SHAPE), ("other", toy.load("tiny_keep"))):
        toy.save(tmp_path / name, shape, seed=3)
    assert not reuse(tmp_path / "other", exported) and not reuse(tmp_path / "same", tmp_path / "other")
    assert reuse(tmp_path / "same", exported) and reuse(tmp_path / "same", tmp_path / "same")
    onnx_played, torch_played = (played(load_runtime(tmp_path / "same", name), 2)[1] for name in ("onnx", "torch"))
    assert np.abs(np.stack(onnx_played).astype(int) - np.stack(torch_played)).max() <= 1
    assert not np.array_equal(onnx_played, played(load_runtime(exported, "onnx"), 2)[1])
    (tmp_path / "same" / "step.onnx").write_bytes(b"no graph")
    assert not reuse(tmp_path / "other", tmp_path / "same")
