"""InternLM2: pre-norm decoder with RMSNorm, SwiGLU, rotary positions and grouped queries."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pretrain_core.model.attention import Attention
from pretrain_core.model.config import ModelConfig
from pretrain_core.model.documents import Documents, DocumentsError
from pretrain_core.model.norm import RMSNorm
from pretrain_core.model.rope import Rotary

INIT_STD = 0.02


class FeedForward(nn.Module):
    """SwiGLU: `w2(silu(w1 x) · w3 x)` (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden, config.ffn, bias=False)
        self.w2 = nn.Linear(config.ffn, config.hidden, bias=False)
        self.w3 = nn.Linear(config.hidden, config.ffn, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[tokens, hidden]` → `[tokens, hidden]`."""
        result: Tensor = self.w2(silu(self.w1(hidden)) * self.w3(hidden))
        return result


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.hidden, config.norm_eps)
        self.ffn_norm = RMSNorm(config.hidden, config.norm_eps)

    def forward(self, hidden: Tensor, rotary: Rotary, documents: Documents) -> Tensor:
        """`[tokens, hidden]` → `[tokens, hidden]`."""
        hidden = hidden + self.attention(self.attention_norm(hidden), rotary, documents)
        result: Tensor = hidden + self.feed_forward(self.ffn_norm(hidden))
        return result


class Transformer(nn.Module):
    """The whole model over packed documents.

    `generator` fixes the initial weights; without it torch's global generator is used.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        self.output = nn.Linear(config.hidden, config.vocab_size, bias=False)
        self.tie()
        self.initialise(generator)

    def tie(self) -> None:
        """Share the head's weight with the embedding where the config says so.

        Needed again after `to_empty()`, which gives every module a weight of its own.
        """
        if self.config.tied:
            self.output.weight = self.tok_embeddings.weight

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: N(0, 0.02); wo and w2 of layer i N(0, 0.02 / sqrt(2(i + 1)))."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0.0, INIT_STD, generator=generator)
            elif isinstance(module, RMSNorm):
                module.weight.fill_(1.0)
        for index, block in enumerate(self.layers):
            assert isinstance(block, Block)
            for projection in (block.attention.wo, block.feed_forward.w2):
                projection.weight.mul_(1.0 / math.sqrt(2 * (index + 1)))

    def hidden(self, tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Final normed states of packed `tokens` `[tokens]` → `[tokens, hidden]`.

        `cu_seqlens` `[documents + 1]` goes from 0 to the number of tokens; on the CPU it saves a
        device synchronisation. Raises DocumentsError when it does not fit, or when a document is
        longer than `config.max_positions`.
        """
        documents = Documents.of(cu_seqlens, len(tokens), tokens.device)
        limit = self.config.max_positions
        if documents.longest > limit:
            index = documents.lengths.index(documents.longest)
            raise DocumentsError(
                f"document {index} has {documents.longest} tokens, the model takes {limit} "
                "(max_positions): cut it, or raise max_positions together with rope_base"
            )
        rotary = Rotary.at(documents.positions, self.config.head_dim, self.config.rope_base)
        states: Tensor = self.tok_embeddings(tokens)
        for block in self.layers:
            states = block(states, rotary, documents)
        normed: Tensor = self.norm(states)
        return normed

    def forward(self, tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Logits of packed `tokens` `[tokens]` → `[tokens, vocab]`; see `hidden`."""
        logits: Tensor = self.output(self.hidden(tokens, cu_seqlens))
        return logits
