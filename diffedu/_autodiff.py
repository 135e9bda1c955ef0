"""Derivatives of fields by automatic differentiation."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def with_divergence(
    field: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"]]:
    """field(x) and Σ_i ∂field_i/∂x_i, each point on its own, by d backward passes."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
        if not value.requires_grad:  # a field that does not depend on x
            return value, torch.zeros_like(x[:, 0])
        units = torch.eye(x.shape[1]).to(x)
        diagonal = [
            _pulled_back(value, x, e.expand_as(x))[:, i] for i, e in enumerate(units)
        ]
    return value.detach(), torch.stack(diagonal).sum(0)


def with_slope(
    field: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n d"],
    nu: Float[Tensor, "m n d"],
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"]]:
    """field(x) and the mean over directions of νᵀ (∂field/∂x) ν (Hutchinson 1989)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
        if not value.requires_grad:
            return value, torch.zeros_like(x[:, 0])
        slopes = [(_pulled_back(value, x, v) * v).sum(-1) for v in nu]
    return value.detach(), torch.stack(slopes).mean(0)


def _pulled_back(value: Tensor, x: Tensor, nu: Tensor) -> Tensor:
    """νᵀ (∂value/∂x) at every point."""
    return torch.autograd.grad(value, x, nu, retain_graph=True, materialize_grads=True)[
        0
    ]
