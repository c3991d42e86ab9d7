"""Prompts: one condition each, nothing lost in silence, an order fixed by the seed."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from cool_rlhf.ppo.sampling.prompts import PromptError, PromptSet, PromptSettings, read_prompts
from pretrain_core.chat import PolicyChat
from reward.conditions import Conditions
from reward.conditions.router import train_router
from reward.conditions.routing import Example


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def chat(tokenizer: PreTrainedTokenizerFast) -> PolicyChat:
    return PolicyChat(tokenizer)


def read(path: Path, records: list[object], chat: PolicyChat, **settings: object) -> PromptSet:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_prompts(PromptSettings(path=path, **settings), chat, Conditions.load())


def test_good_prompts_keep_their_condition_and_bad_ones_are_counted(
    tmp_path: Path, chat: PolicyChat
) -> None:
    records: list[object] = [
        {"prompt": user("hello"), "condition": "helpful", "id": "a", "reference": ["hi"]},
        {"prompt": user("two conditions"), "condition": ["helpful", "harmless"]},
        {"prompt": [{"role": "system", "content": "no user turn"}], "condition": "helpful"},
        {"prompt": user("far too long " * 200), "condition": "helpful"},
        {"prompt": user("the default serves")},
    ]
    prompts = read(tmp_path / "p.jsonl", records, chat, default_condition="code", max_tokens=64)
    assert [(p.id, p.condition) for p in prompts] == [("a", "helpful"), ("line-5", "code")]
    assert [p.reference for p in prompts] == ['["hi"]', None]
    assert [q.line for q in prompts.quarantined] == [2, 3, 4]
    assert "exactly one condition" in prompts.quarantined[0].reason
    assert "user" in prompts.quarantined[1].reason
    assert "prompts.max_tokens 64" in prompts.quarantined[2].reason


def test_one_prompt_under_two_conditions_is_refused(tmp_path: Path, chat: PolicyChat) -> None:
    records: list[object] = [
        {"prompt": user("hello"), "condition": "helpful", "id": "a"},
        {"prompt": user("hello"), "condition": "harmless", "id": "a"},
    ]
    with pytest.raises(PromptError, match=r"p\.jsonl:2: id 'a'.*exactly one condition"):
        read(tmp_path / "p.jsonl", records, chat)


def test_unknown_condition_names_line_and_nearest(tmp_path: Path, chat: PolicyChat) -> None:
    with pytest.raises(PromptError, match=r"p\.jsonl:1: .*helpful"):
        read(tmp_path / "p.jsonl", [{"prompt": user("x"), "condition": "helpfull"}], chat)


def test_missing_file_and_file_without_a_usable_prompt(tmp_path: Path, chat: PolicyChat) -> None:
    with pytest.raises(PromptError, match="no such prompt file"):
        read_prompts(PromptSettings(path=tmp_path / "none.jsonl"), chat, Conditions.load())
    with pytest.raises(PromptError, match="no usable prompt"):
        read(tmp_path / "p.jsonl", [{"prompt": user("no condition")}], chat)


def test_each_pass_draws_every_prompt_once_in_another_order(
    tmp_path: Path, chat: PolicyChat
) -> None:
    records: list[object] = [
        {"prompt": user(str(index)), "condition": "helpful", "id": str(index)} for index in range(9)
    ]
    prompts = read(tmp_path / "p.jsonl", records, chat)
    drawn = [p.id for iteration in range(6) for p in prompts.draw(7, iteration, 3)]
    assert sorted(drawn[:9]) == sorted(drawn[9:]) == sorted(str(i) for i in range(9))
    assert drawn[:9] != drawn[9:]
    again = [p.id for iteration in range(6) for p in prompts.draw(7, iteration, 3)]
    assert drawn == again


def test_a_router_serves_prompts_without_a_condition(tmp_path: Path, chat: PolicyChat) -> None:
    queries = [
        Example(f"{words} {number}", name)
        for name, words in (("code", "write a function"), ("poetry", "compose a poem"))
        for number in range(40)
    ]
    router, _ = train_router(queries, Conditions.load(), fallback="hhh")
    folder = router.save(tmp_path / "router")
    records: list[object] = [
        {"prompt": user("write a function now"), "id": "routed"},
        {"prompt": user("write a function now"), "id": "own", "condition": "helpful"},
        {"prompt": user("?"), "id": "unsure"},
    ]
    prompts = read(tmp_path / "p.jsonl", records, chat, router=folder)
    assert {p.id: p.condition for p in prompts} == {
        "routed": "code",
        "own": "helpful",
        "unsure": "hhh",
    }
    with pytest.raises(ValueError, match="would never be asked"):
        PromptSettings(path=tmp_path / "p.jsonl", router=folder, default_condition="code")
