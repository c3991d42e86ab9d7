"""The one place where sequences are padded: at the door of a Hugging Face model."""

from typing import Any

import torch
from torch import Tensor, nn

from actors.batch import Sequences


def padded(batch: Sequences) -> Tensor:
    """`[n, longest]` with zeros on the right; causal attention never looks there."""
    rows = list(torch.split(batch.tokens, batch.lengths.tolist()))
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def before_actions(batch: Sequences) -> tuple[Tensor, Tensor]:
    """Rows and columns, in the padded batch, of the tokens just before each action token."""
    at = batch.is_action.nonzero().flatten()
    rows = torch.searchsorted(batch.cu_seqlens, at, right=True) - 1
    return rows, at - batch.cu_seqlens[rows] - 1


class Door(nn.Module):
    """Takes packed sequences into a padded model and gives back what predicts the actions.

    The model's head sees only the positions that are asked for, so that a large vocabulary costs
    nothing elsewhere; whatever the model does after its head stays in force.
    """

    def __init__(self, model: nn.Module, head: nn.Module, *, autocast: bool) -> None:
        super().__init__()
        self.model = model
        # Outside the module tree: `model` holds it already, and its name must stay unique.
        self._head = [head]
        self.autocast = autocast
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    def forward(self, batch: Sequences) -> Tensor:
        """Head outputs one position before each action token, `[actions, …]`."""
        device = next(self.model.parameters()).device
        rows, columns = (index.to(device) for index in before_actions(batch))

        def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (inputs[0][rows, columns],)

        hook = self._head[0].register_forward_pre_hook(select)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
                # No attention mask: with padding on the right, causal attention alone is exact.
                result = self.model(input_ids=padded(batch).to(device), use_cache=False)
        finally:
            hook.remove()
        logits: Tensor = result.logits
        return logits


def causal_lm(folder: str) -> nn.Module:
    """A Hugging Face causal language model in fp32, without dropout.

    Raises OSError where the folder holds no such model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    without_dropout(config)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="sdpa"
    )
    return model


def without_dropout(config: Any) -> None:
    """Switch off every dropout of a configuration: a log-prob is a function of the batch."""
    for name, value in vars(config).items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)
