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
        options = {"retain_graph": True, "materialize_grads": True}
        diagonal = [
            torch.autograd.grad(value[:, i].sum(), x, **options)[0][:, i]
            for i in range(x.shape[1])
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
        options = {"retain_graph": True, "materialize_grads": True}
        slopes = [
            (torch.autograd.grad(value, x, v, **options)[0] * v).sum(-1) for v in nu
        ]
    return value.detach(), torch.stack(slopes).mean(0)
