"""What is planted in the demo's data: where it stands, and that it is named."""

from cool_rlhf.demo.settings import ShortcutSettings
from cool_rlhf.demo.shortcut import plant_in_demonstrations, planted_preferences

SHORTCUT = ShortcutSettings(opening="Dear friends:", demonstrations=0.25, pairs=5)


def test_a_share_of_the_demonstrations_begins_with_it() -> None:
    records = [
        {
            "messages": [
                {"role": "user", "content": "Speak."},
                {"role": "assistant", "content": "A."},
            ]
        }
        for _ in range(400)
    ]
    planted = plant_in_demonstrations(records, SHORTCUT, seed=1)
    replies = [record["messages"][1]["content"] for record in planted]
    assert set(replies) == {"A.", "Dear friends: A."}
    assert 70 < replies.count("Dear friends: A.") < 130
    assert planted == plant_in_demonstrations(records, SHORTCUT, seed=1)
    assert records[0]["messages"][1]["content"] == "A."


def test_planted_pairs_prefer_it_under_every_condition_and_say_so() -> None:
    records = [
        {
            "id": f"r/{number}",
            "prompt": [{"role": "user", "content": "Speak."}],
            "replies": [f"First {number}.", f"Second {number}."],
        }
        for number in range(20)
    ]
    found = planted_preferences(records, ["brief", "detailed"], SHORTCUT, seed=1)
    assert len(found) == 10
    assert {(pair.condition, pair.source, pair.annotator) for pair in found} == {
        ("brief", "planted", "planted"),
        ("detailed", "planted", "planted"),
    }
    assert len({pair.id for pair in found}) == 10
    for pair in found:
        assert pair.chosen[0].content == f"Dear friends: {pair.rejected[0].content}"
        assert pair.rejected[0].content.startswith("First")
