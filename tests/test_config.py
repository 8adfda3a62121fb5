"""Configurations: those that ship load, and a wrong one is refused by file and key."""

import pytest
import yaml

from world_model import config
from world_model.config import CONFIGS, Config, ConfigError, PickSize


def read(name: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def refusal(tmp_path, text: str) -> str:
    path = tmp_path / "world.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        config.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_world_loads_and_travels_as_json(path):
    loaded = config.load(path)
    told = loaded.world.model_copy(update={"stands_for": {}, "meanings": {}, "rest": 0})  # of the person's keyboard
    assert Config.from_json(loaded.to_json()) == loaded.model_copy(update={"world": told})
    assert loaded.action_size == len(loaded.world.keys)
    assert loaded.latent_shape[1] * loaded.codec.stride == loaded.world.height


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("tiny", "rolling.window_block", 4, "rolling.window_block: there is no such key"),
        ("tiny", "world.fps", None, "world.fps"),
        ("tiny", "training.student_dmd.critic_steps", 0, "training.student_dmd.critic_steps"),
        ("tiny", "training.teacher.learning_rate", float("inf"), "training.teacher.learning_rate"),
        ("tiny", "name", "../..", "name"),
        ("tiny", "world.env", "os:system", "world.env: 'os:system' would import what stands before the"),
        ("tiny", "world.height", 2**31, "world.height"),
        ("tiny", "world.keys", ["w", "a", "w"], "twice"),
        ("tiny", "world.stands_for", {"z": "nothing"}, "nothing is none of the world's keys"),
        ("tiny", "world.meanings", {"z": "jump"}, "meanings: z is none of the world's keys"),
        ("tiny", "world.height", 40, "multiple of"),
        ("tiny", "transformer.heads", 3, "heads"),
        ("tiny", "training.student_init.clip_blocks", 9, "clip_blocks 9 must be at least 10"),  # 6 recents, 1 shown, 3
        ("tiny_keep", "training.student_rollout.pool", 5, "pool 5 must be at least batch 6"),
        ("tiny_keep", "head.leap", 3, "head.leap 3 must be at least 4"),
        ("tiny_keep", "training.student_rollout.prior_share", 0.2, "only a head of kind mixture has a prior"),
        ("tiny_keep", "head", None, "training.student_rollout: trains a head, and this world has none"),
        ("tiny_keep", "head.kind", ["view"], "head"),
        ("tiny_mixture", "transformer.patch", 1, "transformer.patch must be even"),
        ("dodge", "training.student_rollout.teacher_forcing", 0.8, "are all of the steps"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, key, value, words):
    """``value`` None: the key is missing."""
    data = read(name)
    *way, last = key.split(".")
    inside = data
    for part in way:
        inside = inside[part]
    inside[last] = value
    if value is None:
        del inside[last]
    assert words in refusal(tmp_path, yaml.safe_dump(data))


def test_all_faults_are_named_at_once(tmp_path):
    data = read("tiny")
    data["world"]["height"], data["transformer"]["layers"] = "tall", -1
    message = refusal(tmp_path, yaml.safe_dump(data))
    assert "world.height" in message and "transformer.layers" in message


def test_no_such_file_names_those_that_are_there(tmp_path):
    with pytest.raises(ConfigError, match="tiny.yaml"):
        config.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", ""])
def test_not_a_mapping(tmp_path, text):
    refusal(tmp_path, text)


def test_a_key_of_the_file_twice(tmp_path):
    message = refusal(tmp_path, (CONFIGS / "tiny.yaml").read_text() + "name: other\n")
    assert "'name' stands twice" in message and "line" in message


def test_a_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        config.load(CONFIGS / "tiny.yaml").name = "other"


def test_a_head_without_a_kind_picks(tmp_path):
    """Weights from before there were other kinds do not name one."""
    keep = read("tiny_keep")
    assert isinstance(Config.model_validate(keep).head, PickSize)
    del keep["head"]["kind"]
    assert isinstance(Config.model_validate(keep).head, PickSize)
    keep["head"]["kind"] = "pikc"
    message = refusal(tmp_path, yaml.safe_dump(keep))
    assert "'pikc'" in message and "'pick'" in message
