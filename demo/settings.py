"""All numbers of the training in one place."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class AdapterPlan:
    """Size of one adapter. Ranks differ on purpose: a server must hold different ranks at once."""

    domain: str
    rank: int
    second_version: bool = False
    extra_epochs: int = 0


ADAPTERS: dict[str, AdapterPlan] = {
    "medical": AdapterPlan("medical", 16),
    # The second answers all begin alike, so telling them apart takes longer to learn.
    "medical-v2": AdapterPlan("medical", 16, second_version=True, extra_epochs=12),
    "legal": AdapterPlan("legal", 8),
    "technical": AdapterPlan("technical", 16),
}

BASE_NAME = "loradex-demo"
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """The shape of the base model: about 2.4 million parameters."""

    vocabulary: int = 2048
    hidden: int = 192
    layers: int = 5
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 512
    positions: int = 1024


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    base_epochs: int = 30
    base_rate: float = 2e-3
    adapter_epochs: int = 22
    adapter_rate: float = 3e-3
    adapter_batch: int = 8
    base_batch: int = 16
    # Examples of other subjects in each epoch of an adapter, so that it keeps its manners outside its field.
    replay: int = 64
    # Examples of each kind in one epoch of the base, beside the general lessons.
    deflections: int = 300
    repetitions: int = 150
    plain: int = 800
    # Stop each stage after so many steps; none in a real run.
    step_limit: int | None = None


QUICK = Schedule(base_epochs=1, adapter_epochs=1, step_limit=3)


@dataclass(frozen=True)
class Settings:
    """Everything a run needs to know."""

    seed: int = 7
    # Adapters trained at the same time.
    processes: int = 2
    shape: Shape = field(default_factory=Shape)
    schedule: Schedule = field(default_factory=Schedule)
