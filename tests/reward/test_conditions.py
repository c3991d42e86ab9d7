from pathlib import Path

import pytest

from pretrain_core.settings import SettingsError
from reward.conditions import Condition, Conditions, ConditionsError, UnknownCondition

PACKAGED = [
    "default",
    "helpful",
    "harmless",
    "hhh",
    "summarisation",
    "forum",
    "code",
    "maths",
    "latex",
    "creative_writing",
    "poetry",
    "formatted_output",
]


def test_the_packaged_registry_has_the_conditions_of_the_design() -> None:
    conditions = Conditions.load()
    assert conditions.names == PACKAGED
    assert conditions.get("default").system_prompt == ""
    prompts = [c.system_prompt for c in conditions if c.name != "default"]
    assert all(len(p) > 100 for p in prompts)
    assert len(set(prompts)) == len(prompts)
    assert all(c.description for c in conditions)


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownCondition, match=r"known: default, helpful.*mean 'harmless'"):
        Conditions.load().get("harmles")


def test_a_users_file_adds_to_the_packaged_registry(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: configs/conditions/default.yaml\n"
        "conditions:\n  terse:\n    system_prompt: Prefer few words.\n"
    )
    conditions = Conditions.load(file)
    assert conditions.names == [*PACKAGED, "terse"]
    assert conditions.get("terse").system_prompt == "Prefer few words."
    assert conditions.hash != Conditions.load().hash


def test_a_misspelt_key_is_refused_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("conditions:\n  terse:\n    system_promt: Prefer few words.\n")
    with pytest.raises(SettingsError, match=r"mine\.yaml:3.*system_promt"):
        Conditions.load(file)


def test_the_hash_covers_names_and_prompts_only() -> None:
    one = Conditions([Condition("a", "x", "first"), Condition("b", "y")])
    same = Conditions([Condition("b", "y"), Condition("a", "x", "other words")])
    assert one.hash == same.hash
    assert one.hash != Conditions([Condition("a", "x"), Condition("b", "z")]).hash
    assert Conditions.from_dict(one.as_dict()) == one


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([Condition("Bad Name", "x")], "lower-case"),
        ([Condition("a", "x"), Condition("a", "y")], "twice"),
        ([Condition("a", " ")], "empty system_prompt"),
        ([Condition("default", "x")], "means 'none'"),
    ],
)
def test_bad_registries_are_refused(bad: list[Condition], reason: str) -> None:
    with pytest.raises(ConditionsError, match=reason):
        Conditions(bad)


def test_a_subset_keeps_the_default() -> None:
    assert Conditions.load().subset(["code", "maths"]).names == ["code", "maths", "default"]
    with pytest.raises(UnknownCondition):
        Conditions.load().subset(["cod"])


def test_the_version_is_kept_and_hashed(tmp_path: Path) -> None:
    packaged = Conditions.load()
    assert packaged.version == 1
    # Other wording needs another version: models name their conditions by this hash.
    assert packaged.hash == "81d736420ad49454"
    later = Conditions(packaged, 2)
    assert later.hash != packaged.hash
    assert later != packaged
    assert Conditions.from_dict(packaged.as_dict()) == packaged
    assert packaged.subset(["code"]).version == 1
    with pytest.raises(ConditionsError, match="no condition can be named"):
        Conditions([Condition("version", "x")])


def test_models_of_a_registry_without_version_keep_their_hash() -> None:
    old = {"a": {"system_prompt": "x", "description": ""}}
    assert Conditions.from_dict(old).version is None
    assert Conditions.from_dict(old).hash == Conditions([Condition("a", "x")]).hash
