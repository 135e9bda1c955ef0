/**
 * Langevin dynamics: plain, Metropolis-adjusted, and down a ladder of noise levels.
 *
 * No DOM here, and the letters of the Python package. Every run is a generator of its
 * states, x first; `generator` has `normal(count)`, and `uniform(count)` for Metropolis.
 */

import { time_at } from "./core.js";

/** Decreasing times at which σ/α runs geometrically from high to low. */
export function noise_ladder(path, high, low, levels) {
  return Float64Array.from({ length: levels }, (_, i) =>
    time_at(path, high * (low / high) ** (i / (levels - 1))),
  );
}

/** h = relative · σ(t)². */
export function variance_rule(path, relative) {
  return (t) => relative * path.variance(t);
}

/** x + (h/2) s + √h z. */
export function langevin_step(x, s, h, z) {
  const root = Math.sqrt(h);
  return x.map((value, i) => value + 0.5 * h * s[i] + root * z[i]);
}

/** Unadjusted: x ← x + (h/2) s(x) + √h z. */
export function* langevin(score, x, step, steps, generator) {
  yield x;
  for (let k = 0; k < steps; k++) {
    x = langevin_step(x, score(x), step, generator.normal(x.length));
    yield x;
  }
}

/** Those steps as proposals y, accepted with probability p(y) q(x|y) / (p(x) q(y|x)). */
export function* metropolis_langevin(log_prob, score, x, step, steps, generator) {
  yield x;
  let [log_p, s] = [log_prob(x), score(x)];
  const d = x.length / log_p.length;
  for (let k = 0; k < steps; k++) {
    const y = langevin_step(x, s, step, generator.normal(x.length));
    const [log_p_y, s_y] = [log_prob(y), score(y)];
    const u = generator.uniform(log_p.length);
    [x, s] = [x.slice(), s.slice()];
    for (let i = 0; i < u.length; i++) {
      let [forth, back] = [0, 0]; // log q(y|x) and log q(x|y), but for their constant
      for (let j = i * d; j < (i + 1) * d; j++) {
        forth -= (y[j] - x[j] - 0.5 * step * s[j]) ** 2 / (2 * step);
        back -= (x[j] - y[j] - 0.5 * step * s_y[j]) ** 2 / (2 * step);
      }
      if (Math.log(u[i]) >= log_p_y[i] + back - log_p[i] - forth) continue;
      log_p[i] = log_p_y[i];
      for (let j = i * d; j < (i + 1) * d; j++) [x[j], s[j]] = [y[j], s_y[j]];
    }
    yield x;
  }
}

/** `steps` Langevin steps on score(·, t) at each time t, of size rule(t); x is rescaled
 *  by α_s/α_t between levels. */
export function* annealed_langevin(score, path, x, times, rule, steps, generator) {
  yield x;
  let alpha = path.alpha(times[0]);
  for (const t of times) {
    const scale = path.alpha(t) / alpha;
    x = x.map((value) => scale * value);
    alpha = path.alpha(t);
    for (let k = 0; k < steps; k++) {
      x = langevin_step(x, score(x, t), rule(t), generator.normal(x.length));
      yield x;
    }
  }
}

/** The mean of P(component k | x) over the points, for every k: the weights, if the
 *  points are a sample of the mixture. */
export function shares(mixture, x) {
  const K = mixture.n_components;
  const share = new Float64Array(K);
  const r = mixture.responsibilities(x);
  for (let i = 0; i < r.length; i++) share[i % K] += r[i] / (r.length / K);
  return share;
}
