"""One-symbol mistakes in the formulas of the package, by module.

Each is a snippet that occurs exactly once in the module, and what it becomes.
"""

MUTANTS: dict[str, list[tuple[str, str]]] = {
    "mixture": [
        (
            "return _average(self.weights, self.means)",
            "return _average(self.weights**2, self.means)",
        ),
        (
            "self.means - self.mean[..., None, :]",
            "self.means + self.mean[..., None, :]",
        ),
        ("return between + torch", "return between - torch"),
        (
            '"...k,...ki,...kj->...ij", w, m, m)',
            '"...k,...ki,...kj->...ij", w**2, m, m)',
        ),
        ("(Q * Lam[..., None, :]) @ Q.mT", "(Q * Lam[..., None, :]) @ Q"),
        ("(Q * Lam[..., None, :])", "(Q * Lam[..., :, None])"),
        (
            "y = _rotate(Q.mT, x[..., None, :] - self.means)",
            "y = _rotate(Q, x[..., None, :] - self.means)",
        ),
        (
            "y = _rotate(Q.mT, x[..., None, :] - self.means)",
            "y = _rotate(Q.mT, x[..., None, :] + self.means)",
        ),
        ("Lam.log().sum(-1) + self.dim", "Lam.log().sum(-1) - self.dim"),
        ("math.log(2 * math.pi)", "math.log(math.pi)"),
        ("log_normal = -0.5 * (", "log_normal = -1.0 * ("),
        ("y, precise_y) + log_det)", "y, precise_y) - log_det)"),
        ("precise_y = y / Lam", "precise_y = y * Lam"),
        ("precise_y = y / Lam", "precise_y = y / Lam.sqrt()"),
        ("return self.weights.log() + log_normal", "return self.weights + log_normal"),
        ("-_rotate(Q, precise_y)", "_rotate(Q, precise_y)"),
        ("-_rotate(Q, precise_y)", "-_rotate(Q.mT, precise_y)"),
        (
            "return _average(log_joint.softmax(-1), scores)",
            "return _average(log_joint.exp(), scores)",
        ),
        ("return log_joint.softmax(-1)\n", "return log_joint.exp()\n"),
        ("centred = scores - _average", "centred = scores + _average"),
        (
            "precisions = (Q / Lam[..., None, :]) @ Q.mT",
            "precisions = (Q / Lam[..., None, :]) @ Q",
        ),
        (
            "precisions = (Q / Lam[..., None, :])",
            "precisions = (Q * Lam[..., None, :])",
        ),
        ("return spread - torch", "return spread + torch"),
        ('->...ij", r, centred, centred)', '->...ij", r, scores, scores)'),
        ('"...ij,...j->...i", Q, v)', '"...ji,...j->...i", Q, v)'),
        ("chosen(Lam, K, d).sqrt() * z", "chosen(Lam, K, d) * z"),
        (
            "chosen(self.means, K, d) + _rotate(",
            "chosen(self.means, K, d) - 2 * _rotate(",
        ),
        ("chosen(Q, K, d, d), chosen(Lam", "chosen(Q, K, d, d).mT, chosen(Lam"),
        (
            "noised = alpha[..., None] ** 2 * Lam + sigma[..., None] ** 2",
            "noised = alpha[..., None] * Lam + sigma[..., None] ** 2",
        ),
        (
            "noised = alpha[..., None] ** 2 * Lam + sigma[..., None] ** 2",
            "noised = alpha[..., None] ** 2 * Lam + sigma[..., None]",
        ),
        (
            "noised = alpha[..., None] ** 2 * Lam + sigma[..., None] ** 2",
            "noised = alpha[..., None] ** 2 * Lam - sigma[..., None] ** 2",
        ),
        (
            "(alpha[..., None] * self.means).expand",
            "(self.means + 0 * alpha[..., None]).expand",
        ),
        (
            "weights = self.noised(alpha, sigma).responsibilities(x_t)",
            "weights = self.noised(sigma, alpha).responsibilities(x_t)",
        ),
        (
            "noised = alpha**2 * Lam + sigma**2\n        gain",
            "noised = alpha**2 * Lam + sigma\n        gain",
        ),
        ("gain = alpha * Lam / noised", "gain = Lam / noised"),
        ("gain = alpha * Lam / noised", "gain = sigma * Lam / noised"),
        ("residual = _rotate(Q.mT, x_t", "residual = _rotate(Q, x_t"),
        ("x_t[..., None, :] - alpha * self.means", "x_t[..., None, :] - self.means"),
        (
            "means = self.means + _rotate(Q, gain",
            "means = self.means - _rotate(Q, gain",
        ),
        (
            "means = self.means + _rotate(Q, gain",
            "means = self.means + _rotate(Q.mT, gain",
        ),
        ("(Lam * sigma**2 / noised)", "(Lam * sigma / noised)"),
        ("(Lam * sigma**2 / noised)", "(Lam * alpha**2 / noised)"),
        ("angle = 2 * math.pi * torch.arange(n", "angle = math.pi * torch.arange(n"),
    ],
    "path": [
        ("start ** (1 / power), stop ** (1 / power)", "start**power, stop**power"),
        ("times[0], times[-1] = start, stop", "times[0], times[-1] = stop, start"),
        (
            "return self.variance_dot(t) / (2 * self.sigma(t))",
            "return self.variance_dot(t) / self.sigma(t)",
        ),
        (
            "return self.alpha_dot(t) / self.alpha(t)",
            "return self.alpha_dot(t) * self.alpha(t)",
        ),
        (
            "(self.variance_dot(t) - 2 * self.f(t)",
            "(self.variance_dot(t) + 2 * self.f(t)",
        ),
        ("(self.variance_dot(t) - 2 * self.f(t)", "(self.variance_dot(t) - self.f(t)"),
        (
            "2 * self.f(t) * self.variance(t)).sqrt()",
            "2 * self.f(t) * self.sigma(t)).sqrt()",
        ),
        (
            "return 2 * self.alpha(t).log() - self.variance(t).log()",
            "return self.alpha(t).log() - self.variance(t).log()",
        ),
        (
            "return 2 * self.alpha(t).log() - self.variance(t).log()",
            "return 2 * self.alpha(t).log() - self.sigma(t).log()",
        ),
        (
            "expand(self.alpha(t), x_0) * x_0 + expand",
            "expand(self.alpha(t), x_0) * x_0 - expand",
        ),
        ("+ expand(self.sigma(t), x_0) * eps", "+ expand(self.variance(t), x_0) * eps"),
        (
            "mixture.noised(self.alpha(t), self.sigma(t))",
            "mixture.noised(self.alpha(t), self.variance(t))",
        ),
        ("return zero, -1 / self.sigma(t)", "return zero, 1 / self.sigma(t)"),
        ("return zero, -1 / self.sigma(t)", "return zero, -1 / self.variance(t)"),
        ("return -self.sigma(t), self.alpha(t)", "return self.sigma(t), self.alpha(t)"),
        (
            "return -self.sigma(t), self.alpha(t)",
            "return -self.alpha(t), self.sigma(t)",
        ),
        (
            "return self.alpha_dot(t), self.sigma_dot(t)",
            "return self.alpha_dot(t), -self.sigma_dot(t)",
        ),
        ("determinant = alpha * b - sigma * a", "determinant = alpha * b + sigma * a"),
        (
            "x_0 = (b * x_t - sigma * prediction)",
            "x_0 = (b * x_t + sigma * prediction)",
        ),
        (
            "x_0 = (b * x_t - sigma * prediction)",
            "x_0 = (b * x_t - alpha * prediction)",
        ),
        (
            "eps = (alpha * prediction - a * x_t)",
            "eps = (alpha * prediction - b * x_t)",
        ),
        (
            "eps = (alpha * prediction - a * x_t)",
            "eps = (sigma * prediction - a * x_t)",
        ),
        ("return c * x_0 + d * eps", "return d * x_0 + c * eps"),
        ("return c * x_0 + d * eps", "return c * x_0 - d * eps"),
        (
            "self.diffusion / math.sqrt(2 * self.beta)",
            "self.diffusion / math.sqrt(self.beta)",
        ),
        (
            "torch.exp(-self.beta * self.time(t))",
            "torch.exp(-2 * self.beta * self.time(t))",
        ),
        ("return self.diffusion**2 * t", "return self.diffusion * t"),
        ("torch.expm1(-2 * self.beta * t)", "torch.expm1(-self.beta * t)"),
        ("-(self.stationary_std**2)", "-(self.stationary_std)"),
        ("full_like(self.time(t), -self.beta)", "full_like(self.time(t), self.beta)"),
        (
            "full_like(self.time(t), self.diffusion)",
            "full_like(self.time(t), self.diffusion**2)",
        ),
        (
            "self.beta_min + self.time(t) * (self.beta_max - self.beta_min)",
            "self.beta_min + self.time(t) * self.beta_max",
        ),
        (
            "return -0.5 * (self.beta_min * t + 0.5 *",
            "return -0.5 * (self.beta_min * t +",
        ),
        (
            "return -0.5 * (self.beta_min * t + 0.5 *",
            "return -1.0 * (self.beta_min * t + 0.5 *",
        ),
        (
            "(self.beta_max - self.beta_min) * t**2)",
            "(self.beta_max - self.beta_min) * t)",
        ),
        (
            "return -torch.expm1(2 * self.log_alpha(t))",
            "return -torch.expm1(self.log_alpha(t))",
        ),
        (
            "return -torch.expm1(2 * self.log_alpha(t))",
            "return 1 - torch.exp(2 * self.log_alpha(t))",
        ),
        ("return -0.5 * self.beta(t)", "return -self.beta(t)"),
        ("return self.beta(t).sqrt()", "return self.beta(t)"),
        ("return 0.5 * math.pi * self.alpha(t)", "return math.pi * self.alpha(t)"),
        ("return -0.5 * math.pi * (0.5 *", "return 0.5 * math.pi * (0.5 *"),
        ("return (math.pi * (0.5 * math.pi", "return (0.5 * math.pi * (0.5 * math.pi"),
        (
            "self.sigma_min**2 * torch.expm1(2 * self.log_ratio",
            "self.sigma_min**2 * torch.expm1(self.log_ratio",
        ),
        ("self.sigma_min**2 * torch.expm1(2 *", "self.sigma_min * torch.expm1(2 *"),
        (
            "math.log(self.sigma_max / self.sigma_min)",
            "math.log(self.sigma_max - self.sigma_min)",
        ),
        (
            "math.sqrt(2 * self.log_ratio) * growth",
            "math.sqrt(self.log_ratio) * growth",
        ),
        ("return -1 / self.alpha(t)", "return 1 / self.alpha(t)"),
        (
            "return (2 * self.time(t) / self.alpha(t)).sqrt()",
            "return (self.time(t) / self.alpha(t)).sqrt()",
        ),
        ("return slope.to(t.dtype)", "return slope"),
    ],
    "sde": [
        ("expand(path.f(t), x) * x, path.g", "-expand(path.f(t), x) * x, path.g"),
        ("expand(path.f(t), x) * x, path.g", "expand(path.f(t), x), path.g"),
        ("path.g, (0.0, path.t_max))", "path.g, (0.0, 2 * path.t_max))"),
        ("return SDE(drift, None, sde.domain)", "return SDE(drift, None)"),
        ("g @ g.mT if g.ndim == 2 else g**2", "g @ g if g.ndim == 2 else g**2"),
        ("g @ g.mT if g.ndim == 2 else g**2", "g.mT @ g if g.ndim == 2 else g**2"),
        ("g @ g.mT if g.ndim == 2 else g**2", "g @ g.mT if g.ndim == 2 else g"),
        (
            "return sde.drift(x, t) - 0.5 * (1 + eta**2)",
            "return sde.drift(x, t) + 0.5 * (1 + eta**2)",
        ),
        (
            "return sde.drift(x, t) - 0.5 * (1 + eta**2)",
            "return sde.drift(x, t) - (1 + eta**2)",
        ),
        ("0.5 * (1 + eta**2)", "0.5 * (1 + eta)"),
        ("0.5 * (1 + eta**2)", "0.5 * (1 - eta**2)"),
        ("return sde.drift(x, t) - 0.5", "return -sde.drift(x, t) - 0.5"),
        ("return SDE(drift, lambda t: eta *", "return SDE(drift, lambda t: eta**2 *"),
        ("return SDE(lambda x, t: 0.5 * score(x)", "return SDE(lambda x, t: score(x)"),
        (
            "return v @ g.mT if g.ndim == 2 else g * v",
            "return v @ g if g.ndim == 2 else g * v",
        ),
        ("dx = sde.drift(x, t) * (s - t)", "dx = sde.drift(x, t) * (t - s)"),
        ("dx = sde.drift(x, t) * (s - t)", "dx = sde.drift(x, s) * (s - t)"),
        ("dx = sde.drift(x, t) * (s - t)", "dx = sde.drift(x, t) * (s - t).abs()"),
        (
            "g = _coefficient(sde.diffusion(t), x)\n            dx",
            "g = _coefficient(sde.diffusion(s), x)\n            dx",
        ),
        ("h = s - t\n", "h = t - s\n"),
        ("drift = sde.drift(x, t)\n        if", "drift = sde.drift(x, s)\n        if"),
        (
            "x = x + 0.5 * (drift + sde.drift(x + drift * h, s)) * h",
            "x = x + 0.5 * (drift + sde.drift(x - drift * h, s)) * h",
        ),
        (
            "x = x + 0.5 * (drift + sde.drift(x + drift * h, s)) * h",
            "x = x + 0.5 * (drift + sde.drift(x + drift * h, t)) * h",
        ),
        (
            "x = x + 0.5 * (drift + sde.drift(x + drift * h, s)) * h",
            "x = x + (drift + sde.drift(x + drift * h, s)) * h",
        ),
        (
            "g_next = _coefficient(sde.diffusion(s), x)",
            "g_next = _coefficient(sde.diffusion(t), x)",
        ),
        ("predicted = x + drift * h + _times(g, dw)", "predicted = x + drift * h"),
        (
            "predicted = x + drift * h + _times(g, dw)",
            "predicted = x + drift * h - _times(g, dw)",
        ),
        (
            "drift_mean = 0.5 * (drift + sde.drift(predicted, s))",
            "drift_mean = 0.5 * (drift + sde.drift(predicted, t))",
        ),
        ("drift_mean = 0.5 * (drift + sde.drift(predicted, s))", "drift_mean = drift"),
        ("_times(0.5 * (g + g_next), dw)", "_times(g, dw)"),
        ("(s - t).abs().sqrt() * z", "(s - t).abs() * z"),
        (
            "torch.autograd.grad(velocity[:, i].sum(), x, retain_graph=True)[0][:, i]",
            "torch.autograd.grad(velocity[:, i].sum(), x, retain_graph=True)[0][:, 0]",
        ),
        (
            "return prior_log_prob(path[-1]) + change[-1]",
            "return prior_log_prob(path[-1]) - change[-1]",
        ),
        ("return prior_log_prob(path[-1])", "return prior_log_prob(path[0])"),
    ],
    "denoiser": [
        ("return -self.eps(x_t, t) / expand", "return self.eps(x_t, t) / expand"),
        (
            "return -self.eps(x_t, t) / expand(self.path.sigma(t), x_t)",
            "return -self.eps(x_t, t) / expand(self.path.variance(t), x_t)",
        ),
        (
            "return alpha * self.eps(x_t, t) - sigma",
            "return alpha * self.eps(x_t, t) + sigma",
        ),
        (
            "return alpha * self.eps(x_t, t) - sigma * self.x0(x_t, t)",
            "return sigma * self.eps(x_t, t) - alpha * self.x0(x_t, t)",
        ),
        (
            "return alpha_dot * self.x0(x_t, t) + sigma_dot",
            "return alpha_dot * self.x0(x_t, t) - sigma_dot",
        ),
        (
            "sigma_dot = expand(self.path.sigma_dot(t), x_t)",
            "sigma_dot = expand(self.path.variance_dot(t), x_t)",
        ),
        (
            "posterior_mean(x_t, self.path.alpha(t), self.path.sigma(t))",
            "posterior_mean(x_t, self.path.alpha(t), self.path.variance(t))",
        ),
        (
            "posterior_mean(x_t, self.path.alpha(t), self.path.sigma(t))",
            "posterior_mean(x_t, self.path.sigma(t), self.path.alpha(t))",
        ),
        (
            "return -expand(self.path.sigma(t), x_t) * self.score",
            "return expand(self.path.sigma(t), x_t) * self.score",
        ),
        (
            "return -expand(self.path.sigma(t), x_t) * self.score",
            "return -expand(self.path.alpha(t), x_t) * self.score",
        ),
        (
            "return self.path.marginal(self.mixture, t).score(x_t)",
            "return self.mixture.score(x_t)",
        ),
        ("half_variance_dot = 0.5 * expand", "half_variance_dot = 1.0 * expand"),
        (
            "* self.x0(x_t, t) - half_variance_dot",
            "* self.x0(x_t, t) + half_variance_dot",
        ),
    ],
    "samplers": [
        (
            "added = -torch.expm1(path.log_snr(t) - path.log_snr(s))",
            "added = -torch.expm1(path.log_snr(s) - path.log_snr(t))",
        ),
        (
            "added = -torch.expm1(path.log_snr(t) - path.log_snr(s)) * sigma_t**2",
            "added = -torch.expm1(path.log_snr(t) - path.log_snr(s)) * sigma_s**2",
        ),
        (
            "added = -torch.expm1(path.log_snr(t) - path.log_snr(s)) * sigma_t**2",
            "added = -torch.expm1(path.log_snr(t) - path.log_snr(s)) * sigma_t",
        ),
        (
            "varsigma = eta * sigma_s / sigma_t * added.sqrt()",
            "varsigma = eta * sigma_t / sigma_s * added.sqrt()",
        ),
        (
            "varsigma = eta * sigma_s / sigma_t * added.sqrt()",
            "varsigma = eta * sigma_s / sigma_t * added",
        ),
        (
            "varsigma = eta * sigma_s / sigma_t * added.sqrt()",
            "varsigma = eta**2 * sigma_s / sigma_t * added.sqrt()",
        ),
        (
            "varsigma = eta * sigma_s / sigma_t * added.sqrt()",
            "varsigma = eta * added.sqrt()",
        ),
        (
            "sigma_t, alpha_s, sigma_s = path.sigma(t), path.alpha(s), path.sigma(s)",
            "sigma_t, alpha_s, sigma_s = path.sigma(t), path.alpha(t), path.sigma(s)",
        ),
        (
            "denoiser.x0(x, t), denoiser.eps(x, t)",
            "denoiser.x0(x, s), denoiser.eps(x, s)",
        ),
        (
            "x = alpha_s * x_0 + (sigma_s**2 - varsigma**2)",
            "x = alpha_s * x_0 + (sigma_s**2 + varsigma**2)",
        ),
        (
            "x = alpha_s * x_0 + (sigma_s**2 - varsigma**2)",
            "x = alpha_s * x_0 + (sigma_s**2)",
        ),
        ("x = alpha_s * x_0 + (", "x = x_0 + ("),
        ("x = alpha_s * x_0 + (", "x = alpha_s * x_0 - ("),
        ("x = x + varsigma * z", "x = x + varsigma**2 * z"),
        (
            "end = deque(states, maxlen=1)",
            "end = deque([next(iter(states))], maxlen=1)",
        ),
    ],
    "metrics": [
        (
            "h_x = 2 * (to_y / m - within_x / (n - 1))",
            "h_x = 2 * (to_y / m + within_x / (n - 1))",
        ),
        (
            "h_x = 2 * (to_y / m - within_x / (n - 1))",
            "h_x = to_y / m - within_x / (n - 1)",
        ),
        ("h_y = 2 * (to_x / n - within_y / (m - 1))", "h_y = 2 * to_x / n"),
        ("value = 2 * to_y.mean() / m", "value = to_y.mean() / m"),
        ("- within_x.mean() / (n - 1)", "- within_x.mean() / n"),
        ("- within_y.mean() / (m - 1)", "+ within_y.mean() / (m - 1)"),
        (
            "error = (h_x.var() / n + h_y.var() / m).sqrt()",
            "error = (h_x.var() / n + h_y.var() / m)",
        ),
        (
            "error = (h_x.var() / n + h_y.var() / m).sqrt()",
            "error = (h_x.var() / n).sqrt()",
        ),
        (
            "squared = (x_sorted - y_sorted).square().mean()",
            "squared = (x_sorted - y_sorted).abs().mean()",
        ),
        (
            "squared = (x_sorted - y_sorted).square().mean()",
            "squared = (x_sorted + y_sorted).square().mean()",
        ),
        (
            "squared = (x_sorted - y_sorted).square().mean()",
            "squared = (x_sorted - y_sorted).square().sum()",
        ),
        (
            "y_sorted, y_order = (y @ u).sort(0)",
            "y_sorted, y_order = (y @ u).sort(0, descending=True)",
        ),
        (
            "((potential_x.var() + potential_y.var()) / len(x))",
            "(potential_x.var() / len(x))",
        ),
        ("float(error / (2 * value))", "float(error / value)"),
        ("float(error / (2 * value))", "float(error / 2)"),
        ("angle = math.pi * torch.arange", "angle = 0.5 * math.pi * torch.arange"),
        ("return u / u.norm(dim=0)", "return u"),
        ("slope = 2 * (x_sorted - y_sorted)", "slope = x_sorted - y_sorted"),
        ("slope = 2 * (x_sorted - y_sorted)", "slope = 2 * (x_sorted + y_sorted)"),
        ("rise = 0.5 * (slope[1:] + slope[:-1])", "rise = (slope[1:] + slope[:-1])"),
        ("potential = potential - potential.mean(0)\n", "potential = potential * 2\n"),
        ("scatter_(0, order, potential)", "add(potential)"),
        (
            "float(values.mean()), float(values.std()",
            "float(values.sum()), float(values.std()",
        ),
        ("values.std() / math.sqrt(repeats)", "values.std() / repeats"),
    ],
    "check": [
        ("holds &= number > above", "holds &= number >= above"),
        ("holds &= number < below", "holds &= number <= below"),
        ("abs(number - near) <= within", "(number - near) <= within"),
        ("if not holds:", "if holds:"),
    ],
    "plots": [
        ('indexing="xy"', 'indexing="ij"'),
        ("width, height = 2 * stds * Lam.sqrt()", "width, height = stds * Lam.sqrt()"),
        ("torch.atan2(Q[1, 0], Q[0, 0])", "torch.atan2(Q[0, 0], Q[1, 0])"),
        ("v / length.sqrt(), v)", "v / length, v)"),
        ("states.movedim(1, 0)", "states.flip(0).movedim(1, 0)"),
    ],
}
