"""The replies of some iterations, as the rollout log has them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from actors.trajectories import REWARD, RolloutLog, Trajectory
from cool_rlhf.hacks.samples import Sample
from pretrain_core.draws import seed_of
from pretrain_core.runs.files import rewrite_lines
from reward.verifiers.replies import reply_text

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """Replies of some iterations: samples, raw scores [n], and spreads over heads [n] or NaN."""

    iterations: tuple[int, ...]
    samples: tuple[Sample, ...]
    scores: Array
    spreads: Array

    @property
    def prompts(self) -> int:
        """Different prompts in it."""
        return len({sample.id for sample in self.samples})

    def write(self, path: Path) -> None:
        """One line per reply, as `cool-rlhf hacks detect` reads them."""
        rewrite_lines(path, (sample.as_dict() for sample in self.samples))


def read_window(
    log: RolloutLog,
    iterations: Iterable[int],
    most: int,
    seed: int,
    references: Mapping[str, str],
) -> Window:
    """At most `most` scored replies, from as few of the iterations as give them, in their order.

    Which ones are left out where there are more is drawn by prompt, for every window alike, so that
    prompts that come again are kept in both. The order does not depend on that of the log, which is
    the order in which replies were finished.
    """
    found: list[Trajectory] = []
    read: list[int] = []
    for iteration in iterations:
        read.append(iteration)
        found += [t for t in log.read(iteration).values() if REWARD in t.scores and _reply(t)]
        if len(found) >= most:
            break
    found.sort(key=lambda t: (seed_of(seed, "hacks/window", 0, t.prompt_id), t.id))
    del found[most:]
    return Window(
        tuple(read),
        tuple(_sample(t, references) for t in found),
        np.array([t.scores[REWARD].value for t in found]),
        np.array([t.scores[REWARD].spread for t in found], dtype=np.float64),
    )


def _sample(trajectory: Trajectory, references: Mapping[str, str]) -> Sample:
    return Sample(
        trajectory.prompt_id,
        trajectory.messages[: trajectory.given_messages],
        _reply(trajectory),
        trajectory.condition,
        references.get(trajectory.prompt_id),
    )


def _reply(trajectory: Trajectory) -> str:
    return reply_text(trajectory.messages[trajectory.given_messages :]).strip()
