"""The conditions in other words, for evaluation: does a model follow meaning or wording?"""

from collections.abc import Mapping
from pathlib import Path

from pretrain_core.settings import Settings, load
from reward.conditions.registry import DEFAULT, Conditions, ConditionsError

PACKAGED_PARAPHRASES = "configs/conditions/paraphrases.yaml"


class _File(Settings):
    paraphrases: dict[str, tuple[str, ...]]


def load_paraphrases(
    path: Path | None = None, conditions: Conditions | None = None
) -> Mapping[str, tuple[str, ...]]:
    """Name → other wordings of its system prompt, at least two each; default: the packaged file.

    Checked against `conditions` (default: the packaged registry): raises UnknownCondition for a
    name that it lacks, ConditionsError for `default`, or a wording that is empty, repeated or the
    registry's own; SettingsError for a malformed file.
    """
    conditions = conditions or Conditions.load()
    found: dict[str, tuple[str, ...]] = {}
    for name, texts in load(_File, path or PACKAGED_PARAPHRASES).value.paraphrases.items():
        original = conditions.get(name).system_prompt
        if name == DEFAULT:
            raise ConditionsError(f"{DEFAULT!r} has no wording, so nothing can be paraphrased")
        wordings = tuple(" ".join(text.split()) for text in texts)
        if len(wordings) < 2:
            raise ConditionsError(f"{name!r}: at least two paraphrases are needed")
        distinct = {*wordings, " ".join(original.split())}
        if "" in wordings or len(distinct) <= len(wordings):
            raise ConditionsError(
                f"{name!r}: a paraphrase is empty, given twice, or the registry's own wording"
            )
        found[name] = wordings
    return found
