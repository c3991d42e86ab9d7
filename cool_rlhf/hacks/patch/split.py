"""Pattern pairs to learn from, and those that the gate alone sees."""

from collections.abc import Sequence

from cool_rlhf.hacks.gate.evidence import HACK
from cool_rlhf.hacks.patch.settings import PatchError, PatchSettings
from pretrain_core.chat import Message
from pretrain_core.draws import rng
from reward.data import Preference

Prompt = tuple[Message, ...]


def by_hack(pairs: Sequence[Preference]) -> dict[str, list[Preference]]:
    """Pairs of each hack by its name; PatchError for a pair whose source names none."""
    found: dict[str, list[Preference]] = {}
    for number, pair in enumerate(pairs, start=1):
        source = pair.source or ""
        if not source.startswith(HACK) or source == HACK:
            raise PatchError(
                f"pair {number} ({pair.id or 'no id'}) has source {pair.source!r}: it must name "
                f"its hack, as in {HACK + 'NAME'!r}"
            )
        found.setdefault(source.removeprefix(HACK), []).append(pair)
    return found


def with_enough(pairs: Sequence[Preference], least: int) -> list[Preference]:
    """The pairs of the hacks that have at least so many, in their order."""
    enough = {name for name, own in by_hack(pairs).items() if len(own) >= least}
    return [pair for pair in pairs if hack_of(pair) in enough]


def hack_of(pair: Preference) -> str:
    """The hack that a pattern pair is of."""
    return (pair.source or "").removeprefix(HACK)


def split_pairs(
    pairs: Sequence[Preference], settings: PatchSettings
) -> tuple[list[Preference], list[Preference]]:
    """(training, held-out) pairs: the share of each hack's prompts, no prompt on both sides.

    Raises PatchError for no pairs, for a hack with fewer than `least_pairs` unless `allow_few`,
    and for one whose pairs cannot be told apart by their prompts.
    """
    held: set[Prompt] = set()
    seen: set[Prompt] = set()
    hacks = by_hack(pairs)
    if not hacks:
        raise PatchError("no pattern pairs: nothing to patch")
    for name, own in hacks.items():
        if len(own) < settings.least_pairs and not settings.allow_few:
            raise PatchError(
                f"{name}: {len(own)} pairs, {settings.least_pairs} are asked for: add some, take "
                "the hack out, or say allow_few=true"
            )
        prompts = _shuffled(own, settings.seed)
        wanted = round(settings.held_out * len(prompts))
        free = [prompt for prompt in prompts if prompt not in seen]
        more = max(0, wanted - sum(prompt in held for prompt in prompts))
        held.update(free[:more])
        seen.update(free)
        if not 0 < sum(prompt in held for prompt in prompts) < len(prompts):
            raise PatchError(
                f"{name}: its {len(own)} pairs have {len(prompts)} prompts, which leave none to "
                "hold out for the gate, or none to learn from: add pairs of other prompts"
            )
    return [p for p in pairs if p.prompt not in held], [p for p in pairs if p.prompt in held]


def _shuffled(pairs: Sequence[Preference], seed: int) -> list[Prompt]:
    """The prompts by a draw of each: the same one for two hacks, whatever stands beside it."""

    def draw(prompt: Prompt) -> float:
        text = "\n".join(f"{message.role}: {message.content}" for message in prompt)
        return float(rng(seed, "hacks/patch/held-out", 0, text).random())

    return sorted({pair.prompt for pair in pairs}, key=draw)
