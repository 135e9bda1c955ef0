"""Networks against kernels, automatic differentiation and their own definitions."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from diffedu.nets import MLP, VAE, EnergyMLP, FourierFeatures, TimeEmbedding
from tests.package.oracles import gradient, jacobian

EVERY_NET = [MLP, EnergyMLP]
every_net = pytest.mark.parametrize("make", EVERY_NET)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def stirred(net: nn.Module, seed: int = 1) -> nn.Module:
    """The network in float64 with a last layer that is not zero."""
    last = (net.scalar if isinstance(net, EnergyMLP) else net).layers[-1]
    with torch.no_grad():
        last.weight.copy_(normal(*last.weight.shape, seed=seed))
        last.bias.copy_(normal(*last.bias.shape, seed=seed + 1))
    return net.double()


# Features


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_features_have_the_gaussian_kernel(scale: float) -> None:
    """E cos ω·(x − y) = exp(−½ scale² ‖x − y‖²) over ω ~ N(0, scale² I)."""
    n = 40_000
    features = FourierFeatures(2, n, scale, seeded(2)).double()
    x, y = torch.tensor([[0.3, -0.2]]).double(), torch.tensor([[0.9, 0.4]]).double()
    f_x, f_y = features(x), features(y)
    assert f_x.shape == (1, 2 * n)
    # cos a cos b + sin a sin b, one pair per frequency
    products = (f_x * f_y).reshape(2, n).sum(0)
    truth = math.exp(-0.5 * scale**2 * (0.6**2 + 0.6**2))
    error = float(products.std()) / math.sqrt(n)
    assert abs(float(products.mean()) - truth) <= 5 * error
    frequencies = features.frequencies
    spread = frequencies.square()
    error = spread.std() / math.sqrt(2 * n)
    assert abs(float(spread.mean()) - scale**2) <= 5 * float(error)


def test_features_are_cosines_and_sines_of_the_same_angles() -> None:
    features = FourierFeatures(3, 5, 1.3, seeded(2)).double()
    cos, sin = features(normal(4, 3, seed=1)).chunk(2, dim=1)
    torch.testing.assert_close(cos**2 + sin**2, torch.ones(4, 5).double())
    # angles add: x ↦ 2x doubles them
    twice, _ = features(2 * normal(4, 3, seed=1)).chunk(2, dim=1)
    torch.testing.assert_close(twice, 2 * cos**2 - 1)
    origin = features(torch.zeros(1, 3).double())[0]
    assert origin.tolist() == [1.0] * 5 + [0.0] * 5


def test_the_time_embedding_holds_the_coordinate_and_its_waves() -> None:
    embedding = TimeEmbedding(6, 2.0, seeded(3)).double()
    c = torch.tensor([-1.5, 0.0, 0.7, 2.0]).double()
    e = embedding(c)
    assert e.shape == (4, 13)
    assert torch.equal(e[:, 0], c)
    cos, sin = e[:, 1:7], e[:, 7:]
    torch.testing.assert_close(cos**2 + sin**2, torch.ones(4, 6).double())
    # the waves obey f″ = −ω² f, with ω found from sin near 0
    h = 1e-4
    near = torch.tensor([h, 0.7 - h, 0.7, 0.7 + h], dtype=torch.float64)
    omega = embedding(near)[0, 7:] / h
    around = embedding(near)[1:, 1:]
    bend = (around[0] - 2 * around[1] + around[2]) / h**2
    truth = -(omega.repeat(2) ** 2) * around[1]
    torch.testing.assert_close(bend, truth, rtol=1e-4, atol=1e-4)


def test_frequencies_are_kept_but_not_trained() -> None:
    features = FourierFeatures(2, 4, 1.0, seeded())
    assert not list(features.parameters())
    assert list(features.state_dict()) == ["frequencies"]


# Perceptrons


@every_net
def test_a_new_network_answers_zero(make: type) -> None:
    net = make(dim=3, hidden=9, depth=2, features=4, generator=seeded())
    assert torch.equal(net(torch.ones(5, 3), torch.ones(5)), torch.zeros(5, 3))


@every_net
def test_weights_come_from_the_generator_alone(
    make: type, generator: torch.Generator
) -> None:
    one, same = (make(generator=seeded(4)).state_dict() for _ in range(2))
    other = make(generator=seeded(5)).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_hidden_layers_have_weights_of_variance_one_over_their_inputs() -> None:
    net = MLP(dim=3, hidden=150, depth=3, features=20, generator=seeded(6))
    assert [layer.weight.shape[0] for layer in net.layers] == [150, 150, 150, 3]
    assert net.layers[0].in_features == 3 + 2 * 20 + 1 + 2 * 20
    for layer in net.layers[:-1]:
        square = layer.weight.detach().double().square().flatten()
        error = float(square.std()) / math.sqrt(len(square))
        assert abs(float(square.mean()) - 1 / layer.in_features) <= 5 * error
        mean = float(layer.weight.detach().double().mean())
        assert abs(mean) <= 5 / math.sqrt(layer.in_features * len(square))
        # uniform, so nothing beyond √3 deviations
        bound = math.sqrt(3 / layer.in_features)
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.any()


def test_a_perceptron_is_its_layers() -> None:
    """By hand: (u, waves of u, c, waves of c) through SiLU layers."""
    net = stirred(MLP(2, hidden=7, depth=2, features=3, scale=1.5, generator=seeded()))
    u, c = normal(4, 2, seed=7), normal(4, seed=8)
    B, w = net.space.frequencies, net.time.frequencies[0]
    angles, phases = u @ B, c[:, None] * w
    h = torch.cat(
        [u, angles.cos(), angles.sin(), c[:, None], phases.cos(), phases.sin()], 1
    )
    for layer in net.layers[:-1]:
        z = h @ layer.weight.T + layer.bias
        h = z / (1 + (-z).exp())
    truth = h @ net.layers[-1].weight.T + net.layers[-1].bias
    torch.testing.assert_close(net(u, c), truth)
    # the waves of u are of the scale asked for, those of c of scale 1
    large = MLP(2, features=4000, scale=5.0, generator=seeded(9))
    assert float(large.space.frequencies.std()) == pytest.approx(5, rel=0.05)
    assert float(large.time.frequencies.std()) == pytest.approx(1, rel=0.06)


def test_every_point_is_answered_on_its_own() -> None:
    for make in EVERY_NET:
        net = stirred(make(generator=seeded()))
        u, c = normal(5, 2, seed=7), normal(5, seed=8)
        alone = [net(u[i : i + 1], c[i : i + 1]) for i in range(5)]
        torch.testing.assert_close(net(u, c), torch.cat(alone))


def test_outputs_may_be_more_or_fewer_than_the_dimensions() -> None:
    net = MLP(2, hidden=5, depth=1, features=2, outputs=7, generator=seeded())
    assert net(torch.ones(3, 2), torch.ones(3)).shape == (3, 7)


# The field that is a gradient


def test_the_energy_field_is_the_gradient_of_the_energy() -> None:
    net = stirred(EnergyMLP(hidden=12, depth=2, features=4, generator=seeded()))
    u, c = normal(6, 2, seed=7), normal(6, seed=8)
    truth = gradient(lambda u: net.energy(u, c), u)
    torch.testing.assert_close(net(u, c), truth)
    h = 1e-5
    for i in range(2):
        step = h * torch.eye(2).double()[i]
        slope = (net.energy(u + step, c) - net.energy(u - step, c)) / (2 * h)
        torch.testing.assert_close(net(u, c)[:, i], slope, rtol=1e-6, atol=1e-6)


def test_only_the_energy_field_has_a_symmetric_jacobian() -> None:
    u, c = normal(6, 2, seed=7), normal(1, seed=8)
    turning = []
    for make in EVERY_NET:
        net = stirred(make(hidden=12, depth=2, features=4, generator=seeded()))
        J = jacobian(lambda u, net=net: net(u, c), u)
        turning.append(float((J - J.mT).abs().max() / J.abs().max()))
    assert turning[0] > 0.1
    assert turning[1] < 1e-12


def test_the_energy_field_answers_with_and_without_gradients() -> None:
    net = stirred(EnergyMLP(hidden=12, depth=2, features=4, generator=seeded()))
    u, c = normal(6, 2, seed=7), normal(6, seed=8)
    with torch.no_grad():
        quiet = net(u, c)
    assert not quiet.requires_grad
    assert not u.requires_grad
    torch.testing.assert_close(quiet, net(u, c).detach())
    # a point in the middle of another computation is differentiated through
    v = u.clone().requires_grad_()
    through = net(2 * v, c)
    (slope,) = torch.autograd.grad(through.sum(), v)
    J = jacobian(lambda u: net(2 * u, c[:1]), u[:1])[0]
    torch.testing.assert_close(slope[0], J.sum(0))


def test_the_energy_field_trains() -> None:
    """It learns the gradient of ½‖u‖² + sin u_1 from values of that gradient."""
    net = EnergyMLP(hidden=24, depth=2, features=8, scale=1.0, generator=seeded())
    g = seeded(9)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=0.0)

    def error() -> Tensor:
        u = torch.randn(128, 2, generator=g)
        truth = u + torch.stack([u[:, 0].cos(), torch.zeros(128)], 1)
        return (net(u, torch.zeros(128)) - truth).square().sum(1).mean()

    first = float(error().detach())
    for _ in range(150):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    assert float(error().detach()) < 0.05 * first


# The variational autoencoder


def some_vae(dim: int = 3, latent: int = 2) -> VAE:
    vae = VAE(dim, latent, hidden=6, depth=2, generator=seeded(4)).double()
    with torch.no_grad():
        vae.log_s.fill_(-0.4)
    return vae


def through(layers: nn.ModuleList, h: Tensor) -> Tensor:
    """Affine maps with x/(1 + e^{−x}) between them."""
    for k, layer in enumerate(layers):
        h = h @ layer.weight.mT + layer.bias
        if k < len(layers) - 1:
            h = h / (1 + (-h).exp())
    return h


def test_the_joint_density_of_the_autoencoder_is_prior_times_decoder() -> None:
    vae, x, z = some_vae(), normal(4, 3, seed=1), normal(5, 4, 2, seed=2)
    decoder = Normal(through(vae.decoder, z), math.exp(-0.4))
    truth = Normal(0.0, 1.0).log_prob(z).sum(-1) + decoder.log_prob(x).sum(-1)
    torch.testing.assert_close(vae.log_joint(x, z), truth)
    torch.testing.assert_close(vae.decode(z), decoder.mean)
    assert vae.log_joint(x, z).requires_grad
    prior = vae.prior(4)
    truth = Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(prior.log_prob(z), truth)


def test_the_encoder_is_a_diagonal_gaussian_per_point() -> None:
    vae, x = some_vae(), normal(4, 3, seed=1)
    mean, log_std = through(vae.encoder, x).chunk(2, dim=1)
    q = vae.encode(x)
    assert isinstance(q, MultivariateNormal)
    assert tuple(q.batch_shape) == (4,)
    torch.testing.assert_close(q.mean, mean)
    truth = (2 * log_std).exp().diag_embed()
    torch.testing.assert_close(q.covariance_matrix, truth)


def test_the_autoencoder_has_the_layers_it_says() -> None:
    vae = VAE(3, 2, hidden=6, depth=2, generator=seeded(4))
    for layers, widths in (
        (vae.encoder, [3, 6, 6, 4]),
        (vae.decoder, [2, 6, 6, 3]),
    ):
        assert [layer.in_features for layer in layers] == widths[:-1]
        assert [layer.out_features for layer in layers] == widths[1:]
        assert not any(layer.bias.any() for layer in layers)
    # sums of order one come out of inputs of order one
    wide = VAE(2, 1, hidden=4000, depth=1, generator=seeded(4))
    weight = wide.decoder[-1].weight.detach()
    assert float(weight.square().sum(1).mean()) == pytest.approx(1, rel=0.05)
    again = VAE(3, 2, hidden=6, depth=2, generator=seeded(4))
    for first, second in zip(vae.parameters(), again.parameters(), strict=True):
        assert torch.equal(first, second)


def test_the_autoencoder_trains_towards_the_likelihood(generator) -> None:
    """On a line in the plane: −ELBO falls to near the entropy, and stays above it."""
    vae = VAE(2, 1, hidden=16, depth=1, generator=seeded(4))
    direction, width = torch.tensor([0.8, 0.6]), 0.2
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    g = seeded(5)

    def loss(n: int) -> Tensor:
        x = torch.randn(n, 1, generator=g) * direction
        x = x + width * torch.randn(n, 2, generator=g)
        q = vae.encode(x)
        eps = torch.randn(1, n, 1, generator=g)
        z = q.loc + (q.scale_tril @ eps[..., None]).squeeze(-1)
        return (q.log_prob(z) - vae.log_joint(x, z)).mean()

    for _ in range(400):
        optimizer.zero_grad()
        loss(128).backward()
        optimizer.step()
    C = torch.outer(direction, direction) + width**2 * torch.eye(2)
    entropy = float(MultivariateNormal(torch.zeros(2), C).entropy())
    reached = float(loss(20_000).detach())
    assert entropy - 0.05 < reached < entropy + 0.15
