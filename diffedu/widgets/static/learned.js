/**
 * Learned denoisers, for the page: the network of `nets.py`, its readings as in
 * `denoiser.py`, and their distance from the exact ones. No DOM; letters as in Python.
 */

import { decode, time_at } from "./core.js";

const LEVELS = 20;
export const LOW = 0.02; // least and greatest noise-to-signal ratio σ/α of the measure
export const HIGH = 10;

/** The noise levels σ/α at which a field is measured: log-spaced. */
export const RATIOS = Float64Array.from(
  { length: LEVELS },
  (_, i) => LOW * (HIGH / LOW) ** (i / (LEVELS - 1)),
);

/** F(u, c): a multilayer perceptron on (u, c) and random Fourier features of both. */
export class MLP {
  /**
   * `widths` of the layers, inputs first; `space` (2·features) and `time` (features)
   * are the frequencies of u and of c; `weights`: layer after layer, the matrix
   * (outputs × inputs) row after row, then the bias.
   */
  constructor({ widths, space, time, weights }) {
    this.space = space;
    this.time = time;
    this.layers = [];
    let start = 0;
    for (let l = 1; l < widths.length; l++) {
      const [inputs, outputs] = [widths[l - 1], widths[l]];
      const end = start + inputs * outputs;
      this.layers.push({
        inputs,
        outputs,
        W: weights.subarray(start, end),
        b: weights.subarray(end, end + outputs),
      });
      start = end + outputs;
    }
  }

  /** F at points u of the plane, all at the noise coordinate c. */
  evaluate(u, c) {
    const { space, time, layers } = this;
    const features = time.length;
    const [first, ...rest] = layers;
    // what c contributes to the first layer is the same for every point
    const own = 2 + 2 * features;
    const embedding = [c, ...time.map((w) => Math.cos(w * c))];
    embedding.push(...time.map((w) => Math.sin(w * c)));
    const b = first.b.map((bias, j) => {
      const row = j * first.inputs + own;
      return embedding.reduce((sum, e, i) => sum + first.W[row + i] * e, bias);
    });
    const input = new Float64Array(own);
    let h = new Float64Array(Math.max(...layers.map(({ outputs }) => outputs)));
    let next = h.slice();
    const F = new Float64Array(u.length);
    for (let i = 0; i < u.length; i += 2) {
      input[0] = u[i];
      input[1] = u[i + 1];
      for (let k = 0; k < features; k++) {
        const angle = u[i] * space[k] + u[i + 1] * space[features + k];
        input[2 + k] = Math.cos(angle);
        input[2 + features + k] = Math.sin(angle);
      }
      for (let j = 0; j < first.outputs; j++) {
        let sum = b[j];
        for (let k = 0, w = j * first.inputs; k < own; k++, w++)
          sum += first.W[w] * input[k];
        h[j] = sum;
      }
      for (const { inputs, outputs, W, b: bias } of rest) {
        for (let k = 0; k < inputs; k++) h[k] /= 1 + Math.exp(-h[k]); // SiLU
        for (let j = 0; j < outputs; j++) {
          let sum = bias[j];
          for (let k = 0, w = j * inputs; k < inputs; k++, w++) sum += W[w] * h[k];
          next[j] = sum;
        }
        [h, next] = [next, h];
      }
      F[i] = h[0];
      F[i + 1] = h[1];
    }
    return F;
  }
}

/** The denoiser that a network makes of its prediction, u and c standardised. */
export class NeuralDenoiser {
  constructor({ path, net, target, mean, scale }) {
    Object.assign(this, { path, net, target, mean, scale });
  }

  /** {x_0, eps}: E[x_0 | x_t] and E[ε | x_t], from one evaluation of the network. */
  predict(x_t, t) {
    const { path, net, target, mean: m, scale: s } = this;
    const [alpha, sigma] = [path.alpha(t), path.sigma(t)];
    const rho = Math.hypot(alpha * s, sigma);
    const [cos, sin] = [(alpha * s) / rho, sigma / rho];
    const u = x_t.map((x, i) => (x - alpha * m[i % 2]) / rho);
    const F = net.evaluate(u, -Math.asinh((alpha * s) / sigma));
    const pair = {
      v: (i) => [cos * u[i] - sin * F[i], sin * u[i] + cos * F[i]],
      x0: (i) => [F[i], (u[i] - cos * F[i]) / sin],
      eps: (i) => [(u[i] - sin * F[i]) / cos, F[i]],
      score: (i) => [(u[i] + sin * sin * F[i]) / cos, -sin * F[i]],
    }[target];
    const [x_0, eps] = [new Float64Array(u.length), new Float64Array(u.length)];
    for (let i = 0; i < u.length; i++) {
      const [a, b] = pair(i);
      x_0[i] = m[i % 2] + s * a;
      eps[i] = b;
    }
    return { x_0, eps };
  }

  /** E[ε | x_t]. */
  eps(x_t, t) {
    return this.predict(x_t, t).eps;
  }

  /** −E[ε | x_t] / σ. */
  score(x_t, t) {
    const sigma = this.path.sigma(t);
    return this.eps(x_t, t).map((eps) => -eps / sigma);
  }
}

/** The denoisers of one recorded training, one per checkpoint; throws on bad state. */
export function denoisers(training, path) {
  const { label, steps, target, mean, scale, widths } = training;
  const [space, time, all] = ["space", "time", "weights"].map((name) =>
    decode(training[name]),
  );
  let size = 0;
  for (let l = 1; l < widths.length; l++) size += (widths[l - 1] + 1) * widths[l];
  const fits = space.length === 2 * time.length && widths[0] === 3 + 4 * time.length;
  if (!fits || widths.at(-1) !== 2 || all.length !== size * steps.length)
    throw new Error(`the weights of “${label}” do not fit its layers`);
  if (!all.every(Number.isFinite))
    throw new Error(`the weights of “${label}” must be finite`);
  return steps.map((_, k) => {
    const weights = all.subarray(k * size, (k + 1) * size);
    const net = new MLP({ widths, space, time, weights });
    return new NeuralDenoiser({ path, net, target, mean, scale });
  });
}

/** Points x_t of one noise level with the exact E[ε | x_t], to measure denoisers by. */
class Level {
  constructor(mixture, path, ratio, { x_0, eps }) {
    this.t = time_at(path, ratio);
    this.x_t = path.perturb(x_0, eps, this.t);
    const sigma = path.sigma(this.t);
    this.eps = path
      .marginal(mixture, this.t)
      .score(this.x_t)
      .map((s) => -sigma * s);
    this.norm = mean_square(this.eps);
  }

  /** E‖ε_θ − ε*‖². */
  error(denoiser) {
    const eps = denoiser.eps(this.x_t, this.t);
    return mean_square(eps.map((e, i) => e - this.eps[i]));
  }

  /** E‖ε_θ − ε*‖² / E‖ε*‖². */
  relative(denoiser) {
    return this.error(denoiser) / this.norm;
  }
}

/** Mean of ‖v‖² over points of the plane. */
function mean_square(v) {
  return (2 * v.reduce((sum, x) => sum + x * x, 0)) / v.length;
}

/** Errors over all noise levels, x_t = α x_0 + σ ε drawn from p_t by the same numbers. */
export class Measure {
  constructor(mixture, path, { u, z, eps }) {
    this.draws = { x_0: mixture.place(u, z).x, eps };
    this.at = (ratio) => new Level(mixture, path, ratio, this.draws);
    this.levels = Array.from(RATIOS, this.at);
  }

  /** {relative, overall}: the relative error of each level, and that of their means. */
  errors(denoiser) {
    const errors = this.levels.map((level) => level.error(denoiser));
    const total = (values) => values.reduce((sum, value) => sum + value, 0);
    return {
      relative: errors.map((error, i) => error / this.levels[i].norm),
      overall: total(errors) / total(this.levels.map(({ norm }) => norm)),
    };
  }
}
