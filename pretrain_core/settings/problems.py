"""From pydantic's errors to one readable line each, with place, key and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import pydantic

from pretrain_core.settings.document import Node

_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text (put it in quotes)",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of `key: value` lines",
    "model_type": "a mapping of `key: value` lines",
    "model_attributes_type": "a mapping of `key: value` lines",
}


def models_in(annotation: Any) -> list[type[pydantic.BaseModel]]:
    """Return the settings classes that a type mentions (inside unions, lists and mappings)."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def fields_at(
    schema: type[pydantic.BaseModel], path: Sequence[str]
) -> dict[str, pydantic.fields.FieldInfo]:
    """Return the fields that may stand under a dotted path of the schema."""
    models = [schema]
    for key in path:
        owners = [model for model in models if key in model.model_fields]
        # A list index or a free mapping key leads to the same classes.
        if owners:
            found = (models_in(model.model_fields[key].annotation) for model in owners)
            models = [model for group in found for model in group]
    return {name: field for model in models for name, field in model.model_fields.items()}


def dotted_keys(schema: type[pydantic.BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a schema (recursive schemas are entered once)."""
    for name, field in schema.model_fields.items():
        here = f"{prefix}{name}"
        yield here
        for model in models_in(field.annotation):
            if model is not schema and here.count(".") < 6:
                yield from dotted_keys(model, f"{here}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _unknown_key(schema: type[pydantic.BaseModel], path: list[str]) -> str:
    allowed = sorted(fields_at(schema, path[:-1]))
    hint = did_you_mean(path[-1], allowed)
    if not hint:
        elsewhere = [key for key in dotted_keys(schema) if key.split(".")[-1] == path[-1]]
        hint = f"; did you mean {elsewhere[0]!r}?" if elsewhere else ""
    return f"unknown key{hint} (allowed here: {', '.join(allowed) or 'nothing'})"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _what(schema: type[pydantic.BaseModel], error: Mapping[str, Any], path: list[str]) -> str:
    kind, context, given = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        return _unknown_key(schema, path)
    if kind == "missing":
        field = fields_at(schema, path[:-1]).get(path[-1])
        meaning = f" ({field.description})" if field and field.description else ""
        return f"missing, and it has no default{meaning}"
    if kind == "literal_error":
        choices = [part.strip(" '") for part in context["expected"].replace(" or ", ",").split(",")]
        return f"expected {context['expected']}, got {_shown(given)}" + did_you_mean(
            str(given), choices
        )
    if kind == "value_error":
        return str(context["error"])
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {_shown(given)}"
    message = error["msg"]
    return f"{message[0].lower()}{message[1:]}, got {_shown(given)}"


def _path_in(root: Node, location: Sequence[int | str], keep_last: bool) -> list[str]:
    """Drop the union tags that pydantic puts between the keys of an error's location."""
    path: list[str] = []
    for index, part in enumerate(location):
        is_last = index == len(location) - 1
        if root.deepest(path).child(str(part)) is not None or (is_last and keep_last):
            path.append(str(part))
    return path


def readable_problems(
    schema: type[pydantic.BaseModel], root: Node, error: pydantic.ValidationError
) -> list[str]:
    """Return one line per problem of a failed validation of the document `root`."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        path = _path_in(root, item["loc"], keep_last=item["type"] == "missing")
        where = root.deepest(path).origin
        key = f"{'.'.join(path)}: " if path and where != f"override {'.'.join(path)}" else ""
        line = f"{where}: {key}{_what(schema, item, path)}"
        if line not in lines:
            lines.append(line)
    return lines
