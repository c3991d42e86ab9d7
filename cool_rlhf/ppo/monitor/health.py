"""Health lights of a PPO run: its metrics at a glance, with one sentence of advice each."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pretrain_core.runs import write_json
from pretrain_core.settings import Settings

logger = logging.getLogger(__name__)

FILE = "health.json"
State = Literal["good", "watch", "bad"]
Row = Mapping[str, float]


class HealthSettings(Settings):
    """Two limits for each light: from where it says watch, from where it says bad."""

    recent: int = Field(3, gt=0, description="iterations that are averaged")
    baseline: int = Field(
        5, gt=0, description="first iterations of a moving policy to compare with"
    )
    kl: tuple[float, float] = Field((10.0, 20.0), description="nats per reply to the reference")
    entropy: tuple[float, float] = Field((0.5, 0.25), description="of the baseline's; below")
    clip: tuple[float, float] = Field((0.2, 0.4), description="share of actions clipped")
    length: tuple[float, float] = Field(
        (1.5, 2.0), description="times longer or shorter than the baseline's replies"
    )
    cut: tuple[float, float] = Field((0.2, 0.5), description="share of replies cut at the limit")
    critic: tuple[float, float] = Field((0.1, 0.0), description="explained variance; below")
    engine: tuple[float, float] = Field(
        (0.05, 0.1), description="mean log-prob gap between engine and trainer"
    )
    reward_length: tuple[float, float] = Field(
        (0.5, 0.8), description="correlation of reward and length within conditions, either sign"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "HealthSettings":
        for light in LIGHTS:
            watch, bad = getattr(self, light.key)
            if (watch < bad) if light.below else (watch > bad):
                raise ValueError(f"{light.key}: bad ({bad:g}) must be beyond watch ({watch:g})")
        return self


@dataclass(frozen=True)
class Light:
    """One light: what was seen, and what to do where it is not good."""

    name: str
    state: State
    seen: str
    advice: str


@dataclass(frozen=True)
class History:
    """The rows that lights are read from: the newest, and the first ones of a moving policy."""

    recent: Sequence[Row]
    baseline: Sequence[Row]

    @classmethod
    def of(cls, rows: Sequence[Row], settings: HealthSettings) -> "History":
        """The baseline is empty until the policy has moved on from it."""
        moving = [row for row in rows if not row.get("warmup/critic_only")]
        later = len(moving) > settings.baseline
        return cls(rows[-settings.recent :], moving[: settings.baseline] if later else [])

    def mean(self, name: str) -> float | None:
        """Over the newest rows that have it."""
        return _mean(row[name] for row in self.recent if name in row)

    def against_baseline(self, name: str) -> float | None:
        """The newest mean as a multiple of the baseline's."""
        now, then = self.mean(name), _mean(row[name] for row in self.baseline if name in row)
        return now / then if now is not None and then else None


@dataclass(frozen=True)
class _Kind:
    """How a light is read; `below` where low values are the bad ones."""

    key: str
    name: str
    value: Callable[[History], float | None]
    says: str
    advice: str
    below: bool = False


def _factor(history: History) -> float | None:
    times = history.against_baseline("rollout/reply_tokens")
    return max(times, 1 / times) if times else None


def _cut(history: History) -> float | None:
    stopped = history.mean("rollout/stopped_share")
    return None if stopped is None else 1 - stopped


def _warm_critic(history: History) -> float | None:
    rows = [row for row in history.recent if not row.get("warmup/critic_only")]
    return _mean(row["critic/vf_explained_var"] for row in rows if "critic/vf_explained_var" in row)


def _reward_length(history: History) -> float | None:
    correlation = history.mean("guard/length_correlation")
    return None if correlation is None else abs(correlation)


LIGHTS = (
    _Kind(
        "kl",
        "KL",
        lambda history: history.mean("objective/kl"),
        "{:.3g} nats per reply to the reference",
        "raise algorithm.kl_coef, or lower the policy's learning rate; take an earlier checkpoint",
    ),
    _Kind(
        "entropy",
        "entropy",
        lambda history: history.against_baseline("objective/entropy"),
        "{:.2f} of the baseline's",
        "the policy says ever less: lower its learning rate, or raise algorithm.kl_coef",
        below=True,
    ),
    _Kind(
        "clip",
        "clipping",
        lambda history: history.mean("policy/clipfrac_avg"),
        "{:.0%} of the actions clipped",
        "steps are too large: lower the policy's learning rate, or take fewer epochs",
    ),
    _Kind(
        "length",
        "length",
        _factor,
        "{:.2f} times longer or shorter than the baseline's replies",
        "see whether length is paid for: cool-rlhf hacks detect on first and newest replies",
    ),
    _Kind(
        "cut",
        "cut replies",
        _cut,
        "{:.0%} of the replies cut at the length limit",
        "raise sampling.max_new_tokens, or set algorithm.missing_end_penalty or truncated",
    ),
    _Kind(
        "critic",
        "critic",
        _warm_critic,
        "explains {:.2f} of the variance of returns",
        "advantages are noise: a longer critic-only phase, or another learning rate of the critic",
        below=True,
    ),
    _Kind(
        "engine",
        "engine",
        lambda history: history.mean("guard/logprob_gap"),
        "log-probs {:.3g} from the trainer's on average",
        "the engine rounds too coarsely: crew.rollout.dtype float32, or the loss truncated_is",
    ),
    _Kind(
        "reward_length",
        "reward and length",
        _reward_length,
        "correlate by {:.2f} within conditions",
        "the reward may be for length: look at the reward model's length bias",
    ),
)


def lights(rows: Sequence[Row], settings: HealthSettings) -> list[Light]:
    """The lights after the newest row; one whose metrics are missing is left out."""
    history = History.of(rows, settings)
    found = []
    for kind in LIGHTS:
        value = kind.value(history)
        if value is not None:
            state = _state(value, getattr(settings, kind.key), kind.below)
            found.append(Light(kind.name, state, kind.says.format(value), kind.advice))
    return [*found, *_hacks(rows)]


@dataclass
class Health:
    """The lights of one run, told anew where one turns bad; `folder` gets `health.json`."""

    settings: HealthSettings
    folder: Path
    rows: list[Row] = field(default_factory=list)
    _bad: frozenset[str] = frozenset()

    def look(self, row: Row) -> str:
        """Take in an iteration's metrics; returns what the progress line says."""
        self.rows.append(row)
        found = lights(self.rows, self.settings)
        write_json(self.folder / FILE, [asdict(light) for light in found])
        bad = frozenset(light.name for light in found if light.state == "bad")
        for light in found:
            if light.name in bad - self._bad:
                logger.warning("health: %s: %s; %s", light.name, light.seen, light.advice)
        self._bad = bad
        marks = {"bad": "!", "watch": "?"}
        shown = [light.name + marks[light.state] for light in found if light.state != "good"]
        return ", ".join(shown) or "good"


def _state(value: float, limits: tuple[float, float], below: bool) -> State:
    watch, bad = limits
    if (value < bad) if below else (value > bad):
        return "bad"
    if (value < watch) if below else (value > watch):
        return "watch"
    return "good"


def _hacks(rows: Sequence[Row]) -> list[Light]:
    """The early warning's newest look, where there was one."""
    looks = [row for row in rows if "hack/alarm" in row]
    if not looks:
        return []
    rising = looks[-1].get("hack/rising", 0.0)
    state: State = "bad" if looks[-1]["hack/alarm"] else "watch" if rising else "good"
    return [
        Light(
            "hacks",
            state,
            f"{rising:g} patterns surely rose" + (", alarming" if state == "bad" else ""),
            "read hacks/recent.jsonl, and run the command of hacks/look.json",
        )
    ]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
