"""A random Llama with a tokenizer of its own texts: what a benchmark trains where none is given."""

from collections.abc import Sequence
from pathlib import Path

import torch

from reward.data import Preference


def make_random_llama(
    folder: Path, texts: Sequence[str], hidden: int, layers: int, heads: int
) -> None:
    """Save one of these sizes to `folder`; half as many key-value heads as heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from pretrain_core.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(texts, 4096, folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def texts_of(records: Sequence[Preference]) -> list[str]:
    """What is said in prompts and preferred replies."""
    return [str(message.content) for r in records for message in (*r.prompt, *r.chosen)]
