"""Networks: functions of a point u and a noise coordinate c, both of order one.

`NeuralDenoiser` standardises what it hands to a network, so that a network never meets
the units of the data or the range of the noise. Weights are drawn from `generator`.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

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
        last = _linear(hidden, outputs)
        nn.init.zeros_(last.weight)
        self.layers = _layers(widths[:-1], generator).append(last)

    def forward(
        self, u: Float[Tensor, "n d"], c: Float[Tensor, "n"]
    ) -> Float[Tensor, "n outputs"]:
        """F(u, c)."""
        if u.ndim != 2 or u.shape[1] != self.dim:
            raise ValueError(f"u must have shape (n, {self.dim}), got {(*u.shape,)}")
        h = torch.cat([u, self.space(u), self.time(c)], dim=-1)
        return _through(self.layers, h)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with bias 0, whose weights are still to be set."""
    # on "meta" nothing is drawn, least of all from the global generator
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.zeros_(layer.bias)
    return layer


def _layers(widths: list[int], generator: torch.Generator | None) -> nn.ModuleList:
    """Linear layers from width to width."""
    layers = nn.ModuleList()
    for inputs, outputs in pairwise(widths):
        layer = _linear(inputs, outputs)
        # uniform with variance 1/inputs: inputs of order one give sums of order one
        bound = math.sqrt(3 / inputs)
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        layers.append(layer)
    return layers


def _through(layers: nn.ModuleList, h: Tensor) -> Tensor:
    """The layers one after the other, with SiLU between them."""
    for layer in layers[:-1]:
        h = nn.functional.silu(layer(h))
    return layers[-1](h)


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


class VAE(nn.Module):
    """A variational autoencoder with Gaussian encoder and decoder.

    z ~ N(0, I_k),  x | z ~ N(m(z), s² I_d),  q(z | x) = N(μ(x), diag σ(x)²), where m, μ
    and log σ are multilayer perceptrons and s is a parameter. The data are expected to
    be of order one.

    Args:
        dim: d of the points.
        latent: k of the latent.
        hidden, depth: width and number of the hidden layers of both networks.

    Raises:
        ValueError: a number is out of range.

    Source: Kingma and Welling 2014, section 3 and appendix C.2.
    """

    def __init__(
        self,
        dim: int = 2,
        latent: int = 1,
        hidden: int = 64,
        depth: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, number in (
            ("dim", dim),
            ("latent", latent),
            ("hidden", hidden),
            ("depth", depth),
        ):
            require_count(name, number)
        super().__init__()
        self.dim, self.latent = dim, latent
        inner = depth * [hidden]
        self.encoder = _layers([dim, *inner, 2 * latent], generator)
        self.decoder = _layers([latent, *inner, dim], generator)
        self.log_s = nn.Parameter(torch.zeros(()))

    def encode(self, x: Float[Tensor, "n d"]) -> MultivariateNormal:
        """q(z | x), one diagonal Gaussian per point."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (n, {self.dim}), got {(*x.shape,)}")
        mean, log_std = _through(self.encoder, x).chunk(2, dim=-1)
        return MultivariateNormal(mean, scale_tril=log_std.exp().diag_embed())

    def decode(self, z: Float[Tensor, "*n k"]) -> Float[Tensor, "*n d"]:
        """The mean m(z) of x given z."""
        return _through(self.decoder, z)

    def log_joint(
        self, x: Float[Tensor, "n d"], z: Float[Tensor, "m n k"]
    ) -> Float[Tensor, "m n"]:
        """log N(z; 0, I) + log N(x; m(z), s² I)."""
        residual = (x - self.decode(z)) / self.log_s.exp()
        square = z.square().sum(-1) + residual.square().sum(-1)
        log_2pi = math.log(2 * math.pi)
        constant = self.dim * (self.log_s + 0.5 * log_2pi) + 0.5 * self.latent * log_2pi
        return -0.5 * square - constant

    def prior(self, n: int) -> MultivariateNormal:
        """N(0, I), once per point."""
        zeros = torch.zeros(n, self.latent).to(self.log_s)
        return MultivariateNormal(zeros, torch.eye(self.latent).to(zeros))
