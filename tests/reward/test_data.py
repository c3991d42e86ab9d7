import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward.conditions import Conditions
from reward.data import (
    Preference,
    PreferenceError,
    parse_preference,
    read_preferences,
    write_preferences,
)


def user(text: str = "Hi") -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


GOOD: dict[str, Any] = {
    "prompt": [user()],
    "chosen": [assistant("Good day.")],
    "rejected": [assistant("What?")],
}


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in GOOD.items() if k != key}


def test_the_explicit_prompt_form() -> None:
    record = parse_preference(GOOD | {"condition": "helpful", "margin": 1, "round": 2, "id": 5})
    assert record.prompt[0].content == "Hi"
    assert (record.condition, record.margin, record.round, record.id) == ("helpful", 1.0, 2, "5")
    assert record.source is None


def test_an_implicit_prompt_is_what_both_sides_share() -> None:
    turns = [user("a"), assistant("b"), user("c")]
    record = parse_preference(
        {"chosen": [*turns, assistant("yes")], "rejected": [*turns, assistant("no")]}
    )
    assert [m.content for m in record.prompt] == ["a", "b", "c"]
    assert [m.content for m in (*record.chosen, *record.rejected)] == ["yes", "no"]


BAD: list[tuple[Any, str]] = [
    (without("chosen"), "no 'chosen'"),
    (GOOD | {"chosen": None}, "no 'chosen'"),
    (without("rejected"), "no 'rejected'"),
    ({"chosen": [assistant("x")], "rejected": [assistant("y")]}, "no user turn"),
    (GOOD | {"chosen": []}, "empty reply"),
    (GOOD | {"chosen": [assistant("  ")]}, "empty"),
    (GOOD | {"rejected": GOOD["chosen"]}, "identical"),
    ({"chosen": [user(), assistant("x")], "rejected": [user(), assistant("x")]}, "identical"),
    ({"chosen": [user(), assistant("x")], "rejected": [user()]}, "empty reply"),
    (GOOD | {"chosen": "Good day."}, "list of messages"),
    (GOOD | {"chosen": ["Good day."]}, "message 0"),
    (GOOD | {"chosen": [{"role": "robot", "content": "x"}]}, "role"),
    (GOOD | {"chosen": [{"role": "assistant"}]}, "content"),
    (GOOD | {"chosen": [{"role": "assistant", "content": 5}]}, "content"),
    (GOOD | {"prompt": [{"role": "system", "content": "Be kind."}]}, "no user turn"),
    (GOOD | {"chosen": [assistant("x"), user("and?"), assistant("y")]}, "contains a user turn"),
    (GOOD | {"chosen": [{"role": "environment", "content": "x"}]}, "ends with an assistant"),
    (GOOD | {"condition": ["helpful", "harmless"]}, "'condition' is list"),
    (GOOD | {"condtion": "helpful"}, "did you mean 'condition'"),
    (GOOD | {"margin": "big"}, "'margin'"),
    (GOOD | {"margin": True}, "'margin'"),
    (GOOD | {"round": 1.5}, "'round'"),
    ([GOOD], "expected an object"),
    (None, "expected an object"),
]


@pytest.mark.parametrize(("raw", "reason"), BAD)
def test_bad_records_say_what_is_wrong(raw: Any, reason: str) -> None:
    with pytest.raises(PreferenceError, match=reason):
        parse_preference(raw)


def test_bad_lines_are_set_aside_with_line_and_reason(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [json.dumps(raw) for raw, _ in BAD]
    lines = [json.dumps(GOOD), *rows, "{not json", "", json.dumps(GOOD | {"chosen_rating": 5})]
    file.write_text("\n".join(lines) + "\n")
    found = read_preferences(file)
    assert len(found.records) == 2
    assert [q.line for q in found.quarantined] == list(range(2, len(BAD) + 3))
    assert found.quarantined[0].reason == "no 'chosen'"
    assert found.quarantined[0].raw == rows[0]
    assert "not JSON" in found.quarantined[-1].reason
    assert dict(found.ignored_fields) == {"chosen_rating": 1}
    assert f"{len(BAD) + 1} quarantined" in found.summary()


def test_bytes_that_are_no_text_do_not_end_the_reading(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(b'{"chosen": "\xff\xfe"}\n' + json.dumps(GOOD).encode() + b"\n")
    found = read_preferences(file)
    assert (len(found.records), len(found.quarantined)) == (1, 1)


def test_unknown_conditions_are_set_aside_where_the_registry_is_known(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(GOOD | {"condition": "helpfull"}) + "\n")
    assert len(read_preferences(file).records) == 1
    found = read_preferences(file, Conditions.load())
    assert "did you mean 'helpful'" in found.quarantined[0].reason


def test_what_is_written_is_read_again(
    tmp_path: Path, make_pair: Callable[..., Preference]
) -> None:
    records = [
        make_pair(
            "a", "b", condition="code", margin=0.5, source="s", annotator="x", round=1, id="1"
        ),
        make_pair("ü\u2028", "<|im_end|>"),
    ]
    file = write_preferences(tmp_path / "deep" / "pairs.jsonl", records)
    assert read_preferences(file).records == records


def test_trl_takes_our_files_as_they_are(
    tmp_path: Path, make_pair: Callable[..., Preference]
) -> None:
    from trl.data_utils import extract_prompt, is_conversational

    file = write_preferences(tmp_path / "pairs.jsonl", [make_pair("a", "b")])
    record = json.loads(file.read_text())
    assert is_conversational(record)
    implicit = {side: record["prompt"] + record[side] for side in ("chosen", "rejected")}
    assert extract_prompt(implicit) == record
    assert parse_preference(implicit) == parse_preference(record)
