from pathlib import Path

import pytest

from reward.conditions import DEFAULT, Conditions, ConditionsError, UnknownCondition
from reward.conditions.paraphrases import load_paraphrases


def test_every_packaged_condition_has_paraphrases() -> None:
    found = load_paraphrases()
    assert set(found) == set(Conditions.load().names) - {DEFAULT}
    assert all(len(texts) in (2, 3) for texts in found.values())


@pytest.mark.parametrize(
    ("entry", "error", "reason"),
    [
        ("helpfull: [a, b]", UnknownCondition, "mean 'helpful'"),
        ("default: [a, b]", ConditionsError, "no wording"),
        ("helpful: [a]", ConditionsError, "at least two"),
        ("helpful: [a, ' a ']", ConditionsError, "given twice"),
        ("helpful: [a, '']", ConditionsError, "empty"),
    ],
)
def test_bad_paraphrases_are_refused(
    tmp_path: Path, entry: str, error: type[Exception], reason: str
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"paraphrases:\n  {entry}\n")
    with pytest.raises(error, match=reason):
        load_paraphrases(file)


def test_the_registrys_own_wording_is_no_paraphrase(tmp_path: Path) -> None:
    conditions = Conditions.load()
    file = tmp_path / "p.yaml"
    own = conditions.get("helpful").system_prompt
    file.write_text(f'paraphrases:\n  helpful: ["{own}", other]\n')
    with pytest.raises(ConditionsError, match="own wording"):
        load_paraphrases(file)
