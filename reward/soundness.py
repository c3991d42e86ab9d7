"""Is a folder a sound reward model? Checked without building the network."""

from pathlib import Path

from pretrain_core.runs.files import RunError, read_json
from reward.card import RewardModelError, read_card
from reward.inputs import score_token_id

PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
HEAD = "score.weight"


def check_reward_model(folder: Path) -> None:
    """Raise RewardModelError for a wrong card, a wrong head, NaN in the weights or pickled files.

    RewardInputError for a tokenizer without a usable score token.
    """
    from transformers import AutoTokenizer

    from reward.model import derived_version

    card = read_card(folder)
    pickled = sorted(file.name for file in folder.rglob("*") if file.suffix in PICKLED)
    if pickled:
        raise RewardModelError(
            f"{folder}: {', '.join(pickled)}: pickled files can run code when loaded; keep "
            "safetensors only"
        )
    try:
        config = read_json(folder / "config.json")
    except RunError as error:
        raise RewardModelError(str(error)) from error
    # transformers leaves its default of two labels out of the file.
    labels = len(config["id2label"]) if "id2label" in config else 2
    if labels != 1:
        raise RewardModelError(f"{folder}: config.json has {labels} labels, a reward model has one")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    score_token_id(tokenizer, card.score_token)
    if config.get("pad_token_id") != tokenizer.pad_token_id:
        raise RewardModelError(
            f"{folder}: pad token {tokenizer.pad_token_id} of the tokenizer, "
            f"{config.get('pad_token_id')} of config.json: the head would be read at a wrong place"
        )
    check_weights(folder)
    expected = derived_version(folder, card)
    if card.version.partition("+")[0] != expected:
        raise RewardModelError(
            f"{folder}: the card says {card.version}, weights and conditions make {expected}: they "
            "do not belong together"
        )


def check_weights(folder: Path) -> None:
    """Raise RewardModelError naming the first tensor with a NaN or infinity, or a wrong head."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    head: list[int] | None = None
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping, has only keys()
                    tensor = tensors.get_tensor(name)
                    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                        raise RewardModelError(f"{file}: {name} holds NaN or infinity")
                    if name == HEAD:
                        head = list(tensor.shape)
        except SafetensorError as error:
            raise RewardModelError(f"{file}: not a readable safetensors file: {error}") from error
    if head is None or len(head) != 2 or head[0] != 1:
        raise RewardModelError(
            f"{folder}: no bias-less head {HEAD} of one output in {len(files)} safetensors files"
        )
