/**
 * The book's exact mathematics, for the page: mixtures, paths, SDEs, samplers, metrics.
 *
 * No DOM here, and the same names and letters as in the Python package, so that the two
 * can be read side by side; the tests hold them equal to 1e-5 on the same noise.
 * n points of dimension d are one Float64Array of length n·d, point after point.
 * Randomness comes from an object with `normal(count)`, so that it can be replayed.
 */

// ---------------------------------------------------------------- arrays and randomness

/** Numbers from nested lists, or from {shape, data}: base64 little-endian float32. */
export function decode(array) {
  if (Array.isArray(array))
    return Float64Array.from(array.flat(Infinity), (x) => x ?? NaN);
  const bytes = Uint8Array.from(atob(array.data), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 4 }, (_, i) =>
    view.getFloat32(4 * i, true),
  );
}

/** The inverse of `decode`, for the given shape. */
export function encode(values, shape) {
  const view = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, i) => view.setFloat32(4 * i, value, true));
  const characters = Array.from(new Uint8Array(view.buffer), (b) =>
    String.fromCharCode(b),
  );
  return { shape, data: btoa(characters.join("")) };
}

/** A seeded stream of random numbers (mulberry32, Box–Muller), the same in Python. */
export class Generator {
  constructor(seed) {
    this.state = seed >>> 0;
  }

  _next() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let a = this.state;
    a = Math.imul(a ^ (a >>> 15), a | 1);
    a ^= a + Math.imul(a ^ (a >>> 7), a | 61);
    return (a ^ (a >>> 14)) >>> 0;
  }

  /** `count` numbers uniform on (0, 1). */
  uniform(count) {
    const u = new Float64Array(count);
    for (let i = 0; i < count; i++) u[i] = (this._next() + 0.5) / 2 ** 32;
    return u;
  }

  /** `count` standard normals. */
  normal(count) {
    const u = this.uniform(count + (count % 2));
    const z = new Float64Array(u.length);
    for (let i = 0; i < u.length; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(u[i]));
      z[i] = radius * Math.cos(2 * Math.PI * u[i + 1]);
      z[i + 1] = radius * Math.sin(2 * Math.PI * u[i + 1]);
    }
    return z.subarray(0, count);
  }
}

// ------------------------------------------------------------------------------ mixture

/** Lower Cholesky factor of the d×d matrix; throws when it is not positive definite. */
function cholesky(A, d, name) {
  const L = new Float64Array(d * d);
  for (let i = 0; i < d; i++) {
    for (let j = 0; j <= i; j++) {
      if (!(Math.abs(A[i * d + j] - A[j * d + i]) <= 1e-6 * Math.abs(A[i * d + i]))) {
        throw new Error(`${name} must be symmetric`);
      }
      let sum = A[i * d + j];
      for (let k = 0; k < j; k++) sum -= L[i * d + k] * L[j * d + k];
      if (i === j && !(sum > 1e-14 * A[i * d + i])) {
        throw new Error(`${name} must be positive definite`);
      }
      L[i * d + j] = i === j ? Math.sqrt(sum) : sum / L[j * d + j];
    }
  }
  return L;
}

/** A⁻¹ = L⁻ᵀ L⁻¹ from the lower Cholesky factor L of A. */
function inverse(L, d) {
  const inverse_L = new Float64Array(d * d);
  for (let j = 0; j < d; j++) {
    for (let i = j; i < d; i++) {
      let sum = i === j ? 1 : 0;
      for (let k = j; k < i; k++) sum -= L[i * d + k] * inverse_L[k * d + j];
      inverse_L[i * d + j] = sum / L[i * d + i];
    }
  }
  const A = new Float64Array(d * d);
  for (let i = 0; i < d; i++) {
    for (let j = 0; j < d; j++) {
      for (let k = Math.max(i, j); k < d; k++) {
        A[i * d + j] += inverse_L[k * d + i] * inverse_L[k * d + j];
      }
    }
  }
  return A;
}

/** p(x) = Σ_k w_k N(x; m_k, Σ_k); weights (K), means (K·d), covariances (K·d·d). */
export class GaussianMixture {
  constructor(weights, means, covariances) {
    const K = weights.length;
    const d = means.length / K;
    if (!K) throw new Error("weights must have at least one component");
    if (!Number.isInteger(d) || d < 1) throw new Error("means must have shape (K, d)");
    if (covariances.length !== K * d * d)
      throw new Error("covariances must have shape (K, d, d)");
    for (const [name, x] of Object.entries({ weights, means, covariances })) {
      if (!x.every(Number.isFinite)) throw new Error(`${name} must be finite`);
    }
    const total = weights.reduce((sum, w) => sum + w, 0);
    if (weights.some((w) => w < 0)) throw new Error("weights must be ≥ 0");
    if (Math.abs(total - 1) > 1e-5)
      throw new Error(`weights must sum to 1, got ${total}`);

    this.n_components = K;
    this.dim = d;
    this.weights = weights.map((w) => w / total);
    this.means = means;
    this.covariances = covariances;
    this.factors = new Float64Array(K * d * d);
    this.precisions = new Float64Array(K * d * d);
    this.log_constants = new Float64Array(K); // log w_k − ½ log det(2π Σ_k)
    for (let k = 0; k < K; k++) {
      const L = cholesky(
        covariances.subarray(k * d * d, (k + 1) * d * d),
        d,
        "covariances",
      );
      this.factors.set(L, k * d * d);
      this.precisions.set(inverse(L, d), k * d * d);
      let log_det = d * Math.log(2 * Math.PI);
      for (let i = 0; i < d; i++) log_det += 2 * Math.log(L[i * d + i]);
      this.log_constants[k] = Math.log(this.weights[k]) - 0.5 * log_det;
    }
    this._log_joint = new Float64Array(K);
    this._scores = new Float64Array(K * d);
  }

  /** E[x] = Σ_k w_k m_k. */
  get mean() {
    const mean = new Float64Array(this.dim);
    this.means.forEach(
      (m, i) => (mean[i % this.dim] += this.weights[Math.floor(i / this.dim)] * m),
    );
    return mean;
  }

  /** Cov[x] = Σ_k w_k (Σ_k + (m_k − E[x])(m_k − E[x])ᵀ). */
  get covariance() {
    const { dim: d, mean, means, weights, covariances } = this;
    const covariance = new Float64Array(d * d);
    weights.forEach((w, k) => {
      for (let i = 0; i < d; i++) {
        for (let j = 0; j < d; j++) {
          const between = (means[k * d + i] - mean[i]) * (means[k * d + j] - mean[j]);
          covariance[i * d + j] += w * (covariances[(k * d + i) * d + j] + between);
        }
      }
    });
    return covariance;
  }

  /** Trace of the covariance. */
  get total_variance() {
    return trace(this.covariance, this.dim);
  }

  /** Leaves log(w_k N(x_i; m_k, Σ_k)) and ∇ log N in scratch; returns log p(x_i). */
  _evaluate(x, i) {
    const { dim: d, n_components: K, means, precisions, _log_joint, _scores } = this;
    let max = -Infinity;
    for (let k = 0; k < K; k++) {
      let distance = 0;
      for (let a = 0; a < d; a++) {
        let s = 0;
        for (let b = 0; b < d; b++) {
          s += precisions[(k * d + a) * d + b] * (means[k * d + b] - x[i * d + b]);
        }
        _scores[k * d + a] = s;
        distance += s * (means[k * d + a] - x[i * d + a]);
      }
      _log_joint[k] = this.log_constants[k] - 0.5 * distance;
      if (_log_joint[k] > max) max = _log_joint[k];
    }
    let sum = 0;
    for (let k = 0; k < K; k++) sum += Math.exp(_log_joint[k] - max);
    return max + Math.log(sum);
  }

  /** log p(x), one number per point, in nats. */
  log_prob(x) {
    const log_p = new Float64Array(x.length / this.dim);
    for (let i = 0; i < log_p.length; i++) log_p[i] = this._evaluate(x, i);
    return log_p;
  }

  /** P(component k | x), K numbers per point. */
  responsibilities(x) {
    const { dim: d, n_components: K } = this;
    const r = new Float64Array((x.length / d) * K);
    for (let i = 0; i < x.length / d; i++) {
      const log_p = this._evaluate(x, i);
      for (let k = 0; k < K; k++) r[i * K + k] = Math.exp(this._log_joint[k] - log_p);
    }
    return r;
  }

  /** ∇ log p(x) = Σ_k P(k | x) Σ_k⁻¹ (m_k − x). */
  score(x) {
    const { dim: d, n_components: K } = this;
    const score = new Float64Array(x.length);
    for (let i = 0; i < x.length / d; i++) {
      const log_p = this._evaluate(x, i);
      for (let k = 0; k < K; k++) {
        const r = Math.exp(this._log_joint[k] - log_p);
        for (let a = 0; a < d; a++) score[i * d + a] += r * this._scores[k * d + a];
      }
    }
    return score;
  }

  /** ∇² log p(x) = Σ_k P(k | x) ((s_k − s)(s_k − s)ᵀ − Σ_k⁻¹), d·d numbers per point. */
  hessian(x) {
    const { dim: d, n_components: K, precisions } = this;
    const hessian = new Float64Array(x.length * d);
    const score = this.score(x);
    for (let i = 0; i < x.length / d; i++) {
      const log_p = this._evaluate(x, i);
      for (let k = 0; k < K; k++) {
        const r = Math.exp(this._log_joint[k] - log_p);
        for (let a = 0; a < d; a++) {
          for (let b = 0; b < d; b++) {
            const s_a = this._scores[k * d + a] - score[i * d + a];
            const s_b = this._scores[k * d + b] - score[i * d + b];
            const precision = precisions[(k * d + a) * d + b];
            hessian[(i * d + a) * d + b] += r * (s_a * s_b - precision);
          }
        }
      }
    }
    return hessian;
  }

  /** The law of α x_0 + σ ε: means α m_k, covariances α²Σ_k + σ²I. */
  noised(alpha, sigma) {
    const d = this.dim;
    const on_diagonal = (i) => Math.floor(i / d) % d === i % d;
    return new GaussianMixture(
      this.weights,
      this.means.map((m) => alpha * m),
      this.covariances.map(
        (c, i) => alpha ** 2 * c + (on_diagonal(i) ? sigma ** 2 : 0),
      ),
    );
  }

  /** n draws, each made of one uniform number and d normals: m_k + L_k z. */
  sample(n, generator) {
    return this.place(generator.uniform(n), generator.normal(n * this.dim)).x;
  }

  /** The draws that the numbers u (n) and z (n·d) stand for, and their components. */
  place(u, z) {
    const { dim: d, n_components: K, weights, means, factors } = this;
    const x = new Float64Array(z.length);
    const component = new Uint16Array(u.length);
    for (let i = 0; i < u.length; i++) {
      let k = 0;
      for (let below = weights[0]; k < K - 1 && u[i] >= below; below += weights[k]) k++;
      component[i] = k;
      for (let a = 0; a < d; a++) {
        x[i * d + a] = means[k * d + a];
        for (let b = 0; b <= a; b++)
          x[i * d + a] += factors[(k * d + a) * d + b] * z[i * d + b];
      }
    }
    return { x, component };
  }

  /** The components of x_0 given x_t at its point i: {weights, means, covariances}. */
  _given(x_t, i, noised, alpha, sigma) {
    const { dim: d, n_components: K, means, covariances } = this;
    const weights = noised.responsibilities(x_t.subarray(i * d, (i + 1) * d));
    const given = {
      weights,
      means: Float64Array.from(means),
      covariances: covariances.map(() => 0),
    };
    for (let k = 0; k < K; k++) {
      for (let a = 0; a < d; a++) {
        for (let b = 0; b < d; b++) {
          let gain = 0; // entry (a, b) of Σ_k (α²Σ_k + σ²I)⁻¹
          for (let c = 0; c < d; c++) {
            gain +=
              covariances[(k * d + a) * d + c] * noised.precisions[(k * d + c) * d + b];
          }
          const residual = x_t[i * d + b] - alpha * means[k * d + b];
          given.means[k * d + a] += alpha * gain * residual;
          given.covariances[(k * d + a) * d + b] = sigma ** 2 * gain;
        }
      }
    }
    return given;
  }

  /** The law of x_0 given one point x_t, for σ > 0: a mixture. */
  posterior(x_t, alpha, sigma) {
    const { weights, means, covariances } = this._given(
      x_t,
      0,
      this.noised(alpha, sigma),
      alpha,
      sigma,
    );
    return new GaussianMixture(weights, means, covariances);
  }

  /** E[x_0 | x_t] for every point. */
  posterior_mean(x_t, alpha, sigma) {
    const d = this.dim;
    const noised = this.noised(alpha, sigma);
    const mean = new Float64Array(x_t.length);
    for (let i = 0; i < x_t.length / d; i++) {
      const given = this._given(x_t, i, noised, alpha, sigma);
      given.means.forEach(
        (m, j) => (mean[i * d + (j % d)] += given.weights[Math.floor(j / d)] * m),
      );
    }
    return mean;
  }

  /** Cov[x_0 | x_t] for every point, d·d numbers each. */
  posterior_covariance(x_t, alpha, sigma) {
    const d = this.dim;
    const noised = this.noised(alpha, sigma);
    const mean = this.posterior_mean(x_t, alpha, sigma);
    const covariance = new Float64Array(x_t.length * d);
    for (let i = 0; i < x_t.length / d; i++) {
      const given = this._given(x_t, i, noised, alpha, sigma);
      given.weights.forEach((w, k) => {
        for (let a = 0; a < d; a++) {
          for (let b = 0; b < d; b++) {
            const m_a = given.means[k * d + a] - mean[i * d + a];
            const m_b = given.means[k * d + b] - mean[i * d + b];
            covariance[(i * d + a) * d + b] +=
              w * (given.covariances[(k * d + a) * d + b] + m_a * m_b);
          }
        }
      });
    }
    return covariance;
  }
}

/** Trace of a d×d matrix. */
export function trace(A, d) {
  let sum = 0;
  for (let i = 0; i < d; i++) sum += A[i * d + i];
  return sum;
}

// --------------------------------------------------------------------------------- path

/** x_t = α(t) x_0 + σ(t) ε; a subclass states alpha, variance, their derivatives, f, g. */
class GaussianPath {
  constructor(t_max, parameters) {
    this.t_max = t_max;
    for (const [name, value] of Object.entries(parameters)) {
      if (!Number.isFinite(value) || value < 0)
        throw new Error(`path ${name} must be a number ≥ 0`);
      this[name] = value;
    }
    if (!(t_max > 0)) throw new Error("path horizon must be > 0");
  }

  sigma(t) {
    return Math.sqrt(this.variance(t));
  }

  sigma_dot(t) {
    return this.variance_dot(t) / (2 * this.sigma(t));
  }

  /** log(α²/σ²). */
  log_snr(t) {
    return 2 * Math.log(this.alpha(t)) - Math.log(this.variance(t));
  }

  /** α(t) x_0 + σ(t) ε. */
  perturb(x_0, eps, t) {
    const alpha = this.alpha(t);
    const sigma = this.sigma(t);
    return x_0.map((x, i) => alpha * x + sigma * eps[i]);
  }

  /** [a, τ] such that x_t = a x_s + τ ε with ε independent of x_s, for s < t. */
  between(s, t) {
    const added = -Math.expm1(this.log_snr(t) - this.log_snr(s)); // τ² / σ_t²
    return [this.alpha(t) / this.alpha(s), this.sigma(t) * Math.sqrt(added)];
  }

  /** p_t, the law of x_t when x_0 is the mixture. */
  marginal(mixture, t) {
    return mixture.noised(this.alpha(t), this.sigma(t));
  }

  /** [a, b] such that the target is a x_0 + b ε. */
  row(target, t) {
    const rows = {
      x0: () => [1, 0],
      eps: () => [0, 1],
      score: () => [0, -1 / this.sigma(t)],
      v: () => [-this.sigma(t), this.alpha(t)],
      velocity: () => [this.alpha_dot(t), this.sigma_dot(t)],
    };
    return rows[target]();
  }

  /** The prediction of `source` at x_t, read as a prediction of `target`. */
  convert(prediction, x_t, t, source, target) {
    if (source === target) return prediction;
    const [a, b] = this.row(source, t);
    const [c, d] = this.row(target, t);
    const alpha = this.alpha(t);
    const sigma = this.sigma(t);
    const determinant = alpha * b - sigma * a;
    return prediction.map((p, i) => {
      const x_0 = (b * x_t[i] - sigma * p) / determinant;
      const eps = (alpha * p - a * x_t[i]) / determinant;
      return c * x_0 + d * eps;
    });
  }
}

/** dx = −β x dt + g dw; β = 0 is Brownian motion. */
class OrnsteinUhlenbeck extends GaussianPath {
  constructor({ beta = 1, diffusion = Math.SQRT2, horizon = 3 } = {}) {
    super(horizon, { beta, diffusion, horizon });
  }

  get stationary_std() {
    return this.diffusion / Math.sqrt(2 * this.beta);
  }

  alpha(t) {
    return Math.exp(-this.beta * t);
  }

  variance(t) {
    if (this.beta === 0) return this.diffusion ** 2 * t;
    return -(this.stationary_std ** 2) * Math.expm1(-2 * this.beta * t);
  }

  alpha_dot(t) {
    return -this.beta * this.alpha(t);
  }

  variance_dot(t) {
    return this.diffusion ** 2 * Math.exp(-2 * this.beta * t);
  }

  f() {
    return -this.beta;
  }

  g() {
    return this.diffusion;
  }
}

/** dx = −½β(t) x dt + √β(t) dw with β(t) linear; α² + σ² = 1. */
class VariancePreserving extends GaussianPath {
  constructor({ beta_min = 0.1, beta_max = 20 } = {}) {
    super(1, { beta_min, beta_max });
    if (!(0 < beta_max && beta_min <= beta_max)) {
      throw new Error("path beta_max must be > 0, and ≥ beta_min");
    }
  }

  beta(t) {
    return this.beta_min + t * (this.beta_max - this.beta_min);
  }

  log_alpha(t) {
    return -0.5 * (this.beta_min * t + 0.5 * (this.beta_max - this.beta_min) * t ** 2);
  }

  alpha(t) {
    return Math.exp(this.log_alpha(t));
  }

  variance(t) {
    return -Math.expm1(2 * this.log_alpha(t));
  }

  alpha_dot(t) {
    return -0.5 * this.beta(t) * this.alpha(t);
  }

  variance_dot(t) {
    return this.beta(t) * this.alpha(t) ** 2;
  }

  f(t) {
    return -0.5 * this.beta(t);
  }

  g(t) {
    return Math.sqrt(this.beta(t));
  }
}

/** α = cos(πt/2), σ = sin(πt/2). */
class Cosine extends GaussianPath {
  constructor() {
    super(1, {});
  }

  alpha(t) {
    return Math.cos(0.5 * Math.PI * t);
  }

  variance(t) {
    return Math.sin(0.5 * Math.PI * t) ** 2;
  }

  alpha_dot(t) {
    return -0.5 * Math.PI * Math.sin(0.5 * Math.PI * t);
  }

  variance_dot(t) {
    return 0.5 * Math.PI * Math.sin(Math.PI * t);
  }

  sigma_dot(t) {
    return 0.5 * Math.PI * this.alpha(t);
  }

  f(t) {
    return -0.5 * Math.PI * Math.tan(0.5 * Math.PI * t);
  }

  g(t) {
    return Math.sqrt(Math.PI * Math.tan(0.5 * Math.PI * t));
  }
}

/** α = 1, σ² = σ_min² (r^{2t} − 1) with r = σ_max/σ_min. */
class VarianceExploding extends GaussianPath {
  constructor({ sigma_min = 0.01, sigma_max = 10 } = {}) {
    super(1, { sigma_min, sigma_max });
    if (!(0 < sigma_min && sigma_min < sigma_max)) {
      throw new Error("path sigma_max must be > sigma_min > 0");
    }
    this.log_ratio = Math.log(sigma_max / sigma_min);
  }

  alpha() {
    return 1;
  }

  variance(t) {
    return this.sigma_min ** 2 * Math.expm1(2 * this.log_ratio * t);
  }

  alpha_dot() {
    return 0;
  }

  variance_dot(t) {
    return this.g(t) ** 2;
  }

  f() {
    return 0;
  }

  g(t) {
    return (
      this.sigma_min * Math.exp(this.log_ratio * t) * Math.sqrt(2 * this.log_ratio)
    );
  }
}

/** α = 1 − t, σ = t. */
class Straight extends GaussianPath {
  constructor() {
    super(1, {});
  }

  alpha(t) {
    return 1 - t;
  }

  variance(t) {
    return t ** 2;
  }

  alpha_dot() {
    return -1;
  }

  variance_dot(t) {
    return 2 * t;
  }

  sigma_dot() {
    return 1;
  }

  f(t) {
    return -1 / (1 - t);
  }

  g(t) {
    return Math.sqrt((2 * t) / (1 - t));
  }
}

const PATHS = {
  OrnsteinUhlenbeck,
  VariancePreserving,
  Cosine,
  VarianceExploding,
  Straight,
};

/** The path that {name, …parameters} describes. */
export function make_path({ name, ...parameters }) {
  if (!Object.hasOwn(PATHS, name))
    throw new Error(`path must be one of ${Object.keys(PATHS).join(", ")}`);
  return new PATHS[name](parameters);
}

/** The t at which σ(t)/α(t), which grows with t, is `ratio`; by bisection. */
export function time_at(path, ratio) {
  let [low, high] = [0, path.t_max];
  for (let i = 0; i < 60; i++) {
    const middle = 0.5 * (low + high);
    if (path.sigma(middle) < ratio * path.alpha(middle)) low = middle;
    else high = middle;
  }
  return 0.5 * (low + high);
}

/** steps + 1 times from start to stop, uniform in t^(1/power). */
export function time_grid(start, stop, steps, power = 1) {
  const a = start ** (1 / power);
  const b = stop ** (1 / power);
  const times = Float64Array.from(
    { length: steps + 1 },
    (_, i) => (a + (i / steps) * (b - a)) ** power,
  );
  times[0] = start;
  times[steps] = stop;
  return times;
}

// ---------------------------------------------------------------------------------- sde

/** The noising SDE dx = f(t) x dt + g(t) dw: {drift(x, t), diffusion(t)}. */
export function forward(path) {
  return {
    drift: (x, t) => {
      const f = path.f(t);
      return x.map((value) => f * value);
    },
    diffusion: (t) => path.g(t),
  };
}

/** The reverse SDE in the same clock, to be integrated with decreasing times. */
export function reverse(sde, score, eta = 1) {
  return {
    drift: (x, t) => {
      const scale = 0.5 * (1 + eta ** 2) * sde.diffusion(t) ** 2;
      const s = score(x, t);
      return sde.drift(x, t).map((f, i) => f - scale * s[i]);
    },
    diffusion: (t) => eta * sde.diffusion(t),
  };
}

/** ∇ log p_t(x) of the noised mixture, as a function of (x, t). */
export function exact_score(mixture, path) {
  let marginal = { t: NaN, law: null };
  return (x, t) => {
    if (t !== marginal.t) marginal = { t, law: path.marginal(mixture, t) };
    return marginal.law.score(x);
  };
}

/** Every state of x + drift(x, t)(s − t) + diffusion(t) √|s − t| z, x first. */
export function* euler_maruyama(sde, x, times, generator) {
  yield x;
  for (let k = 0; k + 1 < times.length; k++) {
    const t = times[k];
    const dt = times[k + 1] - t;
    const z = generator.normal(x.length);
    const drift = sde.drift(x, t);
    const noise = sde.diffusion(t) * Math.sqrt(Math.abs(dt));
    x = x.map((value, i) => value + drift[i] * dt + noise * z[i]);
    yield x;
  }
}

/** As `euler_maruyama`, then drift and diffusion are averaged over both ends. */
export function* heun(sde, x, times, generator) {
  yield x;
  for (let k = 0; k + 1 < times.length; k++) {
    const [t, s] = [times[k], times[k + 1]];
    const dt = s - t;
    const z = generator.normal(x.length);
    const [drift, g] = [sde.drift(x, t), sde.diffusion(t)];
    const root = Math.sqrt(Math.abs(dt));
    const predicted = x.map((value, i) => value + drift[i] * dt + g * root * z[i]);
    const drift_s = sde.drift(predicted, s);
    const noise = 0.5 * (g + sde.diffusion(s)) * root;
    x = x.map((value, i) => value + 0.5 * (drift[i] + drift_s[i]) * dt + noise * z[i]);
    yield x;
  }
}

/** DDIM with the exact denoiser, every state, x first; eta = 1 is ancestral sampling. */
export function* ddim(mixture, path, x, times, eta, generator) {
  yield x;
  for (let k = 0; k + 1 < times.length; k++) {
    const [t, s] = [times[k], times[k + 1]];
    const [alpha, sigma] = [path.alpha(t), path.sigma(t)];
    const [alpha_s, sigma_s] = [path.alpha(s), path.sigma(s)];
    const x_0 = mixture.posterior_mean(x, alpha, sigma);
    const score = mixture.noised(alpha, sigma).score(x);
    const added = -Math.expm1(path.log_snr(t) - path.log_snr(s)) * sigma ** 2;
    const varsigma = ((eta * sigma_s) / sigma) * Math.sqrt(added);
    const kept = Math.sqrt(sigma_s ** 2 - varsigma ** 2);
    const z = eta > 0 ? generator.normal(x.length) : x.map(() => 0);
    x = x.map((_, i) => alpha_s * x_0[i] - kept * sigma * score[i] + varsigma * z[i]);
    yield x;
  }
}

// ------------------------------------------------------------------------------ metrics

/** {value, standard_error} of the mean of the values. */
export function average(values) {
  const n = values.length;
  const value = values.reduce((sum, v) => sum + v, 0) / n;
  const squares = values.reduce((sum, v) => sum + (v - value) ** 2, 0);
  return { value, standard_error: Math.sqrt(squares / (n * (n - 1))) };
}

/** Σ_a Var[x_a] of points in the plane, with n − 1. */
export function total_variance(x, d = 2) {
  const n = x.length / d;
  let total = 0;
  for (let a = 0; a < d; a++) {
    let mean = 0;
    for (let i = 0; i < n; i++) mean += x[i * d + a] / n;
    for (let i = 0; i < n; i++) total += (x[i * d + a] - mean) ** 2 / (n - 1);
  }
  return total;
}

/** Planar points projected on `directions` equally spaced lines, each list sorted. */
export function projections(x, directions = 16) {
  return Array.from({ length: directions }, (_, j) => {
    const angle = (Math.PI * j) / directions;
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    const line = new Float64Array(x.length / 2);
    for (let i = 0; i < line.length; i++) line[i] = c * x[2 * i] + s * x[2 * i + 1];
    return line.sort();
  });
}

/** Sliced 2-Wasserstein distance of two equal-size samples, given their projections. */
export function sliced_wasserstein(a, b) {
  let total = 0;
  a.forEach((line, j) =>
    line.forEach((value, i) => (total += (value - b[j][i]) ** 2 / line.length)),
  );
  return Math.sqrt(total / a.length);
}
