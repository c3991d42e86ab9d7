"""Patterns as JSON, so that another command can look for the same ones."""

import base64
import binascii
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cool_rlhf.hacks.patterns.meanings import (
    DIMENSION,
    SCOPES,
    Array,
    Grouping,
    LateSentences,
    Style,
)
from cool_rlhf.hacks.patterns.pattern import Pattern
from cool_rlhf.hacks.patterns.phrases import Phrase
from cool_rlhf.hacks.patterns.shapes import (
    MARKUP,
    Copying,
    Length,
    Markup,
    OtherLanguage,
    Refusal,
    Repetition,
)
from cool_rlhf.hacks.patterns.signs import PLACES, Sign
from pretrain_core.errors import InputError

SHAPES: dict[str, Callable[[], Pattern]] = {
    "refusals": Refusal,
    "repetition": Repetition,
    "copying": Copying,
    "another language": OtherLanguage,
}
FAMILIES = ("phrase", "opening", "ending", "template")


class SpecificationError(InputError):
    """A specification that names no pattern of this version."""


def specification(pattern: Pattern) -> dict[str, Any]:
    """What `pattern_of` needs to find the same pattern again.

    Raises SpecificationError for a pattern of an unknown class.
    """
    match pattern:
        case Phrase():
            return {"kind": pattern.family, "gram": list(pattern.gram)}
        case Length():
            return {"kind": "length", "typical": pattern.typical, "long": pattern.long}
        case LateSentences():
            style = pattern.grouping.style
            return {
                "kind": "sentences",
                "cues": list(pattern.cues),
                "group": pattern.group,
                "threshold": style.threshold,
                "scope": style.scope,
                "weights": _packed(style.weights),
                "centres": [_packed(centre) for centre in pattern.grouping.centres],
            }
        case Sign():
            return {"kind": "sign", "run": pattern.run, "place": pattern.place}
        case Markup() if pattern in MARKUP:
            return {"kind": "markup", "marks": pattern.kind}
    for kind, shape in SHAPES.items():
        if pattern == shape():
            return {"kind": kind}
    raise SpecificationError(f"{pattern.name}: a pattern of class {type(pattern).__name__}")


def pattern_of(found: Mapping[str, Any]) -> Pattern:
    """The pattern of a specification; raises SpecificationError for one that cannot be read."""
    try:
        return _pattern(found)
    except KeyError as missing:
        raise SpecificationError(f"pattern {dict(found)!r} lacks {missing}") from missing
    except (TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise SpecificationError(f"pattern of kind {found.get('kind')!r}: {error}") from error


def _pattern(found: Mapping[str, Any]) -> Pattern:
    kind = found["kind"]
    if kind in FAMILIES:
        gram = found["gram"]
        if not gram or not all(isinstance(token, str) for token in gram):
            raise SpecificationError(f"a {kind} is a list of tokens, not {gram!r}")
        return Phrase(tuple(gram), kind)
    if kind == "length":
        return Length(int(found["typical"]), int(found["long"]))
    if kind == "markup":
        known = {pattern.kind: pattern for pattern in MARKUP}
        if found["marks"] not in known:
            raise SpecificationError(f"marks {found['marks']!r}: known are {', '.join(known)}")
        return known[found["marks"]]
    if kind == "sign":
        if not found["run"] or found["place"] not in PLACES:
            raise SpecificationError(f"a sign is a run at one of {', '.join(PLACES)}")
        return Sign.of(str(found["run"]), found["place"])
    if kind == "sentences":
        if found["scope"] not in SCOPES:
            raise SpecificationError(f"scope {found['scope']!r}: known are {', '.join(SCOPES)}")
        style = Style(_unpacked(found["weights"]), float(found["threshold"]), found["scope"])
        centres = np.stack([_unpacked(centre) for centre in found["centres"]])
        grouping = Grouping(style, centres)
        return LateSentences(tuple(found["cues"]), grouping, int(found["group"]))
    if kind not in SHAPES:
        kinds = ", ".join((*FAMILIES, "length", "markup", "sign", "sentences", *SHAPES))
        raise SpecificationError(f"kind {kind!r}: known are {kinds}")
    return SHAPES[kind]()


def _packed(values: Array) -> str:
    """Single precision, little-endian, deflated: mostly zeros."""
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes())).decode()


def _unpacked(text: str) -> Array:
    raw = zlib.decompressobj().decompress(base64.b64decode(text), 4 * DIMENSION)
    if len(raw) != 4 * DIMENSION:
        raise SpecificationError(f"{len(raw) // 4} weights instead of {DIMENSION}")
    return np.frombuffer(raw, "<f4").astype(np.float64)
