"""Does the reply have the form that was asked for: JSON of a schema, or markdown of a plan?"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NoReturn

import regex
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from pydantic import Field, field_validator, model_validator

from pretrain_core.chat import Message
from pretrain_core.settings import Settings
from reward.verifiers.fences import fences, last_fence, without_fences
from reward.verifiers.verdict import Verdict, right, wrong

_PATTERN_SECONDS = 1.0
_HEADING = regex.compile(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", regex.MULTILINE)
_BULLET = regex.compile(r"^[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+\S", regex.MULTILINE)


class JsonSettings(Settings):
    """The reply, or its last fenced block, is one JSON document."""

    kind: Literal["json"] = "json"
    json_schema: dict[str, Any] | None = Field(
        None, description="JSON schema that the document keeps; references stay inside it"
    )
    fenced: bool = Field(True, description="accept a document in a fenced block, prose around it")
    max_characters: int = Field(200_000, gt=0, description="longer replies are wrong")

    @field_validator("json_schema")
    @classmethod
    def _usable(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is None:
            return None
        try:
            validator_for(schema).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"no JSON schema: {error.message}") from error
        for reference in _references(schema):
            if not reference.startswith("#"):
                raise ValueError(f"$ref {reference!r} leaves the schema; nothing is fetched")
        return schema


class JsonVerifier:
    """Strict JSON: no NaN, no trailing text."""

    def __init__(self, settings: JsonSettings) -> None:
        self.settings = settings
        schema = settings.json_schema
        self._validator = None if schema is None else validator_for(schema)(schema)

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """1 if the document parses and keeps the schema, else 0; needs no reference."""
        if len(reply) > self.settings.max_characters:
            return wrong(f"longer than {self.settings.max_characters} characters")
        block = last_fence(reply, "json") if self.settings.fenced else None
        try:
            document = json.loads(reply if block is None else block, parse_constant=_refuse)
            problem = None
            if self._validator is not None:
                problem = next(self._validator.iter_errors(document), None)
        except (ValueError, RecursionError) as error:
            return wrong(f"no JSON: {error}"[:200])
        if problem is None:
            return right("JSON" if self._validator is None else "JSON that keeps the schema")
        return wrong(f"{problem.json_path}: {problem.message}"[:200])

    def close(self) -> None:
        """Nothing to end."""


class FormatSettings(Settings):
    """Rules that the whole reply keeps; at least one."""

    kind: Literal["format"] = "format"
    pattern: str | None = Field(None, description="regular expression found in the reply")
    forbidden: str | None = Field(None, description="regular expression not found in it")
    sections: tuple[str, ...] = Field((), description="markdown headings, in this order")
    bullets: tuple[int, int] | None = Field(None, description="fewest and most list items")
    code_block: bool | None = Field(None, description="whether a fenced block must be there")

    @field_validator("pattern", "forbidden")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                regex.compile(pattern)
            except regex.error as error:
                raise ValueError(f"no regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _rules(self) -> "FormatSettings":
        if not self.model_fields_set - {"kind"}:
            raise ValueError("give at least one rule (pattern, sections, bullets, …)")
        if self.bullets is not None and not 0 <= self.bullets[0] <= self.bullets[1]:
            raise ValueError(f"bullets {list(self.bullets)}: expected fewest ≤ most")
        return self


class FormatVerifier:
    """Score = share of the rules that hold; passed = all of them."""

    def __init__(self, settings: FormatSettings) -> None:
        self.settings = settings

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """Judge by the rules alone; needs no reference."""
        problems = list(self._problems(reply))
        broken = [problem for problem in problems if problem]
        share = 1 - len(broken) / len(problems)
        return Verdict(share, not broken, "; ".join(broken) or f"all {len(problems)} rules hold")

    def close(self) -> None:
        """Nothing to end."""

    def _problems(self, reply: str) -> Iterator[str]:
        """One text per rule, empty where it holds."""
        rules = self.settings
        if rules.pattern is not None:
            found = _search(rules.pattern, reply)
            yield "" if found else _why(found, f"{rules.pattern!r} not found")
        if rules.forbidden is not None:
            found = _search(rules.forbidden, reply)
            yield "" if found is False else _why(found, f"{rules.forbidden!r} found")
        prose = without_fences(reply)
        if rules.sections:
            headings = iter(title.strip().casefold() for title in _HEADING.findall(prose))
            missing = [name for name in rules.sections if name.casefold() not in headings]
            yield f"no section {missing[0]!r} in its place" if missing else ""
        if rules.bullets is not None:
            fewest, most = rules.bullets
            count = len(_BULLET.findall(prose))
            holds = fewest <= count <= most
            yield "" if holds else f"{count} list items, expected {fewest} to {most}"
        if rules.code_block is not None:
            there = bool(fences(reply))
            yield "" if there == rules.code_block else f"fenced block: {there}"


def _search(pattern: str, text: str) -> bool | None:
    """None if the expression takes too long on this text."""
    try:
        found = regex.search(pattern, text, timeout=_PATTERN_SECONDS, concurrent=True)
    except TimeoutError:
        return None
    return found is not None


def _why(found: bool | None, otherwise: str) -> str:
    return f"a pattern took longer than {_PATTERN_SECONDS:g} s" if found is None else otherwise


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)
