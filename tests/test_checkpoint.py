import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import toy
from safetensors.numpy import save_file

from world_model import checkpoint
from world_model.checkpoint import WEIGHTS, CheckpointError
from world_model.model.transformer import Transformer
from world_model.training import TrainingError
from world_model.training.clips import load_transformer


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "student.a": rng.standard_normal((3, 4), dtype=np.float32),
        "student.b.c": rng.standard_normal(5).astype(np.float16),
        "students.d": np.zeros(2, np.float32),
        "autoencoder.e": np.arange(6).reshape(2, 3).T,
    }


@pytest.fixture
def path(tmp_path, arrays):
    path = tmp_path / "new" / WEIGHTS
    checkpoint.save(path, arrays, toy.load("tiny"), {"stage": "teacher", "step": "10"})
    return path


def test_what_is_saved_comes_back(path, arrays):
    config, about = checkpoint.describe(path)
    assert config == toy.load("tiny")
    assert about == {"stage": "teacher", "step": "10"}
    student = checkpoint.tensors(path, "student")
    assert set(student) == {"a", "b.c"}  # not students.d
    np.testing.assert_array_equal(student["a"], arrays["student.a"])
    np.testing.assert_array_equal(checkpoint.tensors(path, "autoencoder")["e"], arrays["autoencoder.e"])
    assert [other.name for other in path.parent.iterdir()] == [WEIGHTS]


def test_places_are_where_the_bytes_are(path, arrays):
    content = path.read_bytes()
    places = checkpoint.places(path)
    assert set(places) == set(arrays)
    for name, (offset, length) in places.items():
        assert content[offset : offset + length] == np.ascontiguousarray(arrays[name]).tobytes()


def test_digests(path, arrays):
    shape, about = toy.load("tiny"), {"stage": "teacher", "step": "10"}
    whole, layout = checkpoint.digest(path), checkpoint.layout_digest(path)
    assert checkpoint.digest(path) == whole
    checkpoint.save(path, {name: array + 1 for name, array in arrays.items()}, shape, about)
    assert checkpoint.digest(path) != whole and checkpoint.layout_digest(path) == layout
    checkpoint.save(path, arrays | {"student.a": np.zeros(3, np.float32)}, shape, about)
    assert checkpoint.layout_digest(path) != layout
    other = shape.model_copy(update={"rolling": shape.rolling.model_copy(update={"shift": 4.0})})  # same length
    checkpoint.save(path, arrays, other, about)
    assert checkpoint.layout_digest(path) != layout


def test_neither_more_words_nor_other_training_moves_a_tensor(path, arrays):
    """Graphs point at the places of tensors: those of before serve retrained weights."""
    shape, layout = toy.load("tiny"), checkpoint.layout_digest(path)
    other = shape.training.model_copy(update={"teacher": shape.training.teacher.model_copy(update={"steps": 99999})})
    rooms = " ".join(map(str, range(3000)))
    checkpoint.save(path, arrays, shape.model_copy(update={"training": other}), {"rooms": rooms, "step": "1"})
    assert checkpoint.layout_digest(path) == layout


def test_a_saving_that_fails_leaves_the_old_file(path, arrays):
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpoint.save(path, arrays | {"student.bad": np.array([None])}, toy.load("tiny"), {})
    assert path.read_bytes() == before
    assert not path.with_suffix(".partial").exists()


@pytest.mark.parametrize("keep", [0, 5, 100, -1, None])
def test_a_file_that_is_cut_off_or_something_else_is_called_damaged(path, keep):
    text = b"not weights at all, but long enough to have a length in its first eight bytes"
    path.write_bytes(text if keep is None else path.read_bytes()[:keep])
    for read in (checkpoint.describe, checkpoint.places, lambda path: checkpoint.tensors(path, "student")):
        with pytest.raises(CheckpointError, match=f"{WEIGHTS}.*damaged"):
            read(path)


def test_weights_of_another_program_and_none(tmp_path):
    with pytest.raises(CheckpointError, match="no such weights"):
        checkpoint.describe(tmp_path / WEIGHTS)
    save_file({"student.a": np.zeros(2, np.float32)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="no configuration inside"):
        checkpoint.describe(tmp_path / WEIGHTS)


def test_a_configuration_of_another_version(tmp_path):
    old = json.loads(toy.load("tiny").to_json())
    old["rolling"]["forgotten"] = 1
    save_file(
        {"student.a": np.zeros(2, np.float32)},
        tmp_path / WEIGHTS,
        metadata={checkpoint.HEADER: json.dumps({"config": json.dumps(old), "about": {}})},
    )
    with pytest.raises(CheckpointError, match="rolling.forgotten.*another version"):
        checkpoint.describe(tmp_path / WEIGHTS)


def test_a_stage_that_was_not_trained(path):
    with pytest.raises(CheckpointError, match="no 'critic' weights"):
        checkpoint.tensors(path, "critic")


@pytest.mark.parametrize(
    "junk", ["", "{", "[]", "7", "{}", '{"config": 5, "about": {}}', '{"config": "{}", "about": 3}', "[" * 99999]
)
def test_junk_in_the_header_is_said_in_a_line(tmp_path, junk):
    save_file({"student.a": np.zeros(2, np.float32)}, tmp_path / WEIGHTS, metadata={checkpoint.HEADER: junk})
    with pytest.raises(CheckpointError) as refused:
        checkpoint.describe(tmp_path / WEIGHTS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(path, arrays, bad):
    arrays["student.b.c"][3] = bad
    checkpoint.save(path, arrays, toy.load("tiny"), {})
    for read in (checkpoint.check, lambda path: checkpoint.tensors(path, "student")):
        with pytest.raises(CheckpointError, match=r"student\.b\.c holds NaN .* or the file is damaged"):
            read(path)
    checkpoint.tensors(path, "autoencoder")


@pytest.mark.parametrize(
    ("module", "named"), [(torch.nn.Linear(2, 4), "weight"), (torch.nn.Linear(3, 4, bias=False), "bias")]
)
def test_weights_that_do_not_fit_their_network_are_named(tmp_path, module, named):
    path, shape = tmp_path / WEIGHTS, toy.load("tiny")
    saved = torch.nn.Linear(3, 4)
    arrays = {f"student.{name}": value.numpy() for name, value in saved.state_dict().items()}
    checkpoint.save(path, arrays, shape, {})
    with pytest.raises(CheckpointError, match=f"do not fit .* 1 arrays differ, such as {named}"):
        checkpoint.load(module, path, "student")
    fitting = torch.nn.Linear(3, 4)
    checkpoint.load(fitting, path, "student")
    assert torch.equal(fitting.weight, saved.weight)


def test_weights_whose_classes_were_told_otherwise_play_and_are_not_trained_on(tmp_path):
    """Trained on, dodge's were lost within two minutes."""
    path, shape = tmp_path / WEIGHTS, toy.load("tiny_mixture")
    saved = Transformer(shape)
    arrays = {f"student.{name}": value.numpy() for name, value in saved.state_dict().items()}
    for former in (False, True):
        checkpoint.save(path, arrays | ({"student.local.logit_mean": np.zeros(3)} if former else {}), shape, {})
        loaded = Transformer(shape)
        checkpoint.load(loaded, path, "student")
        assert all(torch.equal(value, saved.state_dict()[name]) for name, value in loaded.state_dict().items())
        with pytest.raises(TrainingError, match="train it anew") if former else nullcontext():
            load_transformer(shape, toy.CPU, path, "student")
