"""KL estimates: what their means are, and where their gradients point."""

import pytest
import torch

from actors.losses import KL_ESTIMATES, KLEstimate, full_kl

POLICY = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.25, 0.25, 0.25, 0.25], dtype=torch.float64)
KL = (POLICY * (POLICY / REFERENCE).log()).sum().item()


def expected(estimate: KLEstimate, policy: torch.Tensor) -> torch.Tensor:
    """The mean over what POLICY samples, so that no draw is needed."""
    return (POLICY * KL_ESTIMATES[estimate](policy.log() - REFERENCE.log())).sum()


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative() -> None:
    for estimate in ("k1", "k3"):
        assert expected(estimate, POLICY).item() == pytest.approx(KL)
    differences = torch.linspace(-3, 3, 61, dtype=torch.float64)
    assert (KL_ESTIMATES["k3"](differences) >= 0).all()
    assert expected("k2", POLICY).item() != pytest.approx(KL, rel=1e-3)


def gradient(estimate: KLEstimate | None) -> torch.Tensor:
    """With respect to the logits: of the estimate's mean, or of the KL itself."""
    logits = POLICY.log().requires_grad_()
    policy = logits.softmax(-1)
    if estimate is None:
        value = (policy * (policy.log() - REFERENCE.log())).sum()
    else:
        value = expected(estimate, policy)
    (found,) = torch.autograd.grad(value, logits)
    return found


def test_as_losses_k2_has_the_gradient_of_the_kl_k1_none_and_k3_another() -> None:
    true = gradient(None)
    assert torch.allclose(gradient("k2"), true)
    assert torch.allclose(gradient("k1"), torch.zeros(4, dtype=torch.float64))
    assert not torch.allclose(gradient("k3"), true, rtol=0.1)
    # That of KL(π_ref ‖ π): policy − reference, in the logits.
    assert torch.allclose(gradient("k3"), POLICY - REFERENCE)


def test_over_the_whole_vocabulary_it_is_the_kl_itself() -> None:
    rows = torch.stack([POLICY, REFERENCE]).log()
    found = full_kl(rows, REFERENCE.log())
    assert found.tolist() == pytest.approx([KL, 0.0])
    impossible = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64).log()
    assert full_kl(impossible, REFERENCE.log()).item() == pytest.approx(torch.tensor(2.0).log())
    # Neither says it: nothing to add. Only the policy says it: infinitely far.
    assert full_kl(impossible, impossible).item() == 0.0
    assert full_kl(POLICY.log(), impossible).item() == float("inf")
