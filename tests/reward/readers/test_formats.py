"""Each format's reader: known records, what is set aside, and how `auto` tells them apart."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain_core.chat.message import PLUGIN
from reward.conditions import Conditions, UnknownCondition
from reward.data import Preference, PreferenceError, PreferenceSet, read_preferences

TURNS = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: A number?\n\nAssistant:"
GOOD: dict[str, dict[str, Any]] = {
    "trl": {"prompt": "A number?", "chosen": "Seven.", "rejected": "No."},
    "hh": {"chosen": f"{TURNS} Seven.", "rejected": f"{TURNS} No."},
    "alpaca": {"instruction": "A number?", "input": "", "chosen": "Seven.", "rejected": "No."},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "A number?"}],
        "chosen": {"from": "gpt", "value": "Seven."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    "ranked": {"prompt": "A number?", "replies": ["Seven.", "No."]},
}


def read(tmp_path: Path, *records: Any, **options: Any) -> PreferenceSet:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_preferences(file, **options)


def texts(record: Preference) -> tuple[str, str, str]:
    sides = (record.prompt[-1:], record.chosen, record.rejected)
    return tuple("|".join(m.content for m in side) for side in sides)  # type: ignore[return-value]


@pytest.mark.parametrize("name", GOOD)
def test_every_format_is_recognised_and_gives_the_same_pair(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, GOOD[name] | {"id": 3, "margin": 0.5}, condition="helpful", source="s")
    assert found.format == name
    assert "1 of the first 1 records" in found.why
    (record,) = found.records
    assert texts(record) == ("A number?", "Seven.", "No.")
    assert (record.condition, record.source, record.margin) == ("helpful", "s", 0.5)
    assert found.origins == [f"{tmp_path / 'pairs.jsonl'}:1"]
    assert found.quarantined == []
    assert not found.ignored_fields
    assert read(tmp_path, GOOD[name], format=name).records[0].chosen == record.chosen


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(("broken", "kind"), [("Seven.", "identical sides"), ("  ", "empty reply")])
def test_identical_and_empty_sides_are_set_aside_by_kind(
    tmp_path: Path, name: str, broken: str, kind: str
) -> None:
    bad = json.loads(json.dumps(GOOD[name]).replace("No.", broken))
    found = read(tmp_path, GOOD[name], bad)
    assert len(found.records) == 1
    (aside,) = found.quarantined
    assert (aside.kind, aside.line, aside.file) == (kind, 2, str(tmp_path / "pairs.jsonl"))
    assert json.loads(aside.raw) == bad


def test_own_fields_go_before_the_data_sets_defaults(tmp_path: Path) -> None:
    own = GOOD["alpaca"] | {"condition": "code", "source": "mine"}
    found = read(tmp_path, own, GOOD["alpaca"], condition="maths", source="theirs")
    assert [(r.condition, r.source) for r in found.records] == [
        ("code", "mine"),
        ("maths", "theirs"),
    ]
    with pytest.raises(UnknownCondition, match="did you mean 'maths'"):
        read(tmp_path, own, conditions=Conditions.load(), condition="math")


def test_formats_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PreferenceError, match=r"columns: question, answer\); known: hh, alpaca"):
        read(tmp_path, {"question": "a", "answer": "b"})
    with pytest.raises(PreferenceError, match="unknown format 'dpo'"):
        read(tmp_path, GOOD["trl"], format="dpo")
    assert read(tmp_path).records == []


def test_a_prompt_that_both_sides_repeat_is_cut_off(tmp_path: Path) -> None:
    def side(text: str) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": "A number?"},
            {"role": "assistant", "content": text},
        ]

    found = read(tmp_path, {"prompt": "A number?", "chosen": side("7"), "rejected": side("-")})
    assert texts(found.records[0]) == ("A number?", "7", "-")


def test_plain_texts_need_a_prompt(tmp_path: Path) -> None:
    found = read(tmp_path, {"chosen": "a", "rejected": "b"})
    assert "need a 'prompt'" in found.quarantined[0].reason


def test_hh_turns_and_their_faults(tmp_path: Path) -> None:
    given = {"prompt": TURNS, "chosen": " Seven.", "rejected": " No."}
    inside = {
        "chosen": "\n\nHuman: Say Human: twice\n\nAssistant: a\nHuman: b",
        "rejected": "\n\nHuman: Say Human: twice\n\nAssistant: c",
    }
    parted = {
        "chosen": "\n\nHuman: x\n\nAssistant: a\n\nHuman: y\n\nAssistant: b",
        "rejected": "\n\nHuman: x\n\nAssistant: other\n\nHuman: z\n\nAssistant: c",
    }
    found = read(tmp_path, given, inside, parted, {"chosen": "no marks", "rejected": "none"})
    first, second = found.records
    assert [m.role for m in first.prompt] == ["user", "assistant", "user"]
    assert texts(second) == ("Say Human: twice", "a\nHuman: b", "c")
    assert [q.line for q in found.quarantined] == [3, 4]
    assert "contains a user turn" in found.quarantined[0].reason
    assert "does not begin with" in found.quarantined[1].reason


def test_alpaca_with_input_history_and_system(tmp_path: Path) -> None:
    record = GOOD["alpaca"] | {"input": "Small.", "history": [["Hi", "Hello."]], "system": "Be."}
    older = {"instruction": "Go", "output": ["better", "worse"]}
    alone = {"instruction": "Go", "output": "only one"}
    found = read(tmp_path, record, older, alone, GOOD["alpaca"] | {"history": [["Hi"]]})
    assert [(m.role, m.content) for m in found.records[0].prompt] == [
        ("system", "Be."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "A number?\nSmall."),
    ]
    assert texts(found.records[1]) == ("Go", "better", "worse")
    assert [q.kind for q in found.quarantined] == ["unpaired", "malformed"]


def test_sharegpt_keeps_tool_calls_and_refuses_unknown_speakers(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "weather"}'},
        {"from": "observation", "value": "rain"},
    ]
    called = GOOD["sharegpt"] | {"conversations": [*turns, turns[0]], "tools": "[{}]"}
    ghost = GOOD["sharegpt"] | {"conversations": [{"from": "ghost", "value": "x"}]}
    found = read(tmp_path, called, ghost)
    prompt = found.records[0].prompt
    assert [m.role for m in prompt] == ["system", "user", "assistant", "environment", "user"]
    assert prompt[0].name == PLUGIN
    assert prompt[2].actions[0].content == '{"name": "weather"}'
    assert "unknown speaker 'ghost'" in found.quarantined[0].reason


def test_a_ranking_gives_all_pairs_or_neighbours(tmp_path: Path) -> None:
    record = {"prompt": "x", "replies": ["a", "b", "c"], "id": "r"}

    def pairs(**options: Any) -> list[str]:
        records = read(tmp_path, record, **options).records
        return [f"{r.chosen[0].content}>{r.rejected[0].content}" for r in records]

    assert pairs() == ["a>b", "a>c", "b>c"]
    assert pairs(pairs="adjacent") == ["a>b", "b>c"]
    assert [r.id for r in read(tmp_path, record).records] == ["r:0>1", "r:0>2", "r:1>2"]


def test_scores_order_replies_and_ties_give_no_pair(tmp_path: Path) -> None:
    beside = {
        "prompt": "x",
        "responses": [{"text": t, "score": s} for t, s in zip("abc", (1, 3, 1), strict=True)],
    }
    apart = {"prompt": "x", "replies": ["a", "b", "b"], "scores": [0.5, 2, 1]}
    tied = {"prompt": "x", "replies": ["a", "b"], "scores": [1, 1]}
    broken = {"prompt": "x", "replies": ["a", "b"], "scores": [1]}
    nan = {"prompt": "x", "replies": ["a", "b"], "scores": [1, float("nan")]}
    found = read(tmp_path, beside, apart, tied, broken, nan)
    assert [texts(r)[1:] for r in found.records] == [
        ("b", "a"),
        ("b", "c"),
        ("b", "a"),
        ("b", "a"),
    ]
    assert all(r.margin is None for r in found.records)
    assert [(q.line, q.kind) for q in found.quarantined] == [
        (2, "identical sides"),
        (3, "tie"),
        (4, "malformed"),
        (5, "malformed"),
    ]


def test_kto_pairs_only_where_a_prompt_has_both(tmp_path: Path) -> None:
    def reply(prompt: str, text: str, label: object, **fields: object) -> dict[str, object]:
        return {"prompt": prompt, "completion": text, "label": label, **fields}

    rows = [
        reply("x", "good", True, id="1"),
        reply("x", "bad", False, id="2"),
        reply("x", "worse", False, id="3"),
        reply("alone", "good", True),
        reply("y", "good", True, condition="helpful"),
        reply("y", "bad", False, condition="harmless"),
        reply("z", "bad", 0),
        {
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "fine"},
            ],
            "label": True,
        },
    ]
    found = read(tmp_path, *rows)
    assert found.format == "kto"
    assert [texts(r)[1:] for r in found.records] == [
        ("good", "bad"),
        ("good", "worse"),
        ("fine", "bad"),
        ("fine", "worse"),
    ]
    assert [r.id for r in found.records[:2]] == ["1>2", "1>3"]
    assert [(q.line, q.kind) for q in found.quarantined] == [
        (4, "unpaired"),
        (5, "unpaired"),
        (6, "unpaired"),
        (7, "malformed"),
    ]
    zipped = read(tmp_path, *rows[:3], pairs="adjacent")
    assert [texts(r)[1:] for r in zipped.records] == [("good", "bad")]
    assert [q.line for q in zipped.quarantined] == [3]
