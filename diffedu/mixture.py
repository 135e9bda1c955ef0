"""The Gaussian mixture, on which every object of diffusion is exact.

If x_0 is a mixture of Gaussians and x_t = α x_0 + σ ε, then x_t is one too, and so is
x_0 given x_t. Density, score, Hessian, posterior mean and covariance are therefore
closed forms at every noise level.

Noise adds σ² to the eigenvalues of each covariance and leaves the eigenvectors alone,
Σ = Q Λ Qᵀ  ⇒  α²Σ + σ²I = Q (α²Λ + σ²) Qᵀ, so each Σ is decomposed once and every
noise level after that costs elementwise arithmetic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffedu._arguments import (
    extent,
    float_tensor,
    readable,
    require_count,
    require_finite,
    require_floats,
)

Numbers = Tensor | Sequence
"""A tensor, or nested lists of numbers, which become float64."""

Level = float | int | Float[Tensor, "..."]
"""An amplitude or standard deviation: one for all points, or one per point."""


@dataclass(frozen=True, eq=False, init=False)
class GaussianMixture:
    """p(x) = Σ_k w_k N(x; m_k, Σ_k).

    Args:
        weights: w_k >= 0 with sum 1, shape (K,).
        means: m_k, shape (K, d).
        covariances: Σ_k, symmetric positive definite, shape (K, d, d).

    Leading batch axes `*b`, the same on all three, make a batch of mixtures, one per
    point: `posterior` returns one. Lists become float64 tensors; tensors keep dtype
    (float32 or float64) and device. Points have shape (n, d), or (*b, d) for a batch;
    a NaN in one point gives NaN for that point alone.

    Raises:
        ValueError: a shape, a weight or a covariance is not as above.
    """

    weights: Float[Tensor, "*b K"]
    means: Float[Tensor, "*b K d"]
    covariances: Float[Tensor, "*b K d d"]
    _spectrum: tuple[Tensor, Tensor] = field(repr=False)

    def __init__(self, weights: Numbers, means: Numbers, covariances: Numbers) -> None:
        means = float_tensor("means", means)
        weights = float_tensor("weights", weights, like=means)
        covariances = float_tensor("covariances", covariances, like=means)
        _require_shapes(weights, means, covariances)
        _require_weights(weights)
        require_finite("means", means)
        require_finite("covariances", covariances)
        self._set(weights, means, covariances, _positive_spectrum(covariances))

    def _set(self, *parameters: Tensor | tuple[Tensor, Tensor]) -> None:
        for parameter, value in zip(fields(self), parameters, strict=True):
            object.__setattr__(self, parameter.name, value)

    @classmethod
    def _spectral(
        cls, weights: Tensor, means: Tensor, Lam: Tensor, Q: Tensor
    ) -> "GaussianMixture":
        """The mixture with Σ_k = Q Λ Qᵀ, from parts that are valid by construction."""
        mixture = cls.__new__(cls)
        mixture._set(weights, means, (Q * Lam[..., None, :]) @ Q.mT, (Lam, Q))
        return mixture

    # What it is made of

    @property
    def n_components(self) -> int:
        """K."""
        return self.means.shape[-2]

    @property
    def dim(self) -> int:
        """d."""
        return self.means.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """() for one mixture, (n,) for one mixture per point."""
        return self.means.shape[:-2]

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self.means.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are, and the points must be."""
        return self.means.device

    @property
    def mean(self) -> Float[Tensor, "*b d"]:
        """E[x] = Σ_k w_k m_k."""
        return _average(self.weights, self.means)

    @property
    def covariance(self) -> Float[Tensor, "*b d d"]:
        """Cov[x] = Σ_k w_k (Σ_k + (m_k − E[x])(m_k − E[x])ᵀ)."""
        w, m = self.weights, self.means - self.mean[..., None, :]
        between = torch.einsum("...k,...ki,...kj->...ij", w, m, m)
        return between + torch.einsum("...k,...kij->...ij", w, self.covariances)

    def to(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> "GaussianMixture":
        """The same mixture in another dtype or on another device."""
        move = {"dtype": dtype or self.dtype, "device": device or self.device}
        Lam, Q = self._spectrum
        return self._spectral(
            self.weights.to(**move), self.means.to(**move), Lam.to(**move), Q.to(**move)
        )

    # The density and its derivatives

    def _residuals(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """Q_kᵀ (x − m_k), shape (K, d, N), and the shape *n that the N points had.

        Here and below points lie along the last axis: loops over them are long, those
        over components and coordinates short.
        """
        shape = self._require_points(x)
        points = (
            x.expand(*shape, self.dim).reshape(shape.numel(), self.dim).mT.contiguous()
        )
        Q = self._last(self._spectrum[1], shape)
        return _rotate(Q.transpose(1, 2), points - self._last(self.means, shape)), shape

    def _log_joint(self, y: Tensor, precise_y: Tensor, shape: torch.Size) -> Tensor:
        """log(w_k N(x; m_k, Σ_k)), shape (K, N), from residuals y and Λ⁻¹ y."""
        log_det = self._spectrum[0].log().sum(-1) + self.dim * math.log(2 * math.pi)
        log_scale = self._last(self.weights.log() - 0.5 * log_det, shape)
        return log_scale - 0.5 * (y * precise_y).sum(1)

    def _whiten(self, x: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """log(w_k N(x; m_k, Σ_k)), shape (K, N); ∇ log N, shape (K, d, N); *n."""
        y, shape = self._residuals(x)
        Lam, Q = (self._last(z, shape) for z in self._spectrum)
        precise_y = y / Lam
        return self._log_joint(y, precise_y, shape), _rotate(-Q, precise_y), shape

    def _last(self, parameter: Tensor, shape: torch.Size) -> Tensor:
        """A parameter, (*b, K, ...), as (K, ..., N), or (K, ..., 1) if all share it."""
        axes = len(self.batch_shape)
        if axes == 0:
            return parameter[..., None]
        rest = parameter.shape[axes:]
        return parameter.expand(*shape, *rest).reshape(-1, *rest).movedim(0, -1)

    def _require_points(self, x: Tensor) -> torch.Size:
        require_floats("x", x)
        if x.ndim < 1 or x.shape[-1] != self.dim:
            raise ValueError(
                f"x must be points of dimension {self.dim}, got shape {tuple(x.shape)}"
            )
        if not self.batch_shape:
            return x.shape[:-1]
        try:
            return torch.broadcast_shapes(x.shape[:-1], self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"x must hold one point for each of {tuple(self.batch_shape)} laws "
                f"(noise levels), got shape {tuple(x.shape)}"
            ) from None

    def log_prob(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """log p(x), in nats."""
        log_joint, _, shape = self._whiten(x)
        return log_joint.logsumexp(0).reshape(shape)

    def responsibilities(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n K"]:
        """P(component k | x) = w_k N(x; m_k, Σ_k) / p(x)."""
        log_joint, _, shape = self._whiten(x)
        return _normalised(log_joint).mT.reshape(*shape, self.n_components)

    def score(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """∇ log p(x) = Σ_k P(k | x) Σ_k⁻¹ (m_k − x)."""
        log_joint, scores, shape = self._whiten(x)
        score = (_normalised(log_joint)[:, None] * scores).sum(0)
        return score.mT.reshape(*shape, self.dim)

    def hessian(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d d"]:
        """∇² log p(x) = Σ_k P(k | x) ((s_k − s)(s_k − s)ᵀ − Σ_k⁻¹), s = ∇ log p(x)."""
        log_joint, scores, shape = self._whiten(x)
        r = _normalised(log_joint).mT.reshape(*shape, self.n_components)
        scores = scores.movedim(-1, 0).reshape(*shape, self.n_components, self.dim)
        centred = scores - _average(r, scores)[..., None, :]
        Lam, Q = self._spectrum
        precisions = (Q / Lam[..., None, :]) @ Q.mT
        spread = torch.einsum("...k,...ki,...kj->...ij", r, centred, centred)
        return spread - torch.einsum("...k,...kij->...ij", r, precisions)

    def score_and_divergence(
        self, x: Float[Tensor, "*n d"]
    ) -> tuple[Float[Tensor, "*n d"], Float[Tensor, "*n"]]:
        """∇ log p(x) and ∇·∇ log p(x), the trace of the Hessian, without forming it.

        ∇·s = Σ_k P(k | x) (‖s_k − s‖² − tr Σ_k⁻¹).
        """
        log_joint, scores, shape = self._whiten(x)
        r = _normalised(log_joint)
        score = (r[:, None] * scores).sum(0)
        spread = (scores - score).square().sum(1)
        trace = self._last((1 / self._spectrum[0]).sum(-1), shape)
        divergence = (r * (spread - trace)).sum(0)
        return score.mT.reshape(*shape, self.dim), divergence.reshape(shape)

    # Sampling

    def sample(
        self, n: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n *b d"]:
        """n independent draws of each mixture.

        Raises:
            ValueError: n is not a whole number >= 1.
        """
        require_count("n", n)
        K, d = self.n_components, self.dim
        Lam, Q = self._spectrum
        weights = self.weights.expand(*self.batch_shape, K).reshape(-1, K)
        weights = weights.contiguous()  # draws must not depend on the layout in memory
        k = torch.multinomial(weights, n, replacement=True, generator=generator)
        batch = torch.arange(len(k), device=k.device)[:, None]

        def chosen(parameter: Tensor, *shape: int) -> Tensor:
            return parameter.expand(*self.batch_shape, *shape).reshape(-1, *shape)[
                batch, k
            ]

        z = torch.randn(
            *k.shape, d, generator=generator, dtype=self.dtype, device=self.device
        )
        y = chosen(Lam, K, d).sqrt() * z
        x = chosen(self.means, K, d) + (chosen(Q, K, d, d) @ y[..., None]).squeeze(-1)
        return x.movedim(1, 0).reshape(n, *self.batch_shape, d)

    # Noise: the two operations under which mixtures are closed

    def noised(self, alpha: Level, sigma: Level) -> "GaussianMixture":
        """The law of α x_0 + σ ε: weights w_k, means α m_k, covariances α²Σ_k + σ²I.

        Args:
            alpha: amplitude α, shape () or (n,); with (n,) the result is a batch, one
                law per point.
            sigma: standard deviation σ >= 0, shape () or (n,).

        Raises:
            ValueError: not finite, σ < 0, or α and σ both 0.
        """
        alpha, sigma = self._level(alpha, sigma)
        Lam, Q = self._spectrum
        noised = alpha[..., None].square() * Lam + sigma[..., None].square()
        shape = noised.shape[:-2]
        return self._spectral(
            self.weights.expand(*shape, -1),
            (alpha[..., None] * self.means).expand(*shape, -1, -1),
            noised,
            Q.expand(*shape, -1, -1, -1),
        )

    def posterior(
        self, x_t: Float[Tensor, "*n d"], alpha: Level, sigma: Level
    ) -> "GaussianMixture":
        """The law of x_0 given x_t = α x_0 + σ ε: a mixture for each point.

        P(k | x_t) = P_t(k | x_t), and within component k the Gaussian rule,
        Cov = (Σ_k⁻¹ + α²/σ² I)⁻¹,  mean = m_k + α Σ_k (α²Σ_k + σ²I)⁻¹ (x_t − α m_k).

        Raises:
            ValueError: σ is 0, where the law is a point mass; or as `noised`.
        """
        sigma = float_tensor("sigma", sigma, like=self.means)
        if readable(sigma) and (sigma == 0).any():
            raise ValueError(
                "sigma must be > 0: without noise the posterior is a point mass"
            )
        weights, means, variances = self._given(x_t, alpha, sigma)
        shape = means.shape[:-2]
        _, Q = self._spectrum
        return self._spectral(
            weights,
            means,
            variances.expand(*shape, -1, -1),
            Q.expand(*shape, -1, -1, -1),
        )

    def posterior_mean(
        self, x_t: Float[Tensor, "*n d"], alpha: Level, sigma: Level
    ) -> Float[Tensor, "*n d"]:
        """E[x_0 | x_t]; x_t / α at σ = 0."""
        weights, means, _ = self._given(x_t, alpha, sigma)
        return _average(weights, means)

    def posterior_covariance(
        self, x_t: Float[Tensor, "*n d"], alpha: Level, sigma: Level
    ) -> Float[Tensor, "*n d d"]:
        """Cov[x_0 | x_t]; 0 at σ = 0."""
        weights, means, variances = self._given(x_t, alpha, sigma)
        centred = means - _average(weights, means)[..., None, :]
        between = torch.einsum("...k,...ki,...kj->...ij", weights, centred, centred)
        _, Q = self._spectrum
        within = (Q * variances[..., None, :]) @ Q.mT
        return between + torch.einsum("...k,...kij->...ij", weights, within)

    def _given(
        self, x_t: Tensor, alpha: Level, sigma: Level
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and eigenvalues of `posterior`, which are 0 at σ = 0."""
        noised = self.noised(alpha, sigma)
        y, shape = noised._residuals(x_t)
        noised_Lam, Q = noised._spectrum
        log_joint = noised._log_joint(y, y / noised._last(noised_Lam, shape), shape)
        weights = _normalised(log_joint).mT.reshape(*shape, self.n_components)
        alpha, sigma = (level[..., None] for level in self._level(alpha, sigma))
        Lam = self._spectrum[0]
        gain = noised._last(alpha * Lam / noised_Lam, shape)
        moved = _rotate(noised._last(Q, shape), gain * y)
        means = self.means + moved.movedim(-1, 0).reshape(
            *shape, self.n_components, self.dim
        )
        return weights, means, Lam * sigma**2 / noised_Lam

    def _level(self, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        """α and σ as tensors with one axis to spare for the component."""
        alpha = float_tensor("alpha", alpha, like=self.means)
        sigma = float_tensor("sigma", sigma, like=self.means)
        require_finite("alpha", alpha)
        require_finite("sigma", sigma)
        if readable(sigma) and sigma.numel():
            least, _ = extent(sigma)
            if least < 0:
                raise ValueError(f"sigma must be >= 0, got {least:.3g}")
            if least == 0 and ((alpha == 0) & (sigma == 0)).any():
                raise ValueError(
                    "alpha and sigma must not both be 0: that is a point mass"
                )
        return alpha[..., None], sigma[..., None]


def _average(r: Tensor, v: Tensor) -> Tensor:
    """Σ_k r_k v_k for weights (..., K) and vectors (..., K, d)."""
    return torch.einsum("...k,...ki->...i", r, v)


def _normalised(log_joint: Tensor) -> Tensor:
    """The softmax over components, the first axis."""
    r = (log_joint - log_joint.amax(0)).exp()
    return r / r.sum(0)


def _rotate(Q: Tensor, v: Tensor) -> Tensor:
    """Q v for matrices (K, d, d, N), or (K, d, d, 1) for all, and vectors (K, d, N)."""
    if Q.shape[-1] == 1:
        return Q[..., 0] @ v
    return (Q * v[:, None]).sum(2)


def _require_shapes(weights: Tensor, means: Tensor, covariances: Tensor) -> None:
    if means.ndim < 2 or 0 in means.shape:
        raise ValueError(
            "means must have shape (K, d) with at least one component and one "
            f"dimension, got {tuple(means.shape)}"
        )
    if weights.shape != means.shape[:-1]:
        raise ValueError(
            f"weights must have shape {tuple(means.shape[:-1])} to go with means "
            f"{tuple(means.shape)}, got {tuple(weights.shape)}"
        )
    expected = (*means.shape, means.shape[-1])
    if covariances.shape != expected:
        raise ValueError(
            f"covariances must have shape {expected} to go with means "
            f"{tuple(means.shape)}, got {tuple(covariances.shape)}"
        )


def _require_weights(weights: Tensor) -> None:
    require_finite("weights", weights)
    if not readable(weights):
        return
    if (weights < 0).any():
        raise ValueError(f"weights must be >= 0, got {float(weights.min()):.3g}")
    total = weights.sum(-1)
    rounding = 8 * weights.shape[-1] * torch.finfo(weights.dtype).eps
    if ((total - 1).abs() > rounding).any():
        worst = total.flatten()[(total - 1).abs().argmax()]
        raise ValueError(f"weights must sum to 1, got a sum of {float(worst):.9g}")


def _positive_spectrum(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (*b, K, d) and eigenvectors (*b, K, d, d) of valid covariances."""
    if not readable(covariances):
        return torch.linalg.eigh(covariances)
    eps = torch.finfo(covariances.dtype).eps
    scale = covariances.abs().amax((-2, -1), keepdim=True)
    asymmetry = (covariances - covariances.mT).abs()
    if (asymmetry > 8 * eps * scale).any():
        raise ValueError(
            "covariances must be symmetric, got entries (i, j) and (j, i) that differ "
            f"by {float(asymmetry.max()):.3g}"
        )
    Lam, Q = torch.linalg.eigh(covariances)
    if (Lam <= covariances.shape[-1] * eps * scale[..., 0]).any():
        raise ValueError(
            "covariances must be positive definite, got a smallest eigenvalue of "
            f"{float(Lam.min()):.3g}"
        )
    return Lam, Q


# Named examples


def three_gaussians(
    dtype: torch.dtype = torch.float64, device: Any = None
) -> GaussianMixture:
    """Three correlated Gaussians of unequal weight in the plane: the book's data."""
    return GaussianMixture(
        [0.5, 0.3, 0.2],
        [[-1.5, 0.0], [1.2, 1.0], [0.8, -1.4]],
        [
            [[0.20, 0.08], [0.08, 0.15]],
            [[0.10, 0.00], [0.00, 0.25]],
            [[0.15, -0.05], [-0.05, 0.10]],
        ],
    ).to(dtype, device)


def two_gaussians(
    dtype: torch.dtype = torch.float64, device: Any = None
) -> GaussianMixture:
    """Two far unit Gaussians of weights 0.2 and 0.8 (Song and Ermon 2019, figure 3)."""
    return GaussianMixture(
        [0.2, 0.8], [[-5.0, -5.0], [5.0, 5.0]], torch.eye(2).double().expand(2, 2, 2)
    ).to(dtype, device)


def three_gaussians_1d(
    dtype: torch.dtype = torch.float64, device: Any = None
) -> GaussianMixture:
    """Three Gaussians on the line."""
    return GaussianMixture(
        [0.40, 0.35, 0.25],
        [[-1.2], [0.3], [1.5]],
        [[[0.04]], [[0.09]], [[0.05]]],
    ).to(dtype, device)


def ring(
    n: int = 8,
    radius: float = 2.0,
    std: float = 0.2,
    dtype: torch.dtype = torch.float64,
    device: Any = None,
) -> GaussianMixture:
    """n equal round Gaussians of standard deviation `std` on a circle.

    Raises:
        ValueError: n is not a whole number >= 1.
    """
    require_count("n", n)
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return GaussianMixture(
        torch.full((n,), 1 / n, dtype=torch.float64),
        radius * torch.stack([angle.cos(), angle.sin()], -1),
        std**2 * torch.eye(2).double().expand(n, 2, 2),
    ).to(dtype, device)


def two_moons_like(
    n: int = 8,
    std: float = 0.12,
    dtype: torch.dtype = torch.float64,
    device: Any = None,
) -> GaussianMixture:
    """Two interleaved half circles, each a chain of n round Gaussians.

    Raises:
        ValueError: n is not a whole number >= 2.
    """
    require_count("n", n, at_least=2)
    angle = torch.linspace(0, math.pi, n, dtype=torch.float64)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], -1)
    return GaussianMixture(
        torch.full((2 * n,), 1 / (2 * n), dtype=torch.float64),
        1.5 * torch.cat([upper, -upper]),
        std**2 * torch.eye(2).double().expand(2 * n, 2, 2),
    ).to(dtype, device)
