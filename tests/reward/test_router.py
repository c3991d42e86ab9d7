"""The router learns kinds of requests, knows when it does not know, and survives its file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from reward.cli import app
from reward.conditions import Conditions, UnknownCondition
from reward.conditions.router import WEIGHTS, Router, choose, evaluate_router, train_router
from reward.conditions.routing import Example, Routed, RoutingError, query_text
from reward.conditions.templates import draw_queries
from reward.features import hashed

KINDS = {
    "code": ("Write a {} function", "用代码实现{}函数"),
    "poetry": ("Compose a poem about {}", "写一首关于{}的诗"),
    "maths": ("Calculate the sum of {}", "计算{}的总和"),
}
THINGS = [a + b for a in ("sea", "tree", "stone", "cloud", "城", "花", "鸟") for b in "abcdefgh"]


def examples() -> list[Example]:
    return [
        Example(frame.format(thing), name)
        for name, frames in KINDS.items()
        for frame in frames
        for thing in THINGS
    ]


@pytest.fixture(scope="module")
def trained() -> tuple[Router, dict[str, Any]]:
    return train_router(examples(), Conditions.load(), fallback="helpful")


def test_held_out_queries_in_two_languages_find_their_condition(
    trained: tuple[Router, dict[str, Any]],
) -> None:
    router, report = trained
    assert report["accuracy"] > 0.95
    assert report["calibration_error"] < 0.1
    found = router.route(["Write a new function, please", "写一首关于海的诗"])
    assert [r.condition for r in found] == ["code", "poetry"]
    assert all(r.by == "router" and r.confidence and r.confidence > 0.5 for r in found)
    counts = np.array(report["confusion"]["counts"])
    assert counts.sum() == report["queries"] == report["test queries"]


def test_what_it_cannot_tell_goes_to_the_fall_back(trained: tuple[Router, dict[str, Any]]) -> None:
    router, _ = trained
    for query in ("", "   ", "xyzzy qwv", "?!", "龘龘"):
        (routed,) = router.route([query])
        assert (routed.condition, routed.by) == ("helpful", "fall-back")
    assert router.route([]) == []
    rows = router.probabilities(["Write a function", ""])
    assert rows.sum(axis=1) == pytest.approx([1.0, 1.0])


def test_a_saved_router_answers_alike(
    tmp_path: Path, trained: tuple[Router, dict[str, Any]]
) -> None:
    router, report = trained
    loaded = Router.load(router.save(tmp_path / "r", report))
    queries = [e.text for e in examples()[::7]]
    assert loaded.route(queries) == router.route(queries)
    assert evaluate_router(loaded, examples())["accuracy"] > 0.95
    assert not list(tmp_path.rglob("*.p*kl"))


def test_broken_folders_are_refused(tmp_path: Path, trained: tuple[Router, dict[str, Any]]) -> None:
    with pytest.raises(RoutingError, match="no router"):
        Router.load(tmp_path)
    folder = trained[0].save(tmp_path / "r")
    weights = load_file(folder / WEIGHTS)
    save_file({"weights": weights["weights"] * np.float32("nan")}, folder / WEIGHTS)
    with pytest.raises(RoutingError, match="broken"):
        Router.load(folder)
    (folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(RoutingError, match="no router"):
        Router.load(folder)


def test_training_needs_known_conditions_and_enough_queries() -> None:
    conditions = Conditions.load()
    with pytest.raises(UnknownCondition):
        train_router([*examples(), Example("x", "cod")], conditions)
    with pytest.raises(RoutingError, match="two conditions"):
        train_router([e for e in examples() if e.condition == "code"], conditions)
    with pytest.raises(RoutingError, match="too few distinct queries"):
        train_router([Example("x", "code"), Example("y", "maths")], conditions)


def test_two_conditions_are_enough() -> None:
    two = [e for e in examples() if e.condition != "maths"]
    router, report = train_router(two, Conditions.load())
    assert report["accuracy"] > 0.95
    assert router.weights.shape[1] == 2


def test_the_order_field_data_set_router(trained: tuple[Router, dict[str, Any]]) -> None:
    router, _ = trained
    record = {"prompt": [{"role": "user", "content": "Write a sea function"}]}
    assert choose(record | {"condition": "latex"}, "hhh", router) == Routed("latex", "field")
    assert choose(record, "hhh", router) == Routed("hhh", "data set")
    assert (choose(record, router=router).condition) == "code"
    with pytest.raises(RoutingError, match="no 'condition'"):
        choose(record)
    with pytest.raises(RoutingError, match="exactly one name"):
        choose({"condition": ["a", "b"]})
    with pytest.raises(RoutingError, match="no query"):
        query_text({"prompt": [{"role": "system", "content": "x"}]})


def test_templates_fill_every_slot_and_cover_the_registry() -> None:
    drawn = draw_queries(32, 3)
    assert drawn == draw_queries(32, 3)
    assert {e.condition for e in drawn} == set(Conditions.load().names)
    assert not [e.text for e in drawn if "<" in e.text]
    assert len({e.text for e in drawn}) > 0.7 * len(drawn)
    assert any("一" <= c <= "鿿" for e in drawn for c in e.text)


def test_features_do_not_depend_on_the_process() -> None:
    assert hashed("Tea 茶!", 2**15) == pytest.approx(GOLDEN_FEATURES)
    assert hashed("", 2**15) == {}


# `tea`, `茶`, `!` and the two pairs of neighbours: five features of length 1/√5.
GOLDEN_FEATURES = {22450: 0.4472136, 6644: 0.4472136, 32723: 0.4472136, 1162: 0.4472136}
GOLDEN_FEATURES |= {17630: -0.4472136}


def test_the_commands(tmp_path: Path) -> None:
    data, folder = tmp_path / "queries.jsonl", tmp_path / "router"
    rows = [json.dumps({"text": e.text, "condition": e.condition}) for e in examples()]
    data.write_text("\n".join([*rows, "{", '{"text": "x", "condition": "cod"}']) + "\n")
    runner = CliRunner()

    def run(*arguments: object) -> str:
        done = runner.invoke(app, ["route", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    assert "2 records left out" in run("train", folder, data, "--fallback", "hhh")
    assert "confusion matrix" in run("evaluate", folder, data, "--out", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["accuracy"] > 0.95
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text(
        '{"prompt": "Write a sea function", "id": 1}\n{"prompt": "x", "condition": "latex"}\n{}\n'
    )
    assert "1 records left out" in run("apply", folder, prompts, out)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert found[0] == {"prompt": "Write a sea function", "id": 1, "condition": "code"}
    assert found[1]["condition"] == "latex"
    aside = json.loads((tmp_path / "out.quarantined.jsonl").read_text())
    assert aside["line"] == 3
