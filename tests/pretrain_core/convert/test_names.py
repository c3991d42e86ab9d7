"""Names and row orders of weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain_core.convert import ConversionError, fuse_wqkv, split_wqkv
from pretrain_core.convert.names import Layout, from_hf, to_hf
from pretrain_core.model import ModelConfig, Transformer, preset

NANO = preset("nano")


def config_of(heads: int, kv_heads: int, head_dim: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=8, hidden=heads * head_dim, layers=1, heads=heads, kv_heads=kv_heads, ffn=4
    )


def test_fused_rows_are_grouped_by_kv_head() -> None:
    """Four queries, two groups, heads of two rows: row i holds i (report, figure 2)."""
    config = config_of(heads=4, kv_heads=2, head_dim=2)
    fused = torch.arange(16.0)[:, None].expand(16, 8)
    query, key, value = split_wqkv(fused, config)
    assert query[:, 0].tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert key[:, 0].tolist() == [4, 5, 12, 13]
    assert value[:, 0].tolist() == [6, 7, 14, 15]


@given(kv_heads=st.integers(1, 4), per_group=st.integers(1, 4), half=st.integers(1, 3))
def test_fusing_undoes_splitting(kv_heads: int, per_group: int, half: int) -> None:
    config = config_of(kv_heads * per_group, kv_heads, 2 * half)
    rows = kv_heads * (per_group + 2) * 2 * half
    fused = torch.randn(rows, config.hidden)
    assert torch.equal(fuse_wqkv(*split_wqkv(fused, config), config), fused)


def test_one_groups_rows_lie_together_so_that_tensor_parallel_ranks_take_plain_slices() -> None:
    config = config_of(heads=8, kv_heads=4, head_dim=2)
    half = config_of(heads=4, kv_heads=2, head_dim=2)
    fused = torch.randn(4 * 4 * 2, config.hidden)
    whole = split_wqkv(fused, config)
    for rank, shard in enumerate(fused.chunk(2)):
        for mine, all_ in zip(split_wqkv(shard, half), whole, strict=True):
            assert torch.equal(mine, all_.chunk(2)[rank])


def test_names_are_those_of_the_two_families() -> None:
    state = Transformer(NANO).state_dict()
    assert "model.layers.1.attention.wqkv.weight" in to_hf(state, NANO, "internlm2")
    llama = to_hf(state, NANO, "llama")
    assert {
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.norm.weight",
        "lm_head.weight",
    } <= llama.keys()
    ffn = state["layers.0.feed_forward.w3.weight"]
    assert torch.equal(llama["model.layers.0.mlp.up_proj.weight"], ffn)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layout", ["llama", "internlm2"])
def test_there_and_back_changes_nothing(layout: Layout, tied: bool) -> None:
    config = NANO.model_copy(update={"tied": tied})
    state = Transformer(config).state_dict()
    abroad = to_hf(state, config, layout)
    assert tied == (not abroad.keys() & {"lm_head.weight", "output.weight"})
    home = from_hf(abroad, config, layout, state)
    assert home.keys() == state.keys()
    assert all(torch.equal(home[name], state[name]) for name in state)


def test_missing_and_superfluous_weights_are_named() -> None:
    state = Transformer(NANO).state_dict()
    llama = to_hf(state, NANO, "llama")
    llama["score.weight"] = llama.pop("lm_head.weight")
    with pytest.raises(ConversionError, match=r"missing lm_head\.weight; not understood score"):
        from_hf(llama, NANO, "llama", state)
