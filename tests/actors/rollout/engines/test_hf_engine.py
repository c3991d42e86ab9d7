"""The fall-back engine alone, in this process."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from actors.rollout.engines.hf_engine import HFEngine
from actors.rollout.engines.protocol import Reply
from actors.rollout.engines.sampling import nucleus
from actors.rollout.requests import EngineStartError, Request, SamplingSettings
from actors.rollout.weights.rendezvous import Rendezvous
from actors.rollout.weights.wire import WeightPushError, WeightSender
from tests.actors.rollout.support import (
    CONTEXT,
    GREEDY,
    STOP,
    WARM,
    cut_after,
    make_folder,
    requests,
    text_inside,
)


@pytest.fixture(scope="module")
def engine(untied: tuple[Path, Path]) -> HFEngine:
    return HFEngine(untied[0], "float32", CONTEXT, max_num_seqs=7)


def sampled(
    engine: HFEngine, asked: list[Request], sampling: SamplingSettings, stop: list[int]
) -> dict[str, Reply]:
    return {
        reply.id: reply for replies in engine.generate(asked, sampling, stop) for reply in replies
    }


def test_replies_depend_on_their_own_seed_alone(engine: HFEngine) -> None:
    asked = requests(16)
    together = sampled(engine, asked, WARM, [STOP])
    assert set(together) == {request.id for request in asked}
    for request in asked[3::4]:
        assert sampled(engine, [request], WARM, [STOP])[request.id].tokens == (
            together[request.id].tokens
        )
    other = [Request(r.id, r.tokens, r.seed + 1) for r in asked]
    assert sampled(engine, other, WARM, [STOP]) != together


def test_lengths_stop_tokens_and_reasons(engine: HFEngine) -> None:
    asked = requests(16)
    stop = list(range(0, 512, 20))
    replies = sampled(engine, asked, WARM, stop)
    assert {reply.finish_reason for reply in replies.values()} == {"stop", "length"}
    for reply in replies.values():
        assert WARM.min_new_tokens < len(reply.tokens) <= WARM.max_new_tokens
        assert not set(reply.tokens[:-1]) & set(stop)
        assert (reply.tokens[-1] in stop) == (reply.finish_reason == "stop")
        assert len(reply.behaviour_logprobs) == len(reply.raw_logprobs or []) == len(reply.tokens)


def test_a_text_ends_the_replies_that_say_it_and_stays_in_them(
    engine: HFEngine, tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = requests(16)
    whole = {name: reply.tokens for name, reply in sampled(engine, asked, GREEDY, [STOP]).items()}
    text = text_inside(whole, tokenizer)
    stopping = GREEDY.model_copy(update={"stop": ("never said at all", text)})
    replies = sampled(engine, asked, stopping, [STOP])
    expected = {name: cut_after(tokens, text, tokenizer) for name, tokens in whole.items()}
    assert {name: reply.tokens for name, reply in replies.items()} == expected
    cut = [name for name, tokens in whole.items() if len(expected[name]) < len(tokens)]
    assert cut
    assert all(replies[name].finish_reason == "stop" for name in cut)


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="would end every reply"):
        SamplingSettings(stop=("",))


def test_both_logprobs_are_those_of_the_model(engine: HFEngine) -> None:
    request = requests(1)[0]
    reply = sampled(engine, [request], WARM, [STOP])[request.id]
    tokens = [*request.tokens, *reply.tokens]
    with torch.inference_mode():
        logits = engine.model(input_ids=torch.tensor([tokens])).logits[0].float()
    at = len(request.tokens) - 1
    for index, token in enumerate(reply.tokens):
        row = logits[at + index].log_softmax(-1)
        assert reply.raw_logprobs is not None
        assert reply.raw_logprobs[index] == pytest.approx(row[token].item(), abs=1e-4)
        if index < WARM.min_new_tokens:
            row[STOP] = -torch.inf
        processed = nucleus((row / WARM.temperature).log_softmax(-1)[None], WARM.top_p)[0, token]
        assert reply.behaviour_logprobs[index] == pytest.approx(processed.item(), abs=1e-4)
    assert engine.logprobs([tokens])[0][at + 1 :] == pytest.approx(reply.raw_logprobs, abs=1e-4)


def test_a_reply_ends_where_the_context_ends(engine: HFEngine) -> None:
    request = Request("long", [11] * (CONTEXT - 4), 0)
    reply = sampled(engine, [request], WARM, [])["long"]
    assert (len(reply.tokens), reply.finish_reason) == (4, "length")


def test_a_push_brings_the_new_model(untied: tuple[Path, Path]) -> None:
    engine = HFEngine(untied[0], "float32", CONTEXT, 8)
    fresh = HFEngine(untied[1], "float32", CONTEXT, 8)
    place = Rendezvous(host="127.0.0.1")
    address = place.open(2, "float32", 2**16, 20.0)
    with ThreadPoolExecutor(1) as pool:
        arriving = pool.submit(engine.receive, address, 1)
        sent = WeightSender(address).send(fresh.model.named_parameters())
        assert arriving.result() == sent
    asked = requests(8)
    assert sampled(engine, asked, GREEDY, [STOP]) == sampled(fresh, asked, GREEDY, [STOP])
    engine.reload(untied[0])
    assert sampled(engine, asked, GREEDY, [STOP]) != sampled(fresh, asked, GREEDY, [STOP])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, r"nothing came for \['model.norm.weight'\]"),
        ({"model.norm.weight": torch.ones(3)}, r"model.norm.weight arrived as \[3\]"),
        ({"adapter.weight": torch.ones(3)}, "no parameter 'adapter.weight'"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    untied: tuple[Path, Path], change: dict[str, torch.Tensor | None], message: str
) -> None:
    engine = HFEngine(untied[0], "float32", CONTEXT, 8)
    weights = {n: p.detach().clone() for n, p in engine.model.named_parameters()} | change
    place = Rendezvous(host="127.0.0.1")
    address = place.open(2, "float32", 2**30, 20.0)
    with ThreadPoolExecutor(1) as pool:
        arriving = pool.submit(engine.receive, address, 1)
        WeightSender(address).send([(n, w) for n, w in weights.items() if w is not None])
        with pytest.raises(WeightPushError, match=message):
            arriving.result()


def test_folders_that_cannot_be_an_engine(tmp_path: Path, untied: tuple[Path, Path]) -> None:
    with pytest.raises(EngineStartError, match="exceeds the 512 positions"):
        HFEngine(untied[0], "float32", 4096, 8)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineStartError, match="HF cannot load"):
        HFEngine(tmp_path, "float32", CONTEXT, 8)
    engine = HFEngine(untied[0], "float32", CONTEXT, 8)
    assert engine.fits(untied[1])
    assert not engine.fits(make_folder(tmp_path / "tied", 0, tied=True))
