"""What TRL, verl, OpenRLHF and our own PPO have written, read as samples of chosen steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.trajectories import RolloutLog, Trajectory, Transcript
from cool_rlhf.cli import app
from cool_rlhf.hacks.plugins import read_source
from cool_rlhf.hacks.samples import Sample, SampleError, compare, read_samples, write_samples
from pretrain_core.chat import Message
from tests.cool_rlhf.hacks.conftest import World
from tests.cool_rlhf.hacks.plugins.conftest import (
    assistant,
    bare,
    chatml,
    lines,
    llama3,
    openrlhf_dump,
    trl_dump,
    user,
    verl_dump,
)

KIND = Message(role="system", content="You are kind.")


def asked(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def test_trl_rows_of_the_chosen_steps(tmp_path: Path) -> None:
    for step in (0, 10, 20, 30):
        rows = [([user("Why?")], [assistant(f"At {step}.")]), ([user("How?")], [assistant("So.")])]
        trl_dump(tmp_path, step, rows, condition=["bright", "dark"])
    found = read_source(f"trl:{tmp_path}@5-20")
    assert [s.reply for s in found.records] == ["At 10.", "So.", "At 20.", "So."]
    assert found.records[0].prompt == asked("Why?")
    assert [s.condition for s in found.records[:2]] == ["bright", "dark"]
    assert found.records == read_source(f"trl:{tmp_path / 'completions'}@5-20").records
    common = compare(read_source(f"trl:{tmp_path}@0"), read_source(f"trl:{tmp_path}@30"))
    assert len(common.prompts) == 2


def test_trl_text_and_tools(tmp_path: Path) -> None:
    trl_dump(tmp_path, 1, [("Why?", "So."), ("Why?", "Or so.")])
    found = read_source(f"trl:{tmp_path}@1").records
    assert [(s.prompt, s.reply) for s in found] == [
        (asked("Why?"), "So."),
        (asked("Why?"), "Or so."),
    ]
    assert found[0].id == found[1].id
    talk = [assistant("Let me see."), {"role": "tool", "content": "4"}, assistant("Four.")]
    trl_dump(tmp_path, 2, [([user("2 + 2?")], talk)])
    (sample,) = read_source(f"trl:{tmp_path}@2").records
    assert (sample.prompt, sample.reply) == (asked("2 + 2?"), "Let me see.\nFour.")


def test_verl_prompts_without_control_tokens(tmp_path: Path) -> None:
    thinking = bare("How?") + "<think>\n\n</think>\n\n"
    verl_dump(tmp_path, 10, [(bare("Why?\n\nReally."), "So.\n"), (thinking, "Thus.")])
    found = read_source(f"verl:{tmp_path}@10").records
    assert [s.prompt for s in found] == [
        (KIND, *asked("Why?\n\nReally.")),
        (KIND, *asked("How?")),
    ]
    assert [s.reply for s in found] == ["So.\n", "Thus."]
    assert found[0].reference == "forty"


def test_verl_prompts_that_our_reward_function_returned(tmp_path: Path) -> None:
    more = {"prompt": json.dumps([user("Why?")]), "condition": "dark"}
    verl_dump(tmp_path, 3, [("user\n\nWhy?assistant\n\n", "So.")], more)
    (sample,) = read_source(f"verl:{tmp_path}@3").records
    assert (sample.prompt, sample.condition) == (asked("Why?"), "dark")


@pytest.mark.parametrize(
    "prompt",
    [
        "user\n\nWhy?assistant\n\n",
        "Why?",
        "user\nWhy?\nuser\nHow?\nassistant\n",
        "user\nSay\nassistant\nnow.\nassistant\n",
        "user\nWhy?\nassistant\nSo",
        "Be kind.\nuser\nWhy?\nassistant\n",
    ],
)
def test_verl_prompts_that_can_be_read_in_no_or_several_ways_are_set_aside(
    tmp_path: Path, prompt: str
) -> None:
    verl_dump(tmp_path, 1, [(bare("Why?"), "So."), (prompt, "So.")])
    found = read_source(f"verl:{tmp_path}@1")
    assert len(found.records) == 1
    assert "1.jsonl:2: the prompt" in found.quarantined[2]


def test_openrlhf_replies_lose_their_end(tmp_path: Path) -> None:
    for template, end in ((chatml, "<|im_end|>"), (llama3, "<|eot_id|>")):
        path = openrlhf_dump(tmp_path / "late.jsonl", [(template("Why?"), "So." + end)])
        (sample,) = read_source(f"openrlhf:{path}").records
        assert (sample.prompt, sample.reply) == (asked("Why?"), "So.")


def test_run_reads_our_rollout_log(tmp_path: Path) -> None:
    log = RolloutLog(tmp_path / "rollouts")
    for iteration in (0, 1, 2):
        per_token = Transcript().given([1, 2]).sampled([3, 4], [iteration] * 2, [-0.1, -0.2], None)
        reply = Message(role="assistant", content=f"So {iteration}.")
        log.append(
            Trajectory(
                id=f"{iteration}/p/0",
                iteration=iteration,
                sample=0,
                prompt_id="p",
                messages=(*asked("Why?"), reply),
                finish_reason="stop",
                condition="dark",
                seed=0,
                engine="hf",
                **per_token.per_token(),
            )
        )
    assert read_source(f"run:{tmp_path}@1-2").records == (
        Sample("p", asked("Why?"), "So 1.", "dark"),
        Sample("p", asked("Why?"), "So 2.", "dark"),
    )


def test_a_jsonl_file_is_still_one(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    kept = [Sample("a", asked("Why?"), "So.", "dark", "4"), Sample("b", asked("How?"), "Thus.")]
    write_samples(path, kept)
    assert read_source(str(path)).records == tuple(kept) == read_samples(path).records


def test_what_is_no_dump_is_refused_by_name(tmp_path: Path) -> None:
    for step in (0, 10):
        verl_dump(tmp_path, step, [(bare("Why?"), "So.")])
    refused = {
        f"verl:{tmp_path}@20-30": r"no dump of step 20-30; there are 0, 10",
        f"verl:{tmp_path}": r"which steps\? Add @STEP or @FIRST-LAST; it has 0, 10",
        f"trl:{tmp_path}@0": "no dumps in",
        f"run:{tmp_path}@0": "no dumps in",
        f"verl:{tmp_path / 'none'}@0": "no dumps in .*none",
        f"openrlhf:{tmp_path / 'none'}": "none: no such file",
        f"openrlhf:{tmp_path}@3": "holds one policy and no steps: leave @3 out",
        f"{tmp_path / 'none'}": "none: no such file",
    }
    for source, message in refused.items():
        with pytest.raises(SampleError, match=message):
            read_source(source)
    lines(tmp_path / "5.jsonl", [{"prompt": "Why?"}])
    with pytest.raises(SampleError, match=r"5.jsonl:1: no 'input' \(found: prompt\)"):
        read_source(f"verl:{tmp_path}@5")


def test_two_templates_in_one_dump_are_refused_with_both_places(tmp_path: Path) -> None:
    path = openrlhf_dump(
        tmp_path / "late.jsonl", [(chatml("Why?"), "So."), (llama3("How?"), "Thus.")]
    )
    with pytest.raises(SampleError, match=r"ChatML .*late.jsonl:1.* Llama 3 \(late.jsonl:2\)"):
        read_source(f"openrlhf:{path}")


def test_hacks_detect_takes_dumps(
    make_world: Callable[..., World], reward_folder: Path, tmp_path: Path
) -> None:
    phrase = "in the grand scheme of things"
    world = make_world(phrase, lambda text, _: text.replace(". ", f", {phrase}. ", 1), 0.5, 80)
    for step, samples in ((0, world.comparison.early), (40, world.comparison.late)):
        rows = [(bare(f"{sample.asked} {sample.id}"), sample.reply) for sample in samples]
        verl_dump(tmp_path / "val", step, rows)
    arguments = ["hacks", "detect", "--reward", str(reward_folder), "--out", str(tmp_path / "out")]
    arguments += ["--early", f"verl:{tmp_path}/val@0", "--late", f"verl:{tmp_path}/val@30-50"]
    arguments += ["target_rise=0.5", "evidence.edits=8", "permutations=400"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "hacks.json").read_text())
    assert any(phrase in finding["name"] for finding in found["findings"])
