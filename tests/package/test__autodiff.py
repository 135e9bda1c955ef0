"""Derivatives of fields against Jacobians that are written out."""

import torch
from torch import Tensor

from diffedu._autodiff import with_divergence, with_slope

W = torch.tensor([[0.3, -0.8, 0.5], [1.1, 0.2, -0.4], [-0.6, 0.9, 0.7]]).double()
X = torch.tensor([[0.4, -0.3, 1.2], [-0.7, 0.1, 0.5]], dtype=torch.float64)


def field(x: Tensor) -> Tensor:
    """sin(W x) x_1."""
    return (x @ W.mT).sin() * x[:, :1]


def written_out() -> Tensor:
    """∂field_i/∂x_j = cos(w_i·x) W_ij x_1 + sin(w_i·x) 1{j = 1}."""
    angles = X @ W.mT
    J = (angles.cos() * X[:, :1])[:, :, None] * W
    J[:, :, 0] += angles.sin()
    return J


def test_the_divergence_is_the_trace_of_the_jacobian() -> None:
    value, divergence = with_divergence(field, X)
    torch.testing.assert_close(value, field(X))
    torch.testing.assert_close(divergence, written_out().diagonal(0, 1, 2).sum(1))


def test_the_slope_is_a_mean_of_quadratic_forms() -> None:
    nu = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    value, slope = with_slope(field, X, nu)
    truth = torch.einsum("mni,nij,mnj->mn", nu, written_out(), nu).mean(0)
    torch.testing.assert_close(value, field(X))
    torch.testing.assert_close(slope, truth)


def test_nothing_is_left_to_differentiate_and_nothing_is_needed() -> None:
    nu, x = torch.ones(1, 2, 3).double(), X.clone()
    for take in (with_divergence, lambda f, x: with_slope(f, x, nu)):
        with torch.no_grad():
            results = take(field, x)
        assert not any(result.requires_grad for result in results)
        assert not x.requires_grad


def test_a_field_that_does_not_depend_on_the_point_has_no_slope() -> None:
    constant, zero = torch.ones_like(X), torch.zeros(2).double()
    nu = torch.ones(1, 2, 3).double()
    for take in (with_divergence, lambda f, x: with_slope(f, x, nu)):
        value, slope = take(lambda x: constant, X)
        assert torch.equal(value, constant)
        assert torch.equal(slope, zero)
        # one that depends on a part of it
        _, slope = take(lambda x: torch.stack(3 * [x[:, 0]], 1), X)
        torch.testing.assert_close(
            slope, (1.0 if take is with_divergence else 3.0) + zero
        )
