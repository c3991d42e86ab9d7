"""Loading: files, `extends`, overrides, origins, and errors that name file, line and key."""

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field

from pretrain_core.settings import (
    ABSENT,
    Resolved,
    Settings,
    SettingsError,
    check,
    difference,
    from_environment,
    load,
    show,
)


class Optimiser(Settings):
    learning_rate: float = 1e-6
    warmup_steps: int = 3


class Source(Settings):
    path: Path
    weight: float = 1.0


class Recipe(Settings):
    optimiser: Optimiser = Optimiser()
    mixture: tuple[Source, ...] = ()
    tracker: Literal["off", "offline", "auto"] = "auto"
    limits: dict[str, float] = Field(default_factory=dict)
    name: str | None = None
    stop: tuple[str, ...] = ()
    root: Path = from_environment("SOME_TEST_ROOT", Path("runs"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOME_TEST_ROOT", raising=False)
    return tmp_path


def problems(text: str, overrides: tuple[str, ...] = ()) -> list[str]:
    Path("bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(Recipe, "bad.yaml", overrides)
    return list(caught.value.problems)


def test_a_file_extends_another_and_overrides_win(folder: Path) -> None:
    (folder / "base").mkdir()
    Path("base/paper.yaml").write_text("optimiser:\n  learning_rate: 1e-4\n  warmup_steps: 9\n")
    Path("tiny.yaml").write_text("extends: base/paper.yaml\nname: x\noptimiser: {warmup_steps: 5}")
    resolved = load(Recipe, "tiny.yaml", ["name=on", "limits.kl=.5"])
    assert resolved.value.optimiser == Optimiser(learning_rate=1e-4, warmup_steps=5)
    assert resolved.value.name == "on"
    assert resolved.value.limits == {"kl": 0.5}
    assert resolved.origins["optimiser.learning_rate"] == "base/paper.yaml:2"
    assert resolved.origins["optimiser.warmup_steps"] == "tiny.yaml:3"
    assert resolved.origins["name"] == "override name"
    assert resolved.origins["tracker"] == "default"


def test_everyday_words_and_numbers_are_what_they_look_like(folder: Path) -> None:
    # YAML 1.1 reads `off` as False, `1e-6` as a text, 12:30 as 750 and 2026-11-21 as a date.
    Path("a.yaml").write_text(
        "tracker: off\noptimiser: {learning_rate: 1e-6, warmup_steps: 1_000}\n"
        "stop: [no, 12:30, 2026-11-21, '1']\n"
    )
    value = load(Recipe, "a.yaml").value
    assert value.tracker == "off"
    assert value.optimiser == Optimiser(learning_rate=1e-6, warmup_steps=1000)
    assert value.stop == ("no", "12:30", "2026-11-21", "1")


def test_an_override_reaches_into_a_list(folder: Path) -> None:
    Path("a.yaml").write_text("mixture:\n  - path: a\n  - path: b\n    weight: 2\n")
    resolved = load(Recipe, "a.yaml", ["mixture.1.weight=0.5"])
    assert [source.weight for source in resolved.value.mixture] == [1.0, 0.5]
    assert resolved.origins["mixture.1.weight"] == "override mixture.1.weight"
    assert resolved.origins["mixture.0.path"] == "a.yaml:2"
    with pytest.raises(SettingsError, match="'2' is no index of the list of 2 values"):
        load(Recipe, "a.yaml", ["mixture.2.weight=1"])


def test_the_environment_is_an_origin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TEST_ROOT", "elsewhere")
    resolved = load(Recipe)
    assert resolved.value.root == Path("elsewhere")
    assert resolved.origins["root"] == "environment SOME_TEST_ROOT"


def test_unknown_keys_name_place_allowed_keys_and_the_nearest(folder: Path) -> None:
    nested, moved = problems("optimiser:\n  learning_rat: 3\nwarmup_steps: 2\n")
    assert nested == (
        "bad.yaml:2: optimiser.learning_rat: unknown key; did you mean 'learning_rate'? "
        "(allowed here: learning_rate, warmup_steps)"
    )
    assert moved.startswith(
        "bad.yaml:3: warmup_steps: unknown key; did you mean 'optimiser.warmup_steps'?"
    )
    (listed,) = problems("mixture:\n  - path: a\n    wieght: 2\n")
    assert listed.startswith("bad.yaml:3: mixture.0.wieght: unknown key; did you mean 'weight'?")
    (override,) = problems("", ("optimiser.warmup=2",))
    assert override.startswith("override optimiser.warmup: unknown key; did you mean 'warmup_s")


def test_every_type_error_is_one_readable_line(folder: Path) -> None:
    lines = problems(
        "optimiser:\n  learning_rate: fast\n  warmup_steps: true\n"
        "tracker: ofline\nname: 12\nmixture: [{weight: 2}]\n"
    )
    assert lines == [
        "bad.yaml:2: optimiser.learning_rate: expected a number, got 'fast'",
        "bad.yaml:3: optimiser.warmup_steps: expected a number, got a flag",
        "bad.yaml:6: mixture.0.path: missing, and it has no default",
        "bad.yaml:4: tracker: expected 'off', 'offline' or 'auto', got 'ofline'; "
        "did you mean 'offline'?",
        "bad.yaml:5: name: expected a text (put it in quotes), got 12",
    ]
    assert problems("", ("optimiser.learning_rate=x",)) == [
        "override optimiser.learning_rate: expected a number, got 'x'"
    ]
    assert problems("optimiser: 3") == [
        "bad.yaml:1: optimiser: expected a mapping of `key: value` lines, got 3"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nname: b\n", "bad.yaml:2: name: given twice, first at bad.yaml:1"),
        ("- a\n", "bad.yaml:1: the file must hold"),
        ("stop: [a, b\n", "bad.yaml:2: not valid YAML"),
        ("name: !!python/object/apply:os.getcwd []\n", "bad.yaml:1: name"),
        ("name: !!python/name:os.getcwd x\n", "is not allowed in settings"),
        ("optimiser: &a {learning_rate: *a}\n", "an alias points back into itself"),
        ("extends: [a.yaml]\n", "bad.yaml:1: extends: expected the path of one YAML file"),
        ("optimiser: {learning_rate: .nan}\n", "expected a finite number"),
    ],
)
def test_broken_documents_name_the_line(folder: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(problems(text))


@pytest.mark.parametrize("override", ["name", "=3", "a..b=1", ".name=2"])
def test_an_override_without_key_or_value_is_refused(folder: Path, override: str) -> None:
    with pytest.raises(SettingsError, match=r"write it as a\.b\.c=VALUE"):
        load(Recipe, None, [override])


def test_a_missing_file_names_the_nearest(folder: Path) -> None:
    Path("tiny.yaml").write_text("name: x\n")
    with pytest.raises(SettingsError, match=r"tyni\.yaml: no such file; nearest: tiny\.yaml"):
        load(Recipe, "tyni.yaml")
    with pytest.raises(SettingsError, match=r"configs/ppo/paper\.yml: no such file; nearest: conf"):
        load(Recipe, "configs/ppo/paper.yml")
    with pytest.raises(SettingsError, match="is a folder"):
        load(Recipe, folder)
    assert "bad.yaml:1: extends: tinny.yaml: no such file" in problems("extends: tinny.yaml")[0]


def test_files_that_extend_each_other_are_refused(folder: Path) -> None:
    Path("a.yaml").write_text("extends: b.yaml\n")
    Path("b.yaml").write_text("name: x\nextends: a.yaml\n")
    with pytest.raises(SettingsError, match=r"b\.yaml:2: .*a\.yaml -> b\.yaml -> a\.yaml"):
        load(Recipe, "a.yaml")


def test_a_packaged_preset_is_found_from_anywhere(folder: Path) -> None:
    Path("mine.yaml").write_text("extends: configs/ppo/no-such-preset.yaml\n")
    with pytest.raises(SettingsError, match=r"nearest: configs/ppo/"):
        load(Recipe, "mine.yaml")


def test_text_and_checks_of_the_command_line(folder: Path) -> None:
    Path("a.yaml").write_text("name: x\nstop: [a]\n")
    assert check(Recipe, "a.yaml", ["tracker=off"]) == (
        "a.yaml: good; 8 values: 5 from defaults, 2 from a.yaml, 1 from overrides"
    )
    lines = show(Recipe, "a.yaml").splitlines()
    assert lines[0] == "optimiser:"
    assert lines[1].split() == ["learning_rate:", "1e-06", "#", "default"]


def test_difference_lists_what_changed() -> None:
    paper, tiny = load(Recipe), load(Recipe, None, ["optimiser.learning_rate=1e-3", "limits.a=1"])
    assert difference(paper, tiny) == [
        ("optimiser.learning_rate", 1e-6, 1e-3),
        ("limits", {}, ABSENT),
        ("limits.a", ABSENT, 1.0),
    ]


def test_settings_made_in_python_say_so() -> None:
    resolved = Resolved.of(Recipe(name="x", optimiser=Optimiser(warmup_steps=1)))
    assert resolved.origins["name"] == "code"
    assert resolved.origins["optimiser.warmup_steps"] == "code"
    assert resolved.origins["optimiser.learning_rate"] == "default"


texts = st.text(max_size=12)
leaves: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts
)


class Anything(Settings):
    name: str = ""
    free: dict[str, Any] = Field(default_factory=dict)


@hypothesis_settings(max_examples=50, deadline=None)
@given(
    texts,
    st.dictionaries(
        st.sampled_from(["a", "y", "on", "0", "1e3", "é", "x y", "#"]),
        st.recursive(
            leaves,
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from(["a", "b", "null"]), inner, max_size=2),
            ),
            max_leaves=6,
        ),
        max_size=4,
    ),
)
def test_saved_settings_load_to_the_same_values(
    tmp_path_factory: pytest.TempPathFactory, name: str, free: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "again.yaml"
    resolved = Resolved.of(Anything(name=name, free=free))
    path.write_text(resolved.to_yaml(), encoding="utf-8")
    assert load(Anything, path).value == resolved.value
