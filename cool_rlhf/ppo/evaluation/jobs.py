"""The jobs of one run: begun at each saved policy, collected as they end."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.placement import PlacementError
from actors.rollout.engines.vllm_engine import ENVIRONMENT
from cool_rlhf.ppo.evaluation.frontier import (
    FOLDER,
    REFERENCE,
    SELECTED,
    Selection,
    read_evaluations,
    select,
)
from cool_rlhf.ppo.evaluation.job import Examination, evaluate_policy
from pretrain_core.runs import write_json

logger = logging.getLogger(__name__)


@dataclass
class Evaluations:
    """Writes `evaluations/<name>.json` for each policy, and `selected.json` at the end.

    A job that fails is told and left out: it is no reason to end a training.
    """

    run: Path
    examination: Examination
    _jobs: dict[Any, str] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        """Where the results are."""
        return self.run / FOLDER

    def begin(self, name: str, policy: Path) -> None:
        """Start the job of a policy, unless it has its result or was begun: a job is tried once.

        Raises PlacementError where the cluster has no room for a job beside the roles.
        """
        import ray

        if self._file(name).exists() or name in self._begun:
            return
        settings = self.examination.settings
        wanted = {"CPU": settings.cpus} | ({"GPU": settings.gpus} if settings.gpus else {})
        free = ray.available_resources()
        # Asked once, before the training: later jobs wait for the room that earlier ones give back.
        if not self._begun and any(free.get(kind, 0) < count for kind, count in wanted.items()):
            raise PlacementError(
                f"an evaluation job needs {wanted} beside the roles, free are"
                f" { {kind: free.get(kind, 0) for kind in wanted} }: give the cluster more (logical"
                " CPUs are only counted), or ask for less with evaluation.cpus and evaluation.gpus"
            )
        self._begun.add(name)
        environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(settings.threads)}
        job = (
            ray.remote(evaluate_policy)
            .options(
                num_cpus=settings.cpus,
                num_gpus=settings.gpus,
                runtime_env={"env_vars": environment},
            )
            .remote(self.examination, policy)
        )
        self._jobs[job] = name

    def collect(self, seconds: float | None = 0) -> None:
        """Write what has ended; waits `seconds` for it, None: until all have."""
        import ray

        if not self._jobs:
            return
        ended, _ = ray.wait(list(self._jobs), num_returns=len(self._jobs), timeout=seconds)
        for job in ended:
            name = self._jobs.pop(job)
            try:
                found = ray.get(job)
            except ray.exceptions.RayError as failure:
                cause = getattr(failure, "cause", failure)
                logger.warning("evaluation of %s failed: %s: %s", name, type(cause).__name__, cause)
                continue
            self.folder.mkdir(exist_ok=True)
            write_json(self._file(name), found)

    def finish(self) -> Selection | None:
        """Wait for all jobs, then choose; None where no policy has a result."""
        self.collect(None)
        found = read_evaluations(self.run)
        if not found.keys() - {REFERENCE}:
            return None
        chosen = select(found)
        write_json(self.folder / SELECTED, chosen.as_dict())
        logger.info("kept: %s, %s", chosen.name, chosen.reason)
        return chosen

    def close(self) -> None:
        """End the jobs that are under way."""
        import ray

        for job in self._jobs:
            ray.cancel(job, force=True)
        self._jobs.clear()

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"
