"""Features of a pair for the light model: what the chosen reply has more of than the rejected."""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reward.conditions import DEFAULT
from reward.features import hashed, matrix
from reward.packing import fill, pad_right
from reward.preference import Preference

if TYPE_CHECKING:
    from reward.model import RewardModel

Array: TypeAlias = npt.NDArray[np.float64]
DIMENSION = 2**16  # shared features; as many again for those of each condition


def text_differences(preferences: Sequence[Preference]) -> Any:
    """Sparse text features [pairs, 2 · DIMENSION], chosen minus rejected.

    The second half repeats the first under the pair's condition, so that opposite preferences do
    not cancel; left empty where all pairs share one condition.
    """
    several = len({p.condition or DEFAULT for p in preferences}) > 1
    rows = []
    for p in preferences:
        chosen, rejected = (_reply_features(side) for side in (p.chosen, p.rejected))
        row = {
            place: chosen.get(place, 0.0) - rejected.get(place, 0.0)
            for place in chosen.keys() | rejected.keys()
        }
        if several:
            mask = zlib.crc32((p.condition or DEFAULT).encode()) % DIMENSION
            row |= {DIMENSION + (place ^ mask): value for place, value in row.items()}
        rows.append(row)
    return matrix(rows, 2 * DIMENSION)


def _reply_features(reply: Sequence[Any]) -> dict[int, float]:
    text = "\n".join(message.content for message in reply)
    features = hashed(text, DIMENSION)
    for place, amount in enumerate((len(text), len(text.split()), text.count("\n"))):
        features[place] = features.get(place, 0.0) + 0.5 * float(np.log1p(amount))
    return features


def state_differences(model: "RewardModel", preferences: Sequence[Preference]) -> Array:
    """Last hidden states at the score token [pairs, hidden], chosen minus rejected, unit spread."""
    inputs = [
        model.input([*p.prompt, *side], p.condition)
        for p in preferences
        for side in (p.chosen, p.rejected)
    ]
    states = representations(model, inputs)
    difference = states[0::2] - states[1::2]
    spread = difference.std(axis=0)
    scaled: Array = difference / np.where(spread > 0, spread, 1.0) / np.sqrt(difference.shape[1])
    return scaled


def representations(model: "RewardModel", inputs: Sequence[Sequence[int]]) -> Array:
    """What the head reads: the network's last hidden state at the score token [inputs, hidden]."""
    import torch

    from reward.model import SCORING_TOKENS

    model.network.eval()
    order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
    states = np.zeros((len(inputs), model.network.config.hidden_size))
    pad = model.tokenizer.pad_token_id
    lengths = [len(inputs[index]) for index in order]
    with torch.inference_mode():
        for rows in fill(order, lengths, SCORING_TOKENS):
            padded = pad_right([inputs[row] for row in rows], pad).to(model.network.device)
            hidden = model.network.base_model(input_ids=padded, use_cache=False).last_hidden_state
            ends = [len(inputs[row]) - 1 for row in rows]
            states[rows] = hidden[range(len(rows)), ends].double().cpu().numpy()
    return states
