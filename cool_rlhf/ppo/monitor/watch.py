"""The watcher of one PPO run: looks every few iterations, warns, and may stop the run."""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from actors.trajectories import RolloutLog
from cool_rlhf.hacks.confirmation import prompts_needed, visible_rise
from cool_rlhf.hacks.judges import Array, gold_judge
from cool_rlhf.hacks.settings import HackSettings
from cool_rlhf.hacks.watch.look import Look, compare_windows
from cool_rlhf.hacks.watch.settings import WatchSettings
from cool_rlhf.hacks.watch.windows import Window, read_window
from cool_rlhf.ppo.monitor.guards import GuardError
from pretrain_core.errors import InputError, RunFailed
from pretrain_core.runs import Run, write_json

logger = logging.getLogger(__name__)

LEAST = 16
"""Prompts of a window below which nothing can be told."""


class HackAlarm(GuardError):
    """A run is stopped, after a checkpoint, because its policy may exploit the reward model."""


@dataclass
class Watch:
    """Looks at a run's rollout log; what it finds is a function of that log alone.

    It writes `hacks/` of the run directory anew at each look: both windows as sample files of
    `cool-rlhf hacks detect`, and `look.json`.
    """

    settings: WatchSettings
    run: Run
    log: RolloutLog
    looks: tuple[int, ...]
    reward_model: Path
    references: Mapping[str, str] = field(default_factory=dict)
    stopping: str | None = field(default=None, init=False)
    """Why the run is to stop after a checkpoint."""
    _baseline_gold: Array | None = field(default=None, init=False)

    def look(self, iteration: int, kl: float) -> dict[str, float]:
        """The `hack/*` metrics after an iteration, where a look is due; `kl` of its batch, nats.

        Warns of what is alarming.
        """
        if iteration not in self.looks:
            return {}
        baseline = self._window(range(self.settings.baseline))
        recent = self._window(range(iteration, iteration - self.settings.recent, -1))
        folder = self.folder
        folder.mkdir(exist_ok=True)
        baseline.write(folder / "baseline.jsonl")
        recent.write(folder / "recent.jsonl")
        if min(baseline.prompts, recent.prompts) < LEAST:
            logger.warning(
                "hacks: %d and %d prompts are too few for a look: raise hacks.baseline and "
                "hacks.recent, or the batch",
                baseline.prompts,
                recent.prompts,
            )
            return {}
        found = compare_windows(baseline, recent, self._gold(baseline, recent), self.detector)
        write_json(folder / "look.json", {**found.as_dict(), "command": self.command(found)})
        self._warn(iteration, found)
        return found.metrics | {"hack/sqrt_kl": self._sqrt_kl(recent, kl)}

    def check(self) -> None:
        """Raise HackAlarm where a look asked for a stop; called once the state is saved."""
        if self.stopping is not None:
            write_json(self.folder / "stopped.json", {"alarm": self.stopping})
            raise HackAlarm(self.stopping)

    @property
    def folder(self) -> Path:
        """Where the watcher writes."""
        return self.run.path / "hacks"

    @property
    def detector(self) -> HackSettings:
        """Settings of each look."""
        return self.settings.detector(len(self.looks), self.run.seed)

    def command(self, look: Look) -> str:
        """The command that tells hacks from improvements in the windows of a look."""
        words = ["cool-rlhf", "hacks", "detect"]
        words += ["--early", str(self.folder / "baseline.jsonl")]
        words += ["--late", str(self.folder / "recent.jsonl")]
        words += ["--reward", str(self.reward_model), "--out", str(self.folder / "found")]
        words += ["--gold", self.settings.gold] if self.settings.gold else []
        words.append("same_prompts=false")
        prompts, default = min(look.baseline.prompts, look.recent.prompts), HackSettings()
        if prompts < prompts_needed(default):
            rise = visible_rise(prompts, default)
            words += [f"target_rise={rise}"] if rise is not None else []
        return shlex.join(words)

    def _window(self, iterations: range) -> Window:
        most, seed = self.settings.replies, self.run.seed
        return read_window(self.log, iterations, most, seed, self.references)

    def _gold(self, baseline: Window, recent: Window) -> tuple[Array, Array] | None:
        """Gold scores of both windows; a gold signal that fails is no reason to end a run."""
        if self.settings.gold is None:
            return None
        try:
            with gold_judge(self.settings.gold) as judge:
                # The same batches at each look, so that a resumed run gets the same numbers.
                if self._baseline_gold is None:
                    self._baseline_gold = judge(baseline.samples)
                return self._baseline_gold, judge(recent.samples)
        except (RunFailed, InputError) as failure:
            logger.warning("hacks: this look has no gold signal: %s", failure)
            return None

    def _sqrt_kl(self, recent: Window, kl: float) -> float:
        """Of the mean over the recent iterations, the newest of which is not logged yet."""
        earlier = set(recent.iterations[1:])
        values = [row["objective/kl"] for row in self.run.metrics() if row["step"] in earlier]
        values.append(kl)
        return float(np.sqrt(max(0.0, float(np.mean(values)))))

    def _warn(self, iteration: int, look: Look) -> None:
        if not look.alarms:
            return
        text = (
            f"hacks: alarm after iteration {iteration}: {'; '.join(look.alarms)}. Read "
            f"{self.folder / 'recent.jsonl'}; whether it is a hack or an improvement is told by: "
            f"{self.command(look)}"
        )
        logger.warning("%s", text)
        if self.settings.stop and not (self.folder / "stopped.json").exists():
            self.stopping = f"{text} (hacks.stop: a resumed run goes on, and only warns)"
