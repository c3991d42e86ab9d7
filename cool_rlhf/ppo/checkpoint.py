"""Checkpoints of a PPO run: complete or absent, and the newest complete one is where it resumes."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from actors.crew import Crew, Models
from pretrain_core.runs import read_json, write_json


class Stateful(Protocol):
    """A part of the driver that remembers something between iterations."""

    def state(self) -> dict[str, Any]:
        """JSON-able."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""


@dataclass
class Checkpoints:
    """`checkpoints/<iteration>/`: `policy/` (Hugging Face folder), training state, driver.json.

    `driver`: what the driver remembers, by name.

    Policies of all checkpoints are kept; training state only of the newest.
    """

    folder: Path
    every: int
    iterations: int
    driver: Mapping[str, Stateful]

    def due(self, iteration: int) -> bool:
        """After every `every` iterations and after the last."""
        return (iteration + 1) % self.every == 0 or iteration + 1 == self.iterations

    def policy(self, iteration: int) -> Path:
        """The exported policy after `iteration`."""
        return self.folder / f"{iteration:06d}" / "policy"

    def saved(self) -> list[int]:
        """Iterations with a complete checkpoint, ascending."""
        return sorted(int(path.parent.name) for path in self.folder.glob("[0-9]*/driver.json"))

    def save(self, iteration: int, crew: Crew) -> None:
        """Write aside, then rename: a kill leaves the previous checkpoint as the newest."""
        aside = self.folder / f".{iteration:06d}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        saves = [
            crew.policy.save_state(aside / "policy_state"),
            crew.policy.export(aside / "policy"),
        ]
        if crew.critic is not None:
            saves.append(crew.critic.save_state(aside / "critic_state"))
        for pending in saves:
            pending.result()
        driver = {
            "iteration": iteration,
            "policy_version": crew.policy_version,
            **{name: part.state() for name, part in self.driver.items()},
        }
        write_json(aside / "driver.json", driver)
        final = self.folder / f"{iteration:06d}"
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        for older in self.saved()[:-1]:
            for state in ("policy_state", "critic_state"):
                shutil.rmtree(self.folder / f"{older:06d}" / state, ignore_errors=True)

    def restore(self, crew: Crew, models: Models) -> int:
        """Load the crew, from the newest checkpoint if there is one; returns the next iteration."""
        saved = self.saved()
        if not saved:
            crew.load(models)
            return 0
        folder = self.folder / f"{saved[-1]:06d}"
        driver = read_json(folder / "driver.json")
        crew.load(models, state=folder, version=driver["policy_version"])
        for name, part in self.driver.items():
            part.restore(driver[name])
        return int(driver["iteration"]) + 1
