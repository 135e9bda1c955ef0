"""Networks: functions of a point u and a noise coordinate c, both of order one.

`NeuralDenoiser` standardises what it hands to a network, so that a network never meets
the units of the data or the range of the noise. Weights are drawn from `generator`.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffedu._arguments import require_count, require_positive


class FourierFeatures(nn.Module):
    """x ↦ (cos Bx, sin Bx) with fixed B, entries N(0, scale²): shape (n, 2·features).

    A multilayer perceptron learns slowly what varies fast in its input; these features
    give it functions of many wavelengths, 2π/scale typically, to combine.

    Args:
        dim: of the points, at least 1.
        features: rows of B, at least 1.
        scale: standard deviation of the frequencies, > 0, in radians per unit of x.

    Raises:
        ValueError: a number is out of range.

    Source: Rahimi and Recht 2007, algorithm 1; Tancik et al. 2020, section 4.
    """

    frequencies: Tensor

    def __init__(
        self,
        dim: int,
        features: int,
        scale: float,
        generator: torch.Generator | None = None,
    ) -> None:
        require_count("dim", dim)
        require_count("features", features)
        require_positive("scale", scale)
        super().__init__()
        B = scale * torch.randn(dim, features, generator=generator)
        self.register_buffer("frequencies", B)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n features"]:
        """(cos Bx, sin Bx)."""
        angles = x @ self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(FourierFeatures):
    """c ↦ (c, cos ωc, sin ωc) for a noise coordinate c of shape (n,).

    Raises:
        ValueError: a number is out of range.

    Source: Vaswani et al. 2017, section 3.5; Song et al. 2021, appendix C.
    """

    def __init__(
        self,
        features: int,
        scale: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(1, features, scale, generator)

    def forward(self, c: Float[Tensor, "n"]) -> Float[Tensor, "n features"]:
        """(c, cos ωc, sin ωc)."""
        c = c[:, None]
        return torch.cat([c, super().forward(c)], dim=-1)


class MLP(nn.Module):
    """F(u, c): a multilayer perceptron on (u, c) and random Fourier features of both.

    The last layer starts at zero, and so does F.

    Args:
        dim: d of the points u, and of the answer unless `outputs` says otherwise.
        hidden: width of every hidden layer.
        depth: number of hidden layers.
        features: random Fourier features of u, and of c.
        scale: of the frequencies of u, in radians per unit; those of c have scale 1.
        outputs: numbers that come out per point; `dim` by default.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        dim: int = 2,
        hidden: int = 64,
        depth: int = 3,
        features: int = 32,
        scale: float = 2.0,
        outputs: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        require_count("dim", dim)
        require_count("hidden", hidden)
        require_count("depth", depth)
        outputs = dim if outputs is None else outputs
        require_count("outputs", outputs)
        super().__init__()
        self.dim = dim
        self.space = FourierFeatures(dim, features, scale, generator)
        self.time = TimeEmbedding(features, 1.0, generator)
        widths = [dim + 4 * features + 1] + depth * [hidden] + [outputs]
        # on "meta" nothing is drawn yet, least of all from the global generator
        layers = [nn.Linear(a, b, device="meta") for a, b in pairwise(widths)]
        layers = [layer.to_empty(device="cpu") for layer in layers]
        for layer in layers[:-1]:
            # uniform with variance 1/a: inputs of order one give sums of order one
            bound = math.sqrt(3 / layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
        self.layers = nn.ModuleList(layers)

    def forward(
        self, u: Float[Tensor, "n d"], c: Float[Tensor, "n"]
    ) -> Float[Tensor, "n outputs"]:
        """F(u, c)."""
        if u.ndim != 2 or u.shape[1] != self.dim:
            raise ValueError(f"u must have shape (n, {self.dim}), got {(*u.shape,)}")
        h = torch.cat([u, self.space(u), self.time(c)], dim=-1)
        for layer in self.layers[:-1]:
            h = nn.functional.silu(layer(h))
        return self.layers[-1](h)


class EnergyMLP(nn.Module):
    """F(u, c) = ∇_u E(u, c) for a scalar network E: a field that is a gradient.

    Costs a backward pass where `MLP` costs a forward pass, and two when it is trained.
    Arguments and errors are those of `MLP`, with one output.

    Source: Salimans and Ho 2021, section 2.
    """

    def __init__(
        self,
        dim: int = 2,
        hidden: int = 64,
        depth: int = 3,
        features: int = 32,
        scale: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.scalar = MLP(dim, hidden, depth, features, scale, 1, generator)
        self.dim = dim

    def energy(
        self, u: Float[Tensor, "n d"], c: Float[Tensor, "n"]
    ) -> Float[Tensor, "n"]:
        """E(u, c)."""
        return self.scalar(u, c)[:, 0]

    def forward(
        self, u: Float[Tensor, "n d"], c: Float[Tensor, "n"]
    ) -> Float[Tensor, "n d"]:
        """∇_u E(u, c); differentiable itself wherever gradients are wanted."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            u = u if u.requires_grad else u.detach().requires_grad_()
            E = self.energy(u, c).sum()
            return torch.autograd.grad(E, u, create_graph=differentiable)[0]
