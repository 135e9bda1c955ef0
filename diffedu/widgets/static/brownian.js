/**
 * One Brownian path seen at every step size, and linear SDEs driven by it.
 *
 * No DOM here, and the letters of the Python package. Time runs over [0, 1]; level k is
 * the grid of step h = 2⁻ᵏ, and a path known at the finest level is known at all others.
 */

import { Generator, average } from "./core.js";

/** Levels go from 0 (one step) to this one. */
export const FINEST = 11;

// --------------------------------------------------------------------------------- path

/**
 * A Brownian path at 2ᴸ + 1 times, from 2ᴸ standard normals, by Lévy's construction:
 * w_1 = z_0, then level after level each midpoint, w_m = ½(w_t + w_s) + ½√(s − t) z.
 */
export function levy_path(z) {
  const n = z.length;
  const w = new Float64Array(n + 1);
  w[n] = z[0];
  let used = 1;
  for (let stride = n; stride > 1; stride /= 2) {
    const deviation = 0.5 * Math.sqrt(stride / n);
    for (let i = 0; i < n; i += stride)
      w[i + stride / 2] = 0.5 * (w[i] + w[i + stride]) + deviation * z[used++];
  }
  return w;
}

/**
 * The paths of a seed, drawn when they are first asked for. Each is {w, rest}: `rest` is
 * one more normal, for what ∫w dt owes to w between the finest times (see `exact`).
 */
export class Paths {
  constructor(seed, level = FINEST) {
    this.generator = new Generator(seed);
    this.n = 2 ** level;
    this.drawn = [];
  }

  at(i) {
    while (this.drawn.length <= i) {
      const z = this.generator.normal(this.n + 1);
      this.drawn.push({ w: levy_path(z.subarray(0, this.n)), rest: z[this.n] });
    }
    return this.drawn[i];
  }
}

/** The values that a path has at a level. */
export function at_level(w, level) {
  const stride = (w.length - 1) / 2 ** level;
  return Float64Array.from({ length: 2 ** level + 1 }, (_, i) => w[i * stride]);
}

/** Σ |w_{t+h} − w_t|ᵖ over the steps of a level: tends to ∞ for p = 1, to 1 for p = 2. */
export function variation(w, level, power) {
  const values = at_level(w, level);
  let sum = 0;
  for (let i = 1; i < values.length; i++)
    sum += Math.abs(values[i] - values[i - 1]) ** power;
  return sum;
}

// ---------------------------------------------------------------------------------- sde

/** dx = μ x dt + ν x dw (multiplicative) or dx = μ x dt + ν dw (additive), from x_0. */
export class LinearSDE {
  constructor(process, mu, nu, x_0 = 1) {
    const multiplicative = process === "multiplicative";
    Object.assign(this, { multiplicative, mu, nu, x_0 });
    this.constant = multiplicative ? 0 : nu; // the diffusion is constant + slope · x
    this.slope = multiplicative ? nu : 0;
  }
}

/** x + f h + g Δw. */
export function euler_maruyama_step(sde, x, h, dw) {
  return x + sde.mu * x * h + (sde.constant + sde.slope * x) * dw;
}

/** x + f h + g Δw + ½ g g′ (Δw² − h). */
export function milstein_step(sde, x, h, dw) {
  const g = sde.constant + sde.slope * x;
  return x + sde.mu * x * h + g * dw + 0.5 * g * sde.slope * (dw * dw - h);
}

/** The states at the times of a level, x_0 first; `states` may be given to be filled. */
export function simulate(
  step,
  sde,
  w,
  level,
  states = new Float64Array(2 ** level + 1),
) {
  const n = 2 ** level;
  const stride = (w.length - 1) / n;
  states[0] = sde.x_0;
  for (let i = 0; i < n; i++)
    states[i + 1] = step(sde, states[i], 1 / n, w[(i + 1) * stride] - w[i * stride]);
  return states;
}

/**
 * The exact solution at the times of the path.
 *
 * Multiplicative: x_0 exp((μ − ½ν²) t + ν w_t). Additive: x_t = e^{μt} x_0 + ν ξ_t with
 * ξ_t = ∫₀ᵗ e^{μ(t−s)} dw_s. Over a step h, ξ gains ∫₀ʰ e^{μ(h−s)} dw_s, of variance
 * v = (e^{2μh} − 1)/(2μ); its mean given the step's Δw is c Δw, c = (e^{μh} − 1)/(μh),
 * and the remainder has variance q = v − c² h. By t = 1 the remainders add up to a
 * normal number of variance r = q (e^{2μ} − 1)/(e^{2μh} − 1), here √r `rest`: x_1 is
 * exact. Before t = 1 the mean given `rest` is returned, nearer to x_t than √r.
 */
export function exact(sde, { w, rest }) {
  const { x_0, mu, nu } = sde;
  const n = w.length - 1;
  if (sde.multiplicative)
    return w.map((w_t, i) => x_0 * Math.exp(((mu - 0.5 * nu ** 2) * i) / n + nu * w_t));
  const { growth, c, r } = over_step(mu, 1 / n);
  const x = new Float64Array(n + 1);
  x[0] = x_0;
  for (let i = 0; i < n; i++) x[i + 1] = growth * x[i] + nu * c * (w[i + 1] - w[i]);
  const share = (t) => (mu === 0 ? t : Math.sinh(mu * t) / Math.sinh(mu));
  return x.map((x_t, i) => x_t + nu * Math.sqrt(r) * rest * share(i / n));
}

/** x_1 alone. */
export function exact_end(sde, { w, rest }) {
  const { x_0, mu, nu } = sde;
  const n = w.length - 1;
  if (sde.multiplicative) return x_0 * Math.exp(mu - 0.5 * nu ** 2 + nu * w[n]);
  const { growth, c, r } = over_step(mu, 1 / n);
  let x = x_0;
  for (let i = 0; i < n; i++) x = growth * x + nu * c * (w[i + 1] - w[i]);
  return x + nu * Math.sqrt(r) * rest;
}

/** The letters of `exact` for a step h. */
function over_step(mu, h) {
  const c = integral(mu, h) / h;
  const v = integral(2 * mu, h);
  const q = Math.max(0, v - c ** 2 * h);
  return { growth: Math.exp(mu * h), c, r: (q * integral(2 * mu, 1)) / v };
}

/** ∫₀ʰ e^{at} dt. */
function integral(a, h) {
  return a === 0 ? h : Math.expm1(a * h) / a;
}

// -------------------------------------------------------------------------------- errors

/** |X_h(1) − X(1)| for every level, path after path. */
export class StrongErrors {
  constructor(step, sde, level = FINEST) {
    Object.assign(this, { step, sde });
    this.errors = Array.from({ length: level + 1 }, () => []);
    this.states = new Float64Array(2 ** level + 1);
  }

  get count() {
    return this.errors[0].length;
  }

  add(path) {
    const end = exact_end(this.sde, path);
    this.errors.forEach((errors, k) => {
      simulate(this.step, this.sde, path.w, k, this.states);
      errors.push(Math.abs(this.states[2 ** k] - end));
    });
  }

  /** E|X_h(1) − X(1)| at a level: {value, standard_error}. */
  at(level) {
    return average(this.errors[level]);
  }

  /**
   * The slope of log E|X_h(1) − X(1)| on log h over the levels first … last, by least
   * squares. It is Σ_k a_k log Ē_k; all levels use the same paths, so its standard error
   * is that of the mean of Σ_k a_k e_k / Ē_k over them.
   */
  order(first, last) {
    const levels = Array.from({ length: last - first + 1 }, (_, i) => first + i);
    const centre = (first + last) / 2;
    const squares = levels.reduce((sum, k) => sum + (k - centre) ** 2, 0);
    const weights = levels.map((k) => (centre - k) / (squares * Math.LN2));
    const means = levels.map((k) => this.at(k).value);
    const value = means.reduce((sum, mean, j) => sum + weights[j] * Math.log(mean), 0);
    const terms = this.errors[0].map((_, i) =>
      levels.reduce(
        (sum, k, j) => sum + (weights[j] * this.errors[k][i]) / means[j],
        0,
      ),
    );
    return { value, standard_error: average(terms).standard_error };
  }
}
