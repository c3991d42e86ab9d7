"""Verifiers by name: one settings class each, told apart by `kind`."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from pretrain_core.settings import kind_of
from reward.verifiers.code import CodeSettings, CodeVerifier
from reward.verifiers.function import FunctionVerifier, RewardFunctionSettings
from reward.verifiers.language import LanguageSettings, LanguageVerifier
from reward.verifiers.length import LengthSettings, LengthVerifier
from reward.verifiers.maths import MathsSettings, MathsVerifier
from reward.verifiers.reasoning_gym import ReasoningGymSettings, ReasoningGymVerifier
from reward.verifiers.remote import RemoteSettings, RemoteVerifier
from reward.verifiers.structure import FormatSettings, FormatVerifier, JsonSettings, JsonVerifier
from reward.verifiers.verdict import Verifier

VerifierSettings = Annotated[
    Annotated[CodeSettings, Tag("code")]
    | Annotated[FormatSettings, Tag("format")]
    | Annotated[RewardFunctionSettings, Tag("function")]
    | Annotated[JsonSettings, Tag("json")]
    | Annotated[LanguageSettings, Tag("language")]
    | Annotated[LengthSettings, Tag("length")]
    | Annotated[MathsSettings, Tag("maths")]
    | Annotated[ReasoningGymSettings, Tag("reasoning_gym")]
    | Annotated[RemoteSettings, Tag("remote")],
    Discriminator(
        kind_of,
        custom_error_type="unknown_verifier",
        custom_error_message="`kind` is one of code, format, function, json, language, length, "
        "maths, reasoning_gym, remote",
    ),
]

_BUILDERS: dict[type[Any], Callable[[Any], Verifier]] = {
    CodeSettings: CodeVerifier,
    FormatSettings: FormatVerifier,
    RewardFunctionSettings: FunctionVerifier,
    JsonSettings: JsonVerifier,
    LanguageSettings: LanguageVerifier,
    LengthSettings: LengthVerifier,
    MathsSettings: MathsVerifier,
    ReasoningGymSettings: ReasoningGymVerifier,
    RemoteSettings: RemoteVerifier,
}

KINDS: dict[str, type[Any]] = {
    settings.model_fields["kind"].default: settings for settings in _BUILDERS
}
"""Name → settings class."""


def build_verifier(settings: VerifierSettings) -> Verifier:
    """The verifier of these settings; raises InputError where a library is missing."""
    return _BUILDERS[type(settings)](settings)
