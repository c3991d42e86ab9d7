"""The router: a linear classifier from query to condition, calibrated, with a fall-back.

Stored as safetensors and JSON, applied with NumPy alone; scikit-learn only trains it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pretrain_core.draws import seed_of
from pretrain_core.runs.files import RunError, read_json, write_json
from reward.conditions.registry import DEFAULT, Conditions
from reward.conditions.routing import Example, Routed, RoutingError, confusion, query_text
from reward.features import hashed, matrix

Array: TypeAlias = npt.NDArray[np.float32]

FORMAT = 1
CARD, WEIGHTS = "router.json", "router.safetensors"
DIMENSION = 2**15
STRENGTH = 10.0  # inverse of the L2 penalty
CALIBRATION, TEST = 0.15, 0.15


@dataclass(frozen=True)
class Router:
    """Weights [DIMENSION, conditions], and the temperature of the logits.

    A query that the classifier gives no more than `threshold` probability goes to `fallback`. There
    is no bias: a query of unknown words has equal probabilities.
    """

    names: tuple[str, ...]
    weights: Array
    temperature: float = 1.0
    threshold: float = 0.5
    fallback: str = DEFAULT
    conditions_hash: str = ""

    def probabilities(self, queries: Sequence[str]) -> npt.NDArray[np.float64]:
        """Calibrated probabilities [queries, conditions]."""
        logits = np.stack([self._logits(query) for query in queries]) / self.temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return result

    def route(self, queries: Sequence[str]) -> list[Routed]:
        """The most probable condition of each query, or the fall-back where too unsure."""
        if not queries:
            return []
        routed = []
        for row in self.probabilities(queries):
            best = int(row.argmax())
            sure = float(row[best])
            if sure > self.threshold:
                routed.append(Routed(self.names[best], "router", sure))
            else:
                routed.append(Routed(self.fallback, "fall-back", sure))
        return routed

    def _logits(self, query: str) -> npt.NDArray[np.float64]:
        features = hashed(query, DIMENSION)
        places = np.array(list(features), dtype=np.int64)
        values = np.array(list(features.values()))
        result: npt.NDArray[np.float64] = values @ self.weights[places].astype(np.float64)
        return result

    def save(self, folder: Path, report: Mapping[str, Any] | None = None) -> Path:
        """Write the folder, the card last; `report` is kept in it."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights}, folder / WEIGHTS)
        card = {
            "format": FORMAT,
            "dimension": DIMENSION,
            "names": list(self.names),
            **{name: getattr(self, name) for name in ("temperature", "threshold", "fallback")},
            "conditions_hash": self.conditions_hash,
            "report": dict(report or {}),
        }
        write_json(folder / CARD, card)
        return folder

    @classmethod
    def load(cls, folder: Path) -> "Router":
        """Read a router's folder; raises RoutingError for anything but a whole and finite one."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            card = read_json(folder / CARD)
            if card["format"] != FORMAT or card["dimension"] != DIMENSION:
                raise RoutingError(
                    f"{folder}: made by another version of the router; train it anew"
                )
            tensors = load_file(folder / WEIGHTS)
            router = cls(
                tuple(card["names"]),
                tensors["weights"],
                **{n: card[n] for n in ("temperature", "threshold", "fallback", "conditions_hash")},
            )
        except (RunError, OSError, SafetensorError, KeyError, TypeError) as error:
            raise RoutingError(
                f"{folder}: no router ({error}); make one with route train"
            ) from error
        shape = (DIMENSION, len(router.names))
        if router.weights.shape != shape or not np.isfinite(router.weights).all():
            raise RoutingError(f"{folder}: the weights are broken or not {shape}; train it anew")
        if not router.temperature > 0 or not 0 <= router.threshold <= 1:
            raise RoutingError(f"{folder}: temperature or threshold out of range in {CARD}")
        return router


def train_router(
    examples: Sequence[Example],
    conditions: Conditions,
    *,
    threshold: float = 0.5,
    fallback: str = DEFAULT,
    seed: int = 0,
) -> tuple[Router, dict[str, Any]]:
    """(router, report on held-out queries).

    70 % of the queries train, 15 % set the temperature, 15 % test; whole groups go to one part.
    What is returned is then trained on all of them, at that temperature. Raises UnknownCondition
    for a condition outside the registry, RoutingError for fewer than two conditions or too few
    queries to hold some out.
    """
    conditions.get(fallback)
    names = tuple(sorted({conditions.get(e.condition).name for e in examples}))
    if len(names) < 2:
        raise RoutingError(f"routing needs queries of two conditions, found {list(names)}")
    parts: dict[str, list[Example]] = {"train": [], "calibration": [], "test": []}
    for example in examples:
        parts[_part(example, seed)].append(example)
    missing = set(names) - {e.condition for e in parts["train"]}
    if missing or not parts["calibration"] or not parts["test"]:
        raise RoutingError(
            f"too few distinct queries ({len(examples)}) to train and to test on others; "
            f"nothing to train on for: {', '.join(sorted(missing)) or 'none'}"
        )
    tested = Router(names, _fit(parts["train"], names), 1.0, threshold, fallback, conditions.hash)
    tested = replace(tested, temperature=_temperature(tested, parts["calibration"]))
    sizes = {f"{name} queries": len(part) for name, part in parts.items()}
    report = {**sizes, **evaluate_router(tested, parts["test"])}
    return replace(tested, weights=_fit(examples, names)), report


def _fit(examples: Sequence[Example], names: Sequence[str]) -> Array:
    """Weights [DIMENSION, conditions] of a logistic regression that counts conditions alike."""
    from sklearn.linear_model import LogisticRegression

    features = matrix([hashed(e.text, DIMENSION) for e in examples], DIMENSION)
    fitted = LogisticRegression(
        C=STRENGTH, class_weight="balanced", fit_intercept=False, max_iter=1000
    )
    fitted.fit(features, [names.index(e.condition) for e in examples])
    weights = fitted.coef_.T
    if len(names) == 2:  # scikit-learn keeps one column for two classes
        weights = np.hstack([-weights / 2, weights / 2])
    return np.ascontiguousarray(weights, dtype=np.float32)


def evaluate_router(router: Router, examples: Sequence[Example]) -> dict[str, Any]:
    """Accuracy, share sent to the fall-back, calibration error, confusion matrix [true, found].

    `accuracy` counts what `route` answers; `accuracy_when_sure` leaves the fall-backs out.
    """
    if not examples:
        raise RoutingError("no queries to evaluate on")
    truth = [e.condition for e in examples]
    routed = router.route([e.text for e in examples])
    right = [r.condition == true for r, true in zip(routed, truth, strict=True)]
    sure = [ok for r, ok in zip(routed, right, strict=True) if r.by == "router"]
    probabilities = router.probabilities([e.text for e in examples])
    guess = probabilities.argmax(axis=1)
    hit = np.array([router.names[g] == true for g, true in zip(guess, truth, strict=True)])
    names, counts = confusion(truth, [r.condition for r in routed])
    return {
        "queries": len(examples),
        "accuracy": float(np.mean(right)),
        "accuracy_when_sure": float(np.mean(sure)) if sure else None,
        "fallback_share": 1 - len(sure) / len(examples),
        "calibration_error": _calibration_error(probabilities.max(axis=1), hit),
        "confusion": {"names": names, "counts": counts},
    }


def _part(example: Example, seed: int) -> str:
    """The part of a group, by a draw of its own: independent of what else is there."""
    draw = seed_of(seed, "route/split", 0, example.group or example.text) / 2**63
    if draw < TEST:
        return "test"
    return "calibration" if draw < TEST + CALIBRATION else "train"


def _temperature(router: Router, examples: Sequence[Example]) -> float:
    """The temperature of least log-loss on queries that were not trained on."""
    logits = np.stack([router._logits(e.text) for e in examples])
    known = {name: place for place, name in enumerate(router.names)}
    labels = np.array([known[e.condition] for e in examples])

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        highest = scaled.max(axis=1, keepdims=True)
        total = np.log(np.exp(scaled - highest).sum(axis=1)) + highest[:, 0]
        return float((total - scaled[np.arange(len(labels)), labels]).mean())

    # Queries that are too easy would ask for a temperature of 0, and strange ones be trusted.
    return float(min(np.geomspace(0.25, 20, 200), key=loss))


def _calibration_error(confidence: npt.NDArray[np.float64], hit: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error over ten equal bins of confidence."""
    place = np.minimum((confidence * 10).astype(int), 9)
    gaps = [
        abs(float(confidence[place == b].mean() - hit[place == b].mean()))
        * float((place == b).mean())
        for b in range(10)
        if (place == b).any()
    ]
    return float(sum(gaps))


def choose(
    record: Mapping[str, Any], default: str | None = None, router: Router | None = None
) -> Routed:
    """The record's condition, else `default`, else the router's.

    Raises RoutingError if none of them says, for a condition that is no text, or without a query.
    """
    condition = record.get("condition")
    if condition is not None:
        if not isinstance(condition, str):
            raise RoutingError(f"'condition' is {condition!r}; expected exactly one name")
        return Routed(condition, "field")
    if default is not None:
        return Routed(default, "data set")
    if router is None:
        raise RoutingError("no 'condition'")
    return router.route([query_text(record)])[0]
