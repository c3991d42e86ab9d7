"""What every stage of an online run shares: settings, folders, models of each round, the crew."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from transformers import AutoTokenizer

from actors.crew import Crew
from cool_rlhf.annotation.programmatic import Annotator, annotators
from cool_rlhf.online.settings import OnlineSettings
from cool_rlhf.ppo.sampling.prompts import PromptSet, PromptSettings, read_prompts
from pretrain_core.chat import PolicyChat
from pretrain_core.runs import Run, read_json
from reward.card import read_conditions
from reward.conditions import Conditions

FAST_PATH, PATCHED_PAIRS = "fast_path", "patched_pairs.jsonl"


@dataclass
class Context:
    """One online run. The crew starts with its first use and serves all rounds."""

    settings: OnlineSettings
    run: Run
    _crew: Crew | None = field(default=None, repr=False)

    @property
    def crew(self) -> Crew:
        """The actors, started once."""
        if self._crew is None:
            self._crew = Crew.start(self.settings.ppo.crew)
        return self._crew

    def close(self) -> None:
        """End the actors, if they were started."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    @cached_property
    def chat(self) -> PolicyChat:
        """The policy's chat template."""
        return PolicyChat(AutoTokenizer.from_pretrained(self.settings.sft))

    @cached_property
    def conditions(self) -> Conditions:
        """The conditions that the run's reward models know."""
        first = self.settings.first_reward
        if first is not None:
            return Conditions.load(first.conditions)
        return read_conditions(self.first_reward_model)

    @cached_property
    def prompts(self) -> PromptSet:
        """Training prompts."""
        return read_prompts(self.settings.prompts, self.chat, self.conditions)

    @cached_property
    def held_out_prompts(self) -> PromptSet:
        """Prompts that only evaluation sees."""
        settings = self.settings.prompts.model_dump() | {"path": self.settings.evaluation.prompts}
        return read_prompts(PromptSettings(**settings), self.chat, self.conditions)

    @cached_property
    def annotators(self) -> Mapping[str, Annotator]:
        """Programmatic annotators by condition; empty when people label by file."""
        labels = self.settings.labels
        if labels.mode == "file" and labels.lexicon is None:
            return {}
        words = None
        if labels.lexicon is not None:
            words = frozenset(labels.lexicon.read_text(encoding="utf-8").split())
        return annotators(words, labels.enough_words)

    def folder(self, number: int) -> Path:
        """`rounds/<k>`; round 0 is the SFT model before any PPO."""
        return self.run.path / "rounds" / str(number)

    def policy(self, number: int, which: str = "late") -> Path:
        """The round's exported policy, `early` or `late`; round 0: the SFT model."""
        if number == 0:
            return self.settings.sft
        return Path(read_json(self.folder(number) / "policies.json")[which])

    @property
    def first_reward_model(self) -> Path:
        """The one given, or the one that round 0 makes."""
        return self.settings.reward_model or self.folder(0) / "rm"

    @property
    def preferences(self) -> Path:
        """The pairs that the first reward model is trained on."""
        return self.settings.preferences or self.folder(0) / "preferences.jsonl"

    @property
    def held_out_preferences(self) -> Path:
        """Pairs like them that it is not trained on."""
        return self.settings.held_out_preferences or self.folder(0) / "held_out_preferences.jsonl"

    def reward_model(self, number: int) -> Path:
        """The reward model that round `number` trains against: the newest that passed a gate."""
        for earlier in range(number - 1, 0, -1):
            if _promoted(self.folder(earlier) / "gate.json"):
                return self.folder(earlier) / "rm"
            if (patched := self.patched(earlier)) is not None:
                return patched
        return self.first_reward_model

    def newest_reward_model(self, number: int) -> Path:
        """The parent of the round's update: what its fast path made, or what it trained against."""
        return self.patched(number) or self.reward_model(number)

    def patched(self, number: int) -> Path | None:
        """The reward model that the round's fast path made, if it passed its gate."""
        folder = self.folder(number) / FAST_PATH
        return folder / "patch" / "rm" if _promoted(folder / "result.json") else None


def _promoted(verdict: Path) -> bool:
    return verdict.exists() and bool(read_json(verdict)["promoted"])
