"""Real vLLM in Ray actors: sampling, weight pushes, the probe, and what happens without vLLM."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from actors.group import ActorFailed
from actors.placement import RaySession
from actors.rollout import Finished, Request, Rollout, RolloutSettings, WeightPushError, push
from actors.rollout.engines.hf_engine import HFEngine
from actors.rollout.engines.sampling import nucleus
from actors.rollout.engines.vllm_engine import CPU_BATCH_TOKENS
from actors.rollout.requests import EngineStartError, RequestError, SamplingSettings
from actors.rollout.weights.probe import PROBE_SAMPLING, check_probe, probe_batch, probe_requests
from tests.actors.rollout.support import (
    CONTEXT,
    GREEDY,
    STOP,
    WARM,
    ForgetfulRollout,
    HaltingStream,
    HolderPolicy,
    cut_after,
    make_folder,
    reference_logprobs,
    requests,
    text_inside,
)

SETTINGS = RolloutSettings(
    engine="vllm", max_model_len=CONTEXT, max_num_seqs=32, kv_cache_bytes=2**24
)


@pytest.fixture(scope="module")
def rollout(ray_session: RaySession, untied: tuple[Path, Path]) -> Iterator[ForgetfulRollout]:
    engine = ForgetfulRollout.start(SETTINGS)
    engine.load(untied[0], version=0)
    yield engine
    engine.close()


def sampled(
    rollout: Rollout,
    sampling: SamplingSettings,
    asked: list[Request] | None = None,
    stop: tuple[int, ...] = (STOP,),
) -> dict[str, Finished]:
    found = list(rollout.generate(asked or requests(12), sampling, stop))
    assert len({reply.id for reply in found}) == len(found) == len(asked or requests(12))
    return {reply.id: reply for reply in found}


def greedy_of(folder: Path) -> dict[str, list[int]]:
    """What a fresh engine says; transformers and vLLM agree on every token in fp32."""
    engine = HFEngine(folder, "float32", CONTEXT, 16)
    replies = engine.generate(requests(12), GREEDY, [STOP])
    return {reply.id: reply.tokens for batch in replies for reply in batch}


def tokens_of(replies: dict[str, Finished]) -> dict[str, list[int]]:
    return {name: reply.tokens for name, reply in replies.items()}


def test_replies_are_complete_and_seeded(rollout: Rollout, untied: tuple[Path, Path]) -> None:
    stop = tuple(range(0, 512, 20))
    replies = sampled(rollout, WARM, stop=stop)
    assert (rollout.engine, rollout.version) == ("vllm", 0)
    assert {reply.finish_reason for reply in replies.values()} == {"stop", "length"}
    for reply in replies.values():
        assert WARM.min_new_tokens < len(reply.tokens) <= WARM.max_new_tokens
        assert not set(reply.tokens[:-1]) & set(stop)
        assert (reply.tokens[-1] in stop) == (reply.finish_reason == "stop")
        assert reply.policy_version == [0] * len(reply.tokens)
    assert tokens_of(sampled(rollout, WARM, stop=stop)) == tokens_of(replies)
    alone = requests(12)[5:6]
    assert sampled(rollout, WARM, alone, stop)["r5"].tokens == replies["r5"].tokens
    other = [Request(r.id, r.tokens, r.seed + 1) for r in requests(12)]
    assert tokens_of(sampled(rollout, WARM, other, stop)) != tokens_of(replies)


def test_both_logprobs_are_those_of_the_model(rollout: Rollout, untied: tuple[Path, Path]) -> None:
    reply = sampled(rollout, WARM)["r3"]
    prompt = list(requests(12)[3].tokens)
    engine = HFEngine(untied[0], "float32", CONTEXT, 1)
    with torch.inference_mode():
        logits = engine.model(input_ids=torch.tensor([prompt + reply.tokens])).logits[0].float()
    for index, token in enumerate(reply.tokens):
        row = logits[len(prompt) - 1 + index].log_softmax(-1)
        assert reply.raw_logprobs is not None
        assert reply.raw_logprobs[index] == pytest.approx(row[token].item(), abs=1e-4)
        if index < WARM.min_new_tokens:
            row[STOP] = -torch.inf
        processed = nucleus((row / WARM.temperature).log_softmax(-1)[None], WARM.top_p)[0, token]
        assert reply.behaviour_logprobs[index] == pytest.approx(processed.item(), abs=1e-4)


def test_both_engines_agree_on_greedy_replies(rollout: Rollout, untied: tuple[Path, Path]) -> None:
    replies = sampled(rollout, GREEDY)
    assert tokens_of(replies) == greedy_of(untied[0])
    probes = probe_requests(512, 7)
    batch = probe_batch(probes, list(rollout.generate(probes, PROBE_SAMPLING, ())))
    (found,) = rollout.probe(batch)
    assert check_probe(batch, found, reference_logprobs(untied[0], batch), "float32").tokens == 64


def test_a_text_ends_replies_as_in_the_other_engine(
    rollout: Rollout, untied: tuple[Path, Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    whole = greedy_of(untied[0])
    text = text_inside(whole, tokenizer)
    replies = sampled(rollout, GREEDY.model_copy(update={"stop": (text,)}))
    expected = {name: cut_after(tokens, text, tokenizer) for name, tokens in whole.items()}
    assert tokens_of(replies) == expected
    assert expected != whole
    for name, reply in replies.items():
        assert len(reply.behaviour_logprobs) == len(reply.tokens)
        assert reply.finish_reason == "stop" or expected[name] == whole[name]
    # Nothing of what was ended goes on: the next batch is as ever.
    assert tokens_of(sampled(rollout, GREEDY)) == whole


def test_more_prompt_tokens_than_one_step_takes(rollout: Rollout) -> None:
    long = [Request(f"l{n}", [11 + n] * (CONTEXT - 2), seed=n) for n in range(32)]
    assert 32 * (CONTEXT - 2) > CPU_BATCH_TOKENS
    replies = sampled(rollout, WARM, long, ())
    assert {len(reply.tokens) for reply in replies.values()} == {2}
    assert sampled(rollout, WARM, long[30:], ())["l31"].tokens == replies["l31"].tokens


def test_a_prompt_longer_than_the_context_is_refused_before_work(rollout: Rollout) -> None:
    with pytest.raises(RequestError, match="the prompt has 192 tokens, the context 192"):
        rollout.generate([Request("long", [11] * CONTEXT, 0)], WARM, [STOP])
    reply = sampled(rollout, WARM, [Request("fits", [11] * (CONTEXT - 2), 0)], ())["fits"]
    assert (len(reply.tokens), reply.finish_reason) == (2, "length")


def test_a_push_changes_replies_to_those_of_a_fresh_engine(
    rollout: Rollout, holder: HolderPolicy, untied: tuple[Path, Path]
) -> None:
    assert tokens_of(sampled(rollout, GREEDY)) == greedy_of(untied[0])
    holder.hold(untied[1])
    report = push(holder, rollout, version=1)
    replies = sampled(rollout, GREEDY)
    # The prompts are the same as before: in r1 a stale prefix cache would show.
    assert tokens_of(replies) == greedy_of(untied[1])
    assert {v for reply in replies.values() for v in reply.policy_version} == {1}
    assert report.version == rollout.version == 1
    assert report.buckets == 1
    assert report.probe is not None
    again = push(holder, rollout, version=2)
    assert (again.checksum, again.bytes) == (report.checksum, report.bytes)
    rollout.load(untied[0], version=3)
    assert tokens_of(sampled(rollout, GREEDY)) == greedy_of(untied[0])


def test_replies_that_a_push_cuts_go_on_under_the_new_weights(
    rollout: ForgetfulRollout, holder: HolderPolicy, untied: tuple[Path, Path]
) -> None:
    """Each token is the greedy one of the weights that its version names, its log-probs theirs."""
    rollout.load(untied[0], version=0)
    stop = tuple(range(0, 512, 16))
    sampling = GREEDY.model_copy(update={"max_new_tokens": 40})
    whole = tokens_of(sampled(rollout, sampling, stop=stop))
    holder.hold(untied[1])
    stream = HaltingStream(rollout, sampling, stop)
    stream.submit(requests(12))
    replies = {reply.id: reply for reply in [stream.take()]}
    with stream.paused():
        push(holder, rollout, version=1)
    replies |= {reply.id: reply for reply in (stream.take() for _ in range(11))}
    stream.close()
    old = {name: reply.policy_version.count(0) for name, reply in replies.items()}
    cut = {name for name, reply in replies.items() if 0 < old[name] < len(reply.tokens)}
    assert len(cut) > 3
    for name, reply in replies.items():
        assert reply.policy_version == sorted(reply.policy_version)
        assert reply.tokens[: old[name]] == whole[name][: old[name]]
        assert (reply.tokens[-1] in stop) == (reply.finish_reason == "stop")
        assert not set(reply.tokens[:-1][sampling.min_new_tokens :]) & set(stop)
    engines = [HFEngine(folder, "float32", CONTEXT, 1) for folder in untied]
    for request in (r for r in requests(12) if r.id in cut):
        reply = replies[request.id]
        tokens = [*request.tokens, *reply.tokens]
        rows = [engine.logprobs([tokens])[0][len(request.tokens) :] for engine in engines]
        theirs = [rows[v][at] for at, v in enumerate(reply.policy_version)]
        assert reply.raw_logprobs == pytest.approx(theirs, abs=1e-4)
        rest = replace(request, said=reply.tokens[: old[request.id]])
        batches = engines[1].generate([rest], sampling, stop)
        assert [t for batch in batches for r in batch for t in r.tokens] == reply.tokens[
            old[request.id] :
        ]
    rollout.load(untied[0], version=2)
    assert tokens_of(sampled(rollout, GREEDY)) == greedy_of(untied[0])


def test_an_engine_with_half_of_the_weights_refuses_to_sample(
    rollout: Rollout, holder: HolderPolicy, untied: tuple[Path, Path]
) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    holder.hold(untied[1], drop=name)
    with pytest.raises(WeightPushError, match=f"nothing came for .*{name}"):
        push(holder, rollout, version=4)
    with pytest.raises(ActorFailed, match="the push of version 4 failed half-way"):
        list(rollout.generate(requests(1), WARM, [STOP]))


def test_a_tied_head_left_stale_is_caught_by_the_probe_not_by_the_checksum(
    rollout: ForgetfulRollout, holder: HolderPolicy, tied: tuple[Path, Path]
) -> None:
    # Another architecture, and an engine that is not whole: this starts a fresh process.
    rollout.load(tied[0], version=0)
    assert tokens_of(sampled(rollout, GREEDY)) == greedy_of(tied[0])
    holder.hold(tied[1])
    rollout.forget_heads(True)
    assert push(holder, rollout, version=1, probe=False).bytes > 0
    assert tokens_of(sampled(rollout, GREEDY)) != greedy_of(tied[1])
    with pytest.raises(WeightPushError, match="does not compute with the pushed weights"):
        push(holder, rollout, version=2)
    rollout.forget_heads(False)
    report = push(holder, rollout, version=3)
    assert report.probe is not None
    assert report.probe.max_gap < 1e-4
    assert tokens_of(sampled(rollout, GREEDY)) == greedy_of(tied[1])
    rollout.load(tied[0], version=4)
    assert tokens_of(sampled(rollout, GREEDY)) == greedy_of(tied[0])
    name = "model.layers.0.mlp.down_proj.weight"
    holder.hold(tied[1], widen=name)
    with pytest.raises(WeightPushError, match=rf"{name} \[128, 128\] does not fit"):
        push(holder, rollout, version=5)


def test_vllm_that_cannot_start_fails_with_its_own_first_error(
    ray_session: RaySession, tmp_path: Path
) -> None:
    rollout = Rollout.start(SETTINGS)
    try:
        with pytest.raises(EngineStartError, match=r"no config\.json"):
            rollout.load(tmp_path, version=0)
        narrow = make_folder(tmp_path / "narrow", 0, heads=4)
        with pytest.raises(ActorFailed, match=r"vLLM cannot start .*head_dim=16") as failed:
            rollout.load(narrow, version=0)
        assert isinstance(failed.value.cause, EngineStartError)
    finally:
        rollout.close()


@pytest.fixture
def without_vllm(tmp_path: Path) -> dict[str, str]:
    """An environment in which vLLM is broken, as on a machine that it was not built for."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('no AVX2 here')\n")
    return {"PYTHONPATH": str(tmp_path)}


def test_auto_falls_back_to_hf_with_one_boxed_warning(
    ray_session: RaySession,
    holder: HolderPolicy,
    untied: tuple[Path, Path],
    without_vllm: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = SETTINGS.model_copy(update={"engine": "auto", "world_size": 2, "cpus": 0.5})
    rollout = Rollout.start(settings, env=without_vllm)
    try:
        rollout.load(untied[0], version=0)
        shown = capsys.readouterr().err
        assert shown.count("warning") == 1
        unboxed = " ".join(line.strip("│ ") for line in shown.splitlines())
        assert "no AVX2 here" in unboxed
        # What starts again after a death is what ran.
        assert rollout.engine == rollout.settings.engine == "hf"
        holder.hold(untied[1])
        assert push(holder, rollout, version=1).probe is not None
        assert tokens_of(sampled(rollout, GREEDY)) == greedy_of(untied[1])
        # The policy fails while both engines wait for more: nobody hangs, nobody samples.
        holder.hold(untied[0], fail=True)
        with pytest.raises(ActorFailed, match="policy rank 0 failed: MemoryError"):
            push(holder, rollout, version=2)
        with pytest.raises(ActorFailed, match="the push of version 2 failed half-way"):
            list(rollout.generate(requests(1), WARM, [STOP]))
        rollout.load(untied[0], version=2)
        assert tokens_of(sampled(rollout, GREEDY)) == greedy_of(untied[0])
    finally:
        rollout.close()
