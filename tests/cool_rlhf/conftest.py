"""Artefacts of a nano run: random models, but the real formats and the real commands."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from transformers import PreTrainedTokenizerFast

from pretrain_core.data.build import build_store
from reward.conditions import Conditions
from reward.model import create_reward_model

WORDS = ("peace", "war", "harvest", "treaty", "silver", "rivers", "roads", "letters", "school")


@dataclass(frozen=True)
class Artefacts:
    """What `cool-rlhf demo` would have left in its cache, at a thousandth of the size."""

    cache: Path

    @property
    def demo(self) -> Path:
        return self.cache / "demo"


def _preferences(path: Path, words: Iterable[str]) -> None:
    with path.open("w") as out:
        for word in words:
            for condition in ("brief", "detailed"):
                good, bad = (f"{word} is joy.", f"{word} is a great joy to all of the people.")
                chosen, rejected = (good, bad) if condition == "brief" else (bad, good)
                record = {
                    "id": f"{word}/{condition}",
                    "prompt": [{"role": "user", "content": f"Speak about {word}."}],
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": rejected}],
                    "condition": condition,
                }
                out.write(json.dumps(record) + "\n")


def _prompts(path: Path, words: Iterable[str]) -> None:
    with path.open("w") as out:
        for word in words:
            for condition in ("brief", "detailed"):
                record = {
                    "id": f"{condition}-{word}",
                    "prompt": [{"role": "user", "content": f"A {condition} word on {word}."}],
                    "condition": condition,
                }
                out.write(json.dumps(record) + "\n")


@pytest.fixture(scope="session")
def artefacts(
    tmp_path_factory: pytest.TempPathFactory,
    model_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> Artefacts:
    made = Artefacts(tmp_path_factory.mktemp("cache"))
    made.demo.mkdir()
    (made.demo / "sft").symlink_to(model_folder)
    conditions = Conditions.load(Path("configs/conditions/demo.yaml"))
    create_reward_model(model_folder, made.demo / "reward", conditions, seed=0)
    texts = [text for text in topics.values() if len(text) > 400]
    build_store(texts[:20], tokenizer, made.demo / "text")
    build_store(texts[20:24], tokenizer, made.demo / "held_out_text")
    _preferences(made.demo / "preferences.jsonl", WORDS)
    _preferences(made.demo / "held_out_preferences.jsonl", [f"old {word}" for word in WORDS])
    _prompts(made.demo / "prompts.jsonl", WORDS)
    _prompts(made.demo / "held_out_prompts.jsonl", [f"new {word}" for word in WORDS[:4]])
    # Fragments count as words here, so that the annotators tell the random model's babble apart.
    fragments = (token.strip("Ġ").lower() for token in tokenizer.get_vocab())
    (made.demo / "lexicon.txt").write_text("\n".join(t for t in fragments if t.isalpha()))
    return made
