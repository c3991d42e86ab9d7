"""Settings of the reward service."""

from ipaddress import ip_address

from pydantic import Field, model_validator

from pretrain_core.settings import Settings
from reward.conditions import DEFAULT


class LimitSettings(Settings):
    """What a request may weigh; anything above is refused before work is spent on it."""

    body_bytes: int = Field(8 * 2**20, gt=0, description="of one request; above: 413")
    items: int = Field(1024, gt=0, description="conversations of one request")
    messages: int = Field(1000, gt=0, description="of one conversation")
    characters: int = Field(1_000_000, gt=0, description="of one conversation")


class OpenRLHFSettings(Settings):
    """The route for OpenRLHF's remote reward client, which sends no token."""

    enabled: bool = Field(False, description="serve POST /get_reward; needs a loopback host")
    condition: str = Field(DEFAULT, description="of queries that name none")
    labels_are_conditions: bool = Field(
        False, description="read each query's label as the name of its condition"
    )


class ServiceSettings(Settings):
    """How the reward service runs; one node, several model replicas."""

    name: str = Field("reward", min_length=1, description="the model's name in answers")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8400, gt=0, lt=65536)
    replicas: int = Field(1, gt=0, description="processes that hold the model")
    threads: int = Field(1, gt=0, description="CPU threads of each replica")
    gpus: float = Field(0.0, ge=0, description="GPUs of each replica")
    batch_tokens: int = Field(
        16384, gt=0, description="tokens of one batch, over all clients; one item always fits"
    )
    queue_tokens: int = Field(
        262144, gt=0, description="tokens that may wait or be in work; above: 429"
    )
    deadline_ms: int = Field(60_000, gt=0, description="of requests that state none")
    longest_deadline_ms: int = Field(600_000, gt=0, description="more cannot be asked for")
    swap_timeout_s: float = Field(300.0, gt=0, description="longest loading of another model")
    idempotency_entries: int = Field(4096, gt=0, description="answers kept for repeated keys")
    idempotency_s: float = Field(600.0, gt=0, description="how long an answer is kept")
    limits: LimitSettings = LimitSettings()
    openrlhf: OpenRLHFSettings = OpenRLHFSettings()

    @model_validator(mode="after")
    def _consistent(self) -> "ServiceSettings":
        if self.openrlhf.enabled and not is_loopback(self.host):
            raise ValueError(
                f"openrlhf.enabled needs a loopback host, not {self.host}: that route asks for no "
                "token"
            )
        if self.batch_tokens > self.queue_tokens:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is above queue_tokens {self.queue_tokens}: no "
                "batch would ever be full"
            )
        if self.deadline_ms > self.longest_deadline_ms:
            raise ValueError("deadline_ms is above longest_deadline_ms")
        return self


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
