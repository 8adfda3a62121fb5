"""One world's configuration: a YAML file read into strict data.

Every size, level and learning rate of a world lives in ``configs/<world>.yaml``; an unknown or
missing key is an error that names the file and the key. The same data travels inside the weights
(see ``checkpoint.py``), so a checkpoint always says which world and which shapes it was made for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    NonNegativeInt,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "configs"
WORLDS = REPOSITORY / "assets" / "worlds"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says where and what to do."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Table = dict[str, int | float | tuple[float, ...]]
"""Held keys, such as "w" or "a+space" ("" for none), and the action, or a number of it, that each combination is."""


class Game(Strict):
    """How somebody else's Gymnasium game becomes a world; ``game/worlds/adapter.py`` alone reads it."""

    module: str | None = Field(
        None, exclude=True, pattern=r"^\w+(\.\w+)*$", description="to import first, where it is what registers the id"
    )
    sinks: tuple[Path, ...] = Field(
        (),
        exclude=True,
        description="pictures of the place beside the YAML, if it has none and its first frame is none",
    )
    kwargs: dict[str, JsonValue] = Field({}, description="what the game is made with")
    picture: str | None = Field(
        None, description="observation, render, or an entry of a Dict; if not said, the first of these that is one"
    )
    crop: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt] = Field(
        (0, 0, 0, 0), description="pixels cut off at the top, bottom, left and right"
    )
    scale: int = Field(1, gt=0, le=64, description="the game's pixels a side of one of the world's")
    filter: Literal["area", "nearest"] = Field("area", description="their mean, or one of them")
    skip: int = Field(1, gt=0, le=1000, description="the game's steps a tick")
    wait: int = Field(0, ge=0, le=1000, description="the game's steps of no key before the first frame of an episode")
    actions: Table | tuple[Table, ...] | None = Field(
        None, description="one table of whole actions, or one for each number of an action; if not said, the game's own"
    )

    @field_validator("module", "sinks")
    @classmethod
    def _only_a_yaml_names_files(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.mode == "json":
            raise ValueError("weights and recordings, which may be a stranger's, import nothing and name no files")
        folder = (info.context or {}).get("folder", Path())
        return tuple(folder / file for file in value) if isinstance(value, tuple) else value

    @property
    def tables(self) -> tuple[Table, ...]:
        return (self.actions,) if isinstance(self.actions, dict) else self.actions or ()


class World(Strict):
    """What the player and the recordings share: the game, its picture and its keys."""

    env: str = Field(description="Gymnasium id of the real game")
    height: int = Field(gt=0, le=4096, description="pixels")
    width: int = Field(gt=0, le=4096, description="pixels")
    fps: int = Field(gt=0, description="ticks per second")
    keys: tuple[str, ...] = Field(min_length=1, description="names of the action bits, in order")
    game: Game | None = Field(
        None, exclude_if=lambda game: game is None, description="where the game is not made to be a world"
    )
    map: tuple[int, int] | None = Field(None, description="rows and columns, where the sinks are a map of the place")
    stands_for: dict[str, str] = Field(  # of the person's keyboard, so no part of the weights
        {}, exclude=True, description="keys of a keyboard -> the world's keys that they act as"
    )
    meanings: dict[str, str] = Field(  # for the person, too
        {}, exclude=True, description="the world's keys -> what they do, in a few words"
    )
    rest: int = Field(0, ge=0, exclude=True, description="ticks for which a held key does nothing after its first")

    @field_validator("env")
    @classmethod
    def _an_id_imports_nothing(cls, env: str) -> str:
        if ":" in env:
            raise ValueError(f"{env!r} would import what stands before the colon; world.game.module may name a module")
        return env

    @model_validator(mode="after")
    def _keys_are_distinct(self):
        if len(set(self.keys)) != len(self.keys):
            raise ValueError(f"keys: {self.keys} names a key twice")
        for part, named in (("stands_for", self.stands_for.values()), ("meanings", self.meanings)):
            if unknown := set(named) - set(self.keys):
                raise ValueError(f"{part}: {', '.join(sorted(unknown))} is none of the world's keys {self.keys}")
        return self

    @model_validator(mode="after")
    def _actions_are_of_the_keys(self):
        for table in self.game.tables if self.game else ():
            held = {key for combination in table for key in combination.split("+") if key}
            if unknown := held - set(self.keys):
                raise ValueError(f"game.actions: {', '.join(sorted(unknown))} is none of the world's keys {self.keys}")
        return self


class PatchesSize(Strict):
    """Frame [3, H, W] <-> latent [3 * cell^2, H / cell, W / cell]: each cell's pixels as they are. Nothing to train."""

    kind: Literal["patches"]
    cell: Literal[2, 4, 8] = Field(description="pixels a cell side")

    @property
    def stride(self) -> int:
        return self.cell

    @property
    def channels(self) -> int:
        return 3 * self.cell**2

    @property
    def unfold(self) -> int:
        """Picture elements a side of a latent cell: its channels are colours of so many by so many pixels."""
        return self.cell


class AutoencoderSize(Strict):
    """Frame [3, H, W] <-> latent [channels, H / stride, W / stride], learned."""

    kind: Literal["autoencoder"]
    channels: int = Field(gt=0)
    width: int = Field(gt=0, description="features at the working resolution, H/4 x W/4")
    stride: Literal[8, 16, 32] = 16
    depth: int = Field(gt=0, description="residual blocks a resolution")

    @property
    def unfold(self) -> int:
        return 1


class Head(Strict):
    """What every head's configuration declares."""

    @property
    def state_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The arrays that the rolling state keeps for the head: shape of one game's by name; None is any size."""
        return {}


class PickSize(Head):
    """x0 is picked, element by element, from sources that are known exactly (``head.py``)."""

    kind: Literal["pick"] = "pick"
    width: int = Field(gt=0, description="features a latent cell")
    blocks: int = Field(ge=2, description="residual blocks of two 3x3 convolutions")
    motion_hypotheses: int = Field(gt=0, description="displacements that a tick may have at once")
    steps: tuple[int, ...] = Field((), description="pixels that something may move in a tick, along one axis")
    diagonals: tuple[int, ...] = Field((), description="... along both axes")
    leap: int = Field(gt=0, description="... from one edge of the screen to the other")
    palette: int = Field(gt=0, description="colours, counted in the recordings")


POSE_NUMBERS = 8
"""Of a pose: right, ahead, up (metres) and heading (radians to the left), relative to the first sink's view, and how
much each has just changed."""


class ViewSize(Head):
    """x0 is what four sinks all around and the last frame show, seen from another pose (``view_head.py``)."""

    kind: Literal["view"]
    width: int = Field(gt=0, description="features a latent cell")
    blocks: int = Field(ge=2, description="residual blocks of two 3x3 convolutions")
    relief: int = Field(gt=0, description="features a latent cell of the network that finds the sinks' depths")
    relief_blocks: int = Field(gt=0, description="its residual blocks of two 3x3 convolutions")

    @property
    def state_shapes(self) -> dict[str, tuple[int | None, ...]]:
        return {"relief": (4, 1, None, None), "pose": (POSE_NUMBERS,)}


class MixtureSize(Head):
    """x0 is picked from sources by what the transformer's tokens decide, in any game (``mixture_head.py``)."""

    kind: Literal["mixture"]
    width: int = Field(gt=0, description="features a latent cell; twice as many at half the resolution")
    blocks: int = Field(gt=0, description="residual blocks of two 3x3 convolutions at each of these resolutions")
    reach: int = Field(ge=0, le=8, description="pixels within which something that moves in a tick is found")
    palette: int = Field(gt=0, le=256, description="colours, counted in the recordings")
    dice: int = Field(gt=1, description="classes of what a token leaves to chance, drawn in every tick")
    rewards: int = Field(0, ge=0, le=64, description="rewards, counted in the recordings; 0: neither rewards nor ends")

    @property
    def state_shapes(self) -> dict[str, tuple[int | None, ...]]:
        outcome = {"outcome": (2,)} if self.rewards else {}
        return {"previous": (None, None, None), "dice": (None, None)} | outcome


def _kind_of_head(data: object) -> str:
    """The head's kind, from a mapping or a model; older weights do not name it."""
    return str(data.get("kind", "pick") if isinstance(data, dict) else getattr(data, "kind", None))


HeadSize = Annotated[
    Annotated[PickSize, Tag("pick")] | Annotated[ViewSize, Tag("view")] | Annotated[MixtureSize, Tag("mixture")],
    Discriminator(_kind_of_head),
]


class TransformerSize(Strict):
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(gt=0, description="latent pixels a token side")

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % (self.heads * 4):
            raise ValueError("width must be a multiple of 4 * heads (rotary positions use quarters)")
        return self


class Rolling(Strict):
    """Shape of the rolling window and of its context, in blocks of ``frames_per_block`` latents."""

    frames_per_block: int = Field(1, gt=0, description="B")
    window_blocks: int = Field(gt=0, description="K: denoising steps a block gets")
    sink_blocks: int = Field(gt=0, description="S: never evicted")
    recent_blocks: int = Field(gt=0, description="R: the ring")
    shift: float = Field(gt=0, description="timestep shift of the levels' sigmas")

    @property
    def sink_frames(self) -> int:
        return self.sink_blocks * self.frames_per_block

    @property
    def context_blocks(self) -> int:
        return self.sink_blocks + self.recent_blocks


class Stage(Strict):
    """What every training stage has; batch is the global batch over all processes."""

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    checkpoint_every: int = Field(500, gt=0)
    sample_every: int = Field(500, gt=0)


class AutoencoderStage(Stage):
    gradient_weight: float = Field(1.0, ge=0, description="share of the image-gradient L1 in the loss")


class TeacherStage(Stage):
    clip_blocks: int = Field(gt=1, description="blocks a clip, after the sinks")
    drop_action: float = Field(0.1, ge=0, le=1, description="share of clips that see the null action")
    staircase_share: float = Field(0.25, ge=0, le=1)
    uniform_share: float = Field(0.25, ge=0, le=1)
    context_noise: float = Field(0.1, ge=0, lt=1, description="largest sigma on blocks that play the past")


class StudentInitStage(Stage):
    clip_blocks: int = Field(gt=1)
    windows: int = Field(gt=0, description="staircase windows trained in each clip")
    drop_action: float = Field(0.1, ge=0, le=1)
    context_noise: float = Field(0.1, ge=0, lt=1, description="largest deviation of noise added to the clean context")
    stale_share: float = Field(0.5, ge=0, le=1, description="share of windows whose contents are out of date")


class StudentDmdStage(Stage):
    critic_learning_rate: float = Field(gt=0)
    critic_steps: int = Field(5, gt=0, description="critic steps for each student step")
    rollout_windows: int = Field(gt=0, description="windows of K blocks a rollout")
    rolling_share: float = Field(0.5, ge=0, le=1, description="the others go block by block")
    guidance: float = Field(1.0, ge=0, description="w in uncond + w (cond - uncond); 1 is none")
    score_low: float = Field(0.02, gt=0, lt=1)
    score_high: float = Field(0.98, gt=0, lt=1)
    regression_weight: float = Field(0.0, ge=0, description="weight of the recorded continuation")


class StudentRolloutStage(Stage):
    """Games played by the student and supervised by their recordings (``student_rollout.py``)."""

    pool: int = Field(gt=0, description="games; ``batch`` of them take a tick a step")
    length: int = Field(gt=0, description="mean ticks of a game from a recording, at the end of training")
    teacher_forcing: float = Field(
        0.0, ge=0, lt=1, description="share of a new world's steps, the first: each frame from recorded ones, no dice"
    )
    grow: float = Field(gt=0, le=1, description="share of the steps, the next: the mean grows from 1 to ``length``")
    stray_cells: int = Field(gt=0, description="a game restarts when more cells than this are wrong")
    first_stray_cells: int | None = Field(None, gt=0, description="the same at the beginning; grows as the length does")
    event_share: float = Field(0.5, ge=0, le=1, description="share that starts around an event: see StartSampler")
    prior_share: float = Field(0.0, ge=0, lt=1, description="last share of the steps, in which the prior alone learns")

    @model_validator(mode="after")
    def _no_game_is_twice_in_a_batch(self):
        if self.pool < self.batch:
            raise ValueError(f"pool {self.pool} must be at least batch {self.batch}: a game takes one tick a step")
        return self

    @model_validator(mode="after")
    def _phases_follow_one_another(self):
        if self.teacher_forcing + self.prior_share >= 1:
            raise ValueError(
                f"teacher_forcing {self.teacher_forcing} and prior_share {self.prior_share} are all of the steps: "
                "between them the world learns to go on from its own frames"
            )
        return self


class Training(Strict):
    """A world's stages; those that are left out are not run."""

    autoencoder: AutoencoderStage | None = None
    teacher: TeacherStage | None = None
    student_init: StudentInitStage | None = None
    student_rollout: StudentRolloutStage | None = None
    student_dmd: StudentDmdStage | None = None


class Config(Strict):
    """Everything about one world. ``load`` reads it; ``to_json``/``from_json`` carry it in weights."""

    name: str = Field(pattern=r"^[^/\\\x00]+$", description="also of its folders")
    world: World
    codec: Annotated[AutoencoderSize | PatchesSize, Field(discriminator="kind")]
    transformer: TransformerSize
    head: HeadSize | None = None
    rolling: Rolling
    training: Training

    @model_validator(mode="after")
    def _sizes_fit(self):
        grid = self.codec.stride * self.transformer.patch
        if self.world.height % grid or self.world.width % grid:
            raise ValueError(
                f"world {self.world.height}x{self.world.width} must be a multiple of "
                f"codec.stride * transformer.patch = {grid}"
            )
        return self

    @model_validator(mode="after")
    def _views_are_of_four_sinks(self):
        square = self.world.height == self.world.width
        needed = (self.rolling.sink_frames, self.rolling.frames_per_block, self.codec.kind, square)
        if isinstance(self.head, ViewSize) and needed != (4, 1, "patches", True):
            raise ValueError("head.kind view needs four sink frames, blocks of one frame, codec.kind patches, and "
                             "frames as high as wide: a sink is 90 degrees both ways")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _a_leap_is_a_cell_or_more(self):
        if isinstance(self.head, PickSize) and self.head.leap < self.codec.unfold:
            raise ValueError(f"head.leap {self.head.leap} must be at least {self.codec.unfold}, a cell's pixels")
        return self

    @model_validator(mode="after")
    def _mixtures_have_half_a_patch(self):
        if isinstance(self.head, MixtureSize) and self.transformer.patch % 2:
            raise ValueError("transformer.patch must be even for head.kind mixture: half of its network works on cells "
                             "twice as large")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _student_clips_hold_a_full_context(self):
        least = self.rolling.recent_blocks + 1 + self.rolling.window_blocks
        init = self.training.student_init
        if init is not None and init.clip_blocks < least:
            raise ValueError(
                f"training.student_init.clip_blocks {init.clip_blocks} must be at least {least}: "
                "rolling.recent_blocks, the block shown last and rolling.window_blocks"
            )
        return self

    @model_validator(mode="after")
    def _a_head_is_trained_by_rollouts(self):
        needing = [name for name in ("teacher", "student_init", "student_dmd") if getattr(self.training, name)]
        if self.head is not None and needing:
            raise ValueError(
                f"training.{needing[0]}: a world with a head is trained by student_rollout alone, because the sources "
                "that a head picks let no gradient through"
            )
        rollout = self.training.student_rollout
        if rollout and rollout.prior_share and not isinstance(self.head, MixtureSize):
            raise ValueError("training.student_rollout.prior_share: only a head of kind mixture has a prior")
        if self.head is None and self.training.student_rollout:
            raise ValueError(
                "training.student_rollout: trains a head, and this world has none. Add a head, or train by teacher, "
                "student_init and student_dmd instead"
            )
        return self

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one frame's latent."""
        stride = self.codec.stride
        return self.codec.channels, self.world.height // stride, self.world.width // stride

    @property
    def action_size(self) -> int:
        return len(self.world.keys)

    def clip_blocks(self, stage: str) -> int:
        """Blocks of the clips that a stage trains on, after the sinks; 0 where it cuts none."""
        settings, roll = getattr(self.training, stage), self.rolling
        if isinstance(settings, StudentDmdStage):
            return roll.recent_blocks + 1 + (settings.rollout_windows + 1) * roll.window_blocks
        return getattr(settings, "clip_blocks", 0)

    def to_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str, where: str = "configuration") -> Config:
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(_explain(where, error)) from error


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key that stands twice; the library would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for (key, _), name in zip(node.value, keys, strict=True):
            if keys.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


def with_module(world: World, name: str) -> World:
    """A world out of recordings or weights, which may name no module to import: ``configs/<name>.yaml`` here may."""
    named = CONFIGS / f"{name}.yaml"
    if world.game is None or not named.is_file():
        return world
    here = load(named).world.game
    return world.model_copy(update={"game": world.game.model_copy(update={"module": here and here.module})})


def load(path: str | Path) -> Config:
    """Read a world's YAML file. Raises ConfigError with the file, the key and what is wrong."""
    path = Path(path)
    if not path.is_file():
        known = ", ".join(str(p) for p in sorted(CONFIGS.glob("*.yaml")))
        raise ConfigError(f"{path}: no such configuration. There are: {known}")
    try:
        data = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping with the keys {', '.join(Config.model_fields)}")
    try:
        return Config.model_validate(data, context={"folder": path.parent})
    except ValidationError as error:
        raise ConfigError(_explain(str(path), error)) from error


def _explain(where: str, error: ValidationError) -> str:
    lines = []
    for e in error.errors():
        said = "there is no such key" if e["type"] == "extra_forbidden" else e["msg"].removeprefix("Value error, ")
        lines.append(f"{'.'.join(str(part) for part in e['loc']) or '(whole)'}: {said}")
    return f"{where}: " + "; ".join(lines)
