"""What the service counts, as Prometheus text."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
FILL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
PREFIX = "cool_rlhf_reward_"


class Metrics:
    """One registry for each service; also the batcher's observer."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            PREFIX + "requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self._latency = Histogram(
            PREFIX + "request_seconds",
            "From the last byte of a request to its answer.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._items = Counter(PREFIX + "items", "Items that were scored.", registry=registry)
        self._tokens = Counter(
            PREFIX + "tokens", "Tokens that were scored, padding not counted.", registry=registry
        )
        self._failures = Counter(
            PREFIX + "failures",
            "Items and requests without a score.",
            ["reason"],
            registry=registry,
        )
        self._retries = Counter(
            PREFIX + "retried_items", "Items sent again after a failed batch.", registry=registry
        )
        self._shared = Counter(
            PREFIX + "idempotent_answers", "Requests answered from another one.", registry=registry
        )
        self._load = Gauge(
            PREFIX + "queue_tokens", "Tokens that wait or are in work.", registry=registry
        )
        self._fill = Histogram(
            PREFIX + "batch_fill",
            "Tokens of a batch over the budget.",
            buckets=FILL_BUCKETS,
            registry=registry,
        )
        self._forward = Histogram(
            PREFIX + "forward_seconds",
            "From sending a batch to its scores.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._swaps = Counter(PREFIX + "swaps", "Swaps by outcome.", ["outcome"], registry=registry)
        self._version = Gauge(
            PREFIX + "model_info", "1 for the version served.", ["version"], registry=registry
        )
        self._replicas = Gauge(PREFIX + "replicas", "Replicas that can score.", registry=registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def failure(self, reason: str, count: int = 1) -> None:
        """Items or a request ended without a score."""
        self._failures.labels(reason).inc(count)

    def shared(self) -> None:
        """A request got the answer of another one with its key."""
        self._shared.inc()

    def swap(self, outcome: str) -> None:
        """A swap ended: `done` or the reason it was refused for."""
        self._swaps.labels(outcome).inc()

    def batch(self, items: int, tokens: int, budget: int, seconds: float) -> None:
        """A batch was scored."""
        self._items.inc(items)
        self._tokens.inc(tokens)
        self._fill.observe(tokens / budget)
        self._forward.observe(seconds)

    def retry(self, items: int) -> None:
        """A batch failed and goes back into the queue."""
        self._retries.inc(items)

    def dropped(self, reason: str) -> None:
        """An item left the queue without a forward."""
        self._failures.labels(f"dropped_{reason}").inc()

    def load(self, tokens: int) -> None:
        """Tokens that wait or are in work have changed."""
        self._load.set(tokens)

    def text(self, version: str, replicas: int) -> bytes:
        """All values in Prometheus' text format."""
        self._version.clear()
        self._version.labels(version).set(1)
        self._replicas.set(replicas)
        return generate_latest(self.registry)
