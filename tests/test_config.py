import pytest
import yaml

from world_model import config
from world_model.config import CONFIGS, Config, ConfigError, PickSize


@pytest.fixture
def data() -> dict:
    return yaml.safe_load((CONFIGS / "tiny.yaml").read_text())


def refusal(tmp_path, data: dict) -> str:
    path = tmp_path / "world.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError) as error:
        config.load(path)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_world_loads_and_travels_as_json(path):
    loaded = config.load(path)
    assert Config.from_json(loaded.to_json()) == loaded
    assert loaded.action_size == len(loaded.world.keys)
    assert loaded.latent_shape[1] * loaded.codec.stride == loaded.world.height


def test_an_unknown_key_is_named(tmp_path, data):
    data["rolling"]["window_block"] = 4
    assert "rolling.window_block" in refusal(tmp_path, data)


def test_a_missing_key_is_named(tmp_path, data):
    del data["world"]["fps"]
    assert "world.fps" in refusal(tmp_path, data)


def test_a_value_out_of_range_is_named(tmp_path, data):
    data["training"]["student_dmd"]["critic_steps"] = 0
    assert "training.student_dmd.critic_steps" in refusal(tmp_path, data)


def test_a_name_that_leads_elsewhere(tmp_path, data):
    data["name"] = "../.."
    assert "name" in refusal(tmp_path, data)


def test_a_picture_that_no_memory_holds(tmp_path, data):
    data["world"]["height"] = 2**31
    assert "world.height" in refusal(tmp_path, data)


def test_all_faults_are_named_at_once(tmp_path, data):
    data["world"]["height"] = "tall"
    data["transformer"]["layers"] = -1
    message = refusal(tmp_path, data)
    assert "world.height" in message and "transformer.layers" in message


def test_a_key_twice(tmp_path, data):
    data["world"]["keys"] = ["w", "a", "w"]
    assert "twice" in refusal(tmp_path, data)


def test_a_key_that_stands_for_none(tmp_path, data):
    data["world"]["stands_for"] = {"z": "nothing"}
    assert "nothing is none of the world's keys" in refusal(tmp_path, data)


def test_a_size_that_does_not_fit_the_patches(tmp_path, data):
    data["world"]["height"] = 40
    assert "multiple of" in refusal(tmp_path, data)


def test_heads_that_do_not_divide_the_width(tmp_path, data):
    data["transformer"]["heads"] = 3
    assert "heads" in refusal(tmp_path, data)


def test_no_such_file_names_those_that_are_there(tmp_path):
    with pytest.raises(ConfigError, match="tiny.yaml"):
        config.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", ""])
def test_not_a_mapping(tmp_path, text):
    path = tmp_path / "world.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="world.yaml"):
        config.load(path)


def test_a_configuration_is_frozen():
    loaded = config.load(CONFIGS / "tiny.yaml")
    with pytest.raises(ValueError, match="frozen"):
        loaded.name = "other"


@pytest.fixture
def keep() -> dict:
    return yaml.safe_load((CONFIGS / "tiny_keep.yaml").read_text())


def test_a_head_is_of_the_kind_it_says(tmp_path, keep):
    """... and of the first kind there was where it does not say: weights that are older say nothing."""
    assert isinstance(Config.model_validate(keep).head, PickSize)
    del keep["head"]["kind"]
    assert isinstance(Config.model_validate(keep).head, PickSize)
    keep["head"]["kind"] = "pikc"
    assert "'pikc'" in refusal(tmp_path, keep) and "'pick'" in refusal(tmp_path, keep)
    keep["head"]["kind"] = ["view"]
    assert "head" in refusal(tmp_path, keep)


def test_a_pool_of_fewer_games_than_a_batch(tmp_path, keep):
    keep["training"]["student_rollout"]["pool"] = 5
    assert "pool 5 must be at least batch 6" in refusal(tmp_path, keep)


def test_a_leap_of_less_than_a_cell(tmp_path, keep):
    keep["head"]["leap"] = 3
    assert "head.leap 3 must be at least 4" in refusal(tmp_path, keep)


def test_rollouts_of_a_world_without_a_head(tmp_path, keep):
    del keep["head"]
    assert "training.student_rollout: trains a head, and this world has none" in refusal(tmp_path, keep)


def test_student_clips_too_short_for_a_full_context(tmp_path, data):
    data["training"]["student_init"]["clip_blocks"] = 9  # 6 recents, the block shown last, 3 in the window
    assert "clip_blocks 9 must be at least 10" in refusal(tmp_path, data)


def test_a_number_that_is_none(tmp_path, data):
    data["training"]["teacher"]["learning_rate"] = float("inf")
    assert "training.teacher.learning_rate" in refusal(tmp_path, data)


def test_a_key_of_the_file_twice(tmp_path):
    path = tmp_path / "world.yaml"
    path.write_text((CONFIGS / "tiny.yaml").read_text() + "name: other\n")
    with pytest.raises(ConfigError, match=r"world\.yaml.*'name' stands twice.*line") as error:
        config.load(path)
    assert "\n" not in str(error.value)
