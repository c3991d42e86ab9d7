"""Packed in, packed out: the padded model gives what each sequence gives alone."""

import itertools
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from actors.batch import Sequences
from actors.critic import value_model
from actors.engines.door import Door, causal_lm
from actors.forward import distributions, entropy_head, logprob_head, over_actions
from tests.actors.samples import alone, random_sequences


def test_logprobs_equal_each_sequence_alone(model_folder: Path) -> None:
    model = causal_lm(str(model_folder))
    door = Door(model, model.get_output_embeddings(), autocast=False)
    batch = random_sequences([9, 4, 17, 2], seed=0)
    (found,) = over_actions(door, [logprob_head(1.0)], batch, 40)
    expected = torch.cat([alone(model, *row) for row in rows_of(batch)])
    assert torch.allclose(found, expected, atol=1e-5)
    assert found[~batch.is_action].abs().sum() == 0


def test_micro_batch_size_and_temperature(model_folder: Path) -> None:
    model = causal_lm(str(model_folder))
    door = Door(model, model.get_output_embeddings(), autocast=False)
    batch = random_sequences([9, 4, 17, 2], seed=0)
    heads = [logprob_head(2.0), entropy_head(2.0)]
    small, large = (over_actions(door, heads, batch, tokens) for tokens in (17, 100))
    assert torch.allclose(small[0], large[0], atol=1e-5)
    assert torch.allclose(small[1], large[1], atol=1e-4)
    (plain,) = over_actions(door, [logprob_head(1.0)], batch, 100)
    assert not torch.allclose(plain, large[0], atol=0.1)
    with pytest.raises(ValueError, match="temperature"):
        over_actions(door, [logprob_head(0.0)], batch, 100)


def test_whole_distributions_are_in_the_order_of_the_actions(model_folder: Path) -> None:
    model = causal_lm(str(model_folder))
    door = Door(model, model.get_output_embeddings(), autocast=False)
    batch = random_sequences([9, 4, 17, 2], seed=0)
    for temperature in (1.0, 2.0):
        found = distributions(door, batch, 17, temperature)
        assert torch.allclose(found.exp().sum(-1), torch.ones(batch.actions))
        (taken,) = over_actions(door, [logprob_head(temperature)], batch, 17)
        of_taken = found.gather(1, batch.tokens[batch.is_action][:, None])[:, 0]
        assert torch.allclose(of_taken, taken[batch.is_action], atol=1e-5)


def test_the_head_sees_action_positions_only(model_folder: Path) -> None:
    model = causal_lm(str(model_folder))
    door = Door(model, model.get_output_embeddings(), autocast=False)
    batch = random_sequences([9, 4], seed=0)
    assert door(batch).shape == (batch.actions, model.config.vocab_size)


def test_dropout_is_switched_off(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        attention_dropout=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = causal_lm(str(tmp_path)).train()
    door = Door(model, model.get_output_embeddings(), autocast=False)
    batch = random_sequences([12], seed=0, vocab=64)
    assert torch.equal(door(batch), door(batch))


def test_value_model_is_the_reward_model_without_its_head(
    model_folder: Path, tmp_path: Path
) -> None:
    scorer = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=1)
    scorer.save_pretrained(tmp_path)
    model = value_model(tmp_path)
    for name, weight in scorer.base_model.named_parameters():
        assert torch.equal(model.body.get_parameter(name), weight)
    batch = random_sequences([9, 4], seed=0)
    values = Door(model, model.value_head, autocast=True)(batch)
    assert values.shape == (batch.actions,)
    assert values.dtype == torch.float32
    assert values.abs().sum() == 0


def rows_of(batch: Sequences) -> list[tuple[list[int], list[bool]]]:
    ends = batch.cu_seqlens.tolist()
    return [
        (batch.tokens[a:b].tolist(), batch.is_action[a:b].tolist())
        for a, b in itertools.pairwise(ends)
    ]
