"""Train the byte-level BPE tokenizer of a model family, with InternLM2's control tokens."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pretrain_core.chat import CHATML_TEMPLATE
from pretrain_core.errors import InputError

CONTROL_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|action_start|>",
    "<|action_end|>",
    "<|plugin|>",
    "<|interpreter|>",
    "<|score|>",
)


class TokenizerError(InputError):
    """The tokenizer cannot be trained as asked."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, out: Path) -> PreTrainedTokenizerFast:
    """Train on `texts` and save a Hugging Face tokenizer folder with our ChatML template.

    Byte fall-back by construction: every string of any language has an encoding.
    Raises TokenizerError when `vocab_size` leaves no room for the 256 bytes and control tokens.
    """
    floor = 256 + len(CONTROL_TOKENS)
    if vocab_size < floor:
        raise TokenizerError(f"vocab_size {vocab_size} is below {floor} (bytes + control tokens)")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in CONTROL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer=trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML_TEMPLATE
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    return tokenizer
