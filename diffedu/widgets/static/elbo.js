/**
 * The bound of a diffusion model on the line, term by term, by quadrature. No DOM here.
 *
 * The chain ᾱ_0 = 1 > ᾱ_1 > … > ᾱ_T noises a mixture; the model steps back with
 * p_θ(x_{t−1} | x_t) = N(μ̃_t(x_t, x̂_θ), ς_t²), where Tweedie's formula reads x̂_θ off a
 * score that is exact but for an error: s_θ = s + c, or s_θ = (1 + c) s. Every term
 * follows from E(x_0 − x̂_θ)² at its step, and that from four moments of the exact
 * estimate, which no error changes.
 */

const NORMAL_REACH = 7.5; // standard deviations beyond which nothing is left
const NORMAL_STEP = 0.5; // of the trapezoidal rule, in standard deviations, where smooth
const LINE_STEP = 0.3; // of the rule on the line, in those of the narrowest component
const POLE_STEP = 0.5; // of the distance to the nearest pole of the integrand
const EULER = 0.5772156649015329; // γ
export const LEAST_SIGNAL = 1e-5; // of ᾱ_T: a score says nothing of x_0 where ᾱ is 0

/** The latest end of a chain along the path, in hundredths of its t_max. */
export function latest_end(path) {
  for (let end = 100; end > 0; end--)
    if (path.alpha((end / 100) * path.t_max) ** 2 >= LEAST_SIGNAL) return end / 100;
  return 0;
}

/** ᾱ_t, 1 − ᾱ_t and β_t at t_k = k/T · end · t_max of a path with α² + σ² = 1. */
export class Chain {
  constructor(path, T, end = 1) {
    this.T = T;
    this.alpha_bar = new Float64Array(T + 1);
    this.noise_variance = new Float64Array(T + 1);
    this.beta = new Float64Array(T + 1);
    for (let k = 0; k <= T; k++) {
      const t = (k / T) * end * path.t_max;
      this.alpha_bar[k] = path.alpha(t) ** 2;
      this.noise_variance[k] = path.variance(t);
      // β is the variance added between the two times, which does not cancel
      if (k > 0)
        this.beta[k] = path.between(((k - 1) / T) * end * path.t_max, t)[1] ** 2;
    }
  }

  /** ς_t²: β_t, or β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t); ς_1² = β_1 for both. */
  sampler_variance(kind) {
    if (kind === "beta") return this.beta;
    const { beta, noise_variance } = this;
    return beta.map((b, t) =>
      t < 2 ? b : (b * noise_variance[t - 1]) / noise_variance[t],
    );
  }
}

// --------------------------------------------------------------------------- quadrature

/** Density p and slope p′ of Σ_k w_k N(m_k, v_k) at the nodes low + i h of a
 *  trapezoidal rule that is fine enough for the narrowest component. */
function on_the_line(weights, means, variances) {
  const widths = variances.map(Math.sqrt);
  let [low, high, narrowest] = [Infinity, -Infinity, Infinity];
  weights.forEach((weight, k) => {
    if (weight === 0) return;
    low = Math.min(low, means[k] - NORMAL_REACH * widths[k]);
    high = Math.max(high, means[k] + NORMAL_REACH * widths[k]);
    narrowest = Math.min(narrowest, widths[k]);
  });
  const h = LINE_STEP * narrowest;
  const n = Math.ceil((high - low) / h) + 1;
  const p = new Float64Array(n);
  const slope = new Float64Array(n);
  weights.forEach((weight, k) => {
    if (weight === 0) return;
    const reach = NORMAL_REACH * widths[k];
    const first = Math.max(0, Math.floor((means[k] - reach - low) / h));
    const last = Math.min(n - 1, Math.ceil((means[k] + reach - low) / h));
    const height = weight / Math.sqrt(2 * Math.PI * variances[k]);
    for (let i = first; i <= last; i++) {
      const away = low + h * i - means[k];
      const density = height * Math.exp((-0.5 * away * away) / variances[k]);
      p[i] += density;
      slope[i] -= (density * away) / variances[k];
    }
  });
  return { low, h, p, slope };
}

/** E log p of a mixture on the line. */
export function negative_entropy({ weights, means, covariances }) {
  const { h, p } = on_the_line(weights, means, covariances);
  return (
    h * p.reduce((sum, density) => sum + (density && density * Math.log(density)), 0)
  );
}

/** E (d log p/dx)² of a mixture on the line. */
export function fisher_information({ weights, means, covariances }) {
  const { h, p, slope } = on_the_line(weights, means, covariances);
  return (
    h * p.reduce((sum, density, i) => sum + (density && slope[i] ** 2 / density), 0)
  );
}

/** The mixture on the line that x_t has for ᾱ_t and 1 − ᾱ_t. */
function noised({ weights, means, covariances }, alpha_bar, noise_variance) {
  const alpha = Math.sqrt(alpha_bar);
  return {
    weights,
    means: means.map((m) => alpha * m),
    covariances: covariances.map((c) => alpha_bar * c + noise_variance),
  };
}

/**
 * What the terms at t = 1 … T need, with e = x_0 − E[x_0 | x_t] and s = ∇log p_t(x_t):
 * E e, E e², E e s and E s², for x_0 from the mixture. By Tweedie's formulas
 * E e² = E Var[x_0 | x_t] = (1 − ᾱ_t)/ᾱ_t (1 − (1 − ᾱ_t) E s²); the mixed moments are 0.
 */
export function average_moments(mixture, chain) {
  const { T, alpha_bar, noise_variance } = chain;
  const [error, square, cross, fisher] = arrays(4, T + 1);
  for (let t = 1; t <= T; t++) {
    const v = noise_variance[t];
    fisher[t] = fisher_information(noised(mixture, alpha_bar[t], v));
    square[t] = (v / alpha_bar[t]) * (1 - v * fisher[t]);
  }
  return { error, square, cross, fisher };
}

/** The same for one x_0 = x: means over ε, x_t = √ᾱ_t x + √(1 − ᾱ_t) ε. */
export function moments_at(mixture, chain, x) {
  const { T, alpha_bar, noise_variance } = chain;
  const { weights, means, covariances, n_components: K } = mixture;
  const [error, square, cross, fisher] = arrays(4, T + 1);
  const [log_joint, score, estimate, constant, variance, gain] = arrays(6, K);
  for (let t = 1; t <= T; t++) {
    const v = noise_variance[t];
    const alpha = Math.sqrt(alpha_bar[t]);
    let narrowest = Infinity;
    for (let k = 0; k < K; k++) {
      variance[k] = alpha_bar[t] * covariances[k] + v;
      gain[k] = (alpha * covariances[k]) / variance[k];
      constant[k] = Math.log(weights[k]) - 0.5 * Math.log(variance[k]);
      if (weights[k] > 0) narrowest = Math.min(narrowest, variance[k]);
    }
    const h = normal_step(alpha * spread(means), narrowest, v);
    const side = Math.ceil(NORMAL_REACH / h);
    for (let i = -side; i <= side; i++) {
      const weight = (h / Math.sqrt(2 * Math.PI)) * Math.exp(-0.5 * (h * i) ** 2);
      const x_t = alpha * x + Math.sqrt(v) * h * i;
      let most = -Infinity;
      for (let k = 0; k < K; k++) {
        const away = alpha * means[k] - x_t;
        score[k] = away / variance[k];
        estimate[k] = means[k] - gain[k] * away;
        log_joint[k] = constant[k] - 0.5 * away * score[k];
        if (log_joint[k] > most) most = log_joint[k];
      }
      let [total, s, x_0] = [0, 0, 0];
      for (let k = 0; k < K; k++) {
        const share = Math.exp(log_joint[k] - most);
        total += share;
        s += share * score[k];
        x_0 += share * estimate[k];
      }
      s /= total;
      const e = x - x_0 / total;
      error[t] += weight * e;
      square[t] += weight * e * e;
      cross[t] += weight * e * s;
      fisher[t] += weight * s * s;
    }
  }
  return { error, square, cross, fisher };
}

function arrays(count, length) {
  return Array.from({ length: count }, () => new Float64Array(length));
}

/** How far apart the means are. */
function spread(means) {
  return Math.max(...means) - Math.min(...means);
}

/**
 * The spacing in ε that E over ε needs. The posterior passes from one component to
 * another as a logistic function of x_t does, whose poles lie π/slope off the line;
 * slope is at most about the distance of two means, or of a mean from where a narrow
 * component gives way to a wide one, divided by the variance.
 */
function normal_step(apart, narrowest, v) {
  const pole = (Math.PI * narrowest) / (apart + 5 * Math.sqrt(narrowest));
  return Math.min(NORMAL_STEP, (POLE_STEP * pole) / Math.sqrt(v));
}

// -------------------------------------------------------------------------------- terms

/** x̂_θ − x̂ at step t is this times c, or c s. */
function reach_of_error({ alpha_bar, noise_variance }, t) {
  return noise_variance[t] / Math.sqrt(alpha_bar[t]);
}

/** What one unit of (x_0 − x̂_θ)² costs at step t, in nats. */
function price({ alpha_bar, noise_variance, beta }, t, varsigma_squared) {
  const coefficient = (Math.sqrt(alpha_bar[t - 1]) * beta[t]) / noise_variance[t];
  return (0.5 * coefficient ** 2) / varsigma_squared[t];
}

/** E (x̂_θ − x̂)² at step t. */
function squared_error(chain, moments, error, t) {
  const size = reach_of_error(chain, t) * error.size;
  return size ** 2 * (error.kind === "constant" ? 1 : moments.fisher[t]);
}

/**
 * The terms of the bound: reconstruction, denoising[t] for t = 2 … T, prior, and elbo =
 * reconstruction − Σ denoising − prior. `second` is E x_0²; `error` is {kind, size} with
 * kind "constant" (s + c) or "factor" ((1 + c) s).
 */
export function elbo_terms(chain, moments, second, variance, error) {
  const { T, alpha_bar, beta, noise_variance } = chain;
  const varsigma_squared = chain.sampler_variance(variance);
  const denoising = new Float64Array(T + 1);
  let [reconstruction, total] = [0, 0];
  for (let t = 1; t <= T; t++) {
    const along = error.kind === "constant" ? moments.error[t] : moments.cross[t];
    const missed =
      moments.square[t] -
      2 * reach_of_error(chain, t) * error.size * along +
      squared_error(chain, moments, error, t);
    const cost = price(chain, t, varsigma_squared) * missed;
    if (t === 1) {
      reconstruction = -0.5 * Math.log(2 * Math.PI * beta[1]) - cost;
      continue;
    }
    // ½(r − 1 − log r) with r = β̃/ς², from 1 − r where ς² = β: r is close to 1
    const less =
      variance === "beta" ? (alpha_bar[t - 1] * beta[t]) / noise_variance[t] : 0;
    denoising[t] = 0.5 * (-Math.log1p(-less) - less) + cost;
    total += denoising[t];
  }
  const prior = 0.5 * (alpha_bar[T] * (second - 1) - Math.log1p(-alpha_bar[T]));
  return {
    reconstruction,
    denoising,
    total,
    prior,
    elbo: reconstruction - total - prior,
  };
}

/** What the error adds to the average gap: Σ_t price_t E(x̂_θ − x̂)². */
export function cost_of_error(chain, moments, variance, error) {
  const varsigma_squared = chain.sampler_variance(variance);
  let sum = 0;
  for (let t = 1; t <= chain.T; t++)
    sum += price(chain, t, varsigma_squared) * squared_error(chain, moments, error, t);
  return sum;
}

/**
 * The average gap as T → ∞ between the same ends: KL(p_T ‖ π) + ½∫g² E(s_θ − s)² dt,
 * and more where ς² = β̃. With τ = −log ᾱ, ∫g² dt = τ_T, and by de Bruijn's identity
 * ½∫g² E s² dt = KL(p_0 ‖ π) − KL(p_T ‖ π) + ½(τ_T − (E x_0² − 1)(1 − ᾱ_T)).
 *
 * ς² = β̃ is too small by v_{t−1}/v_t, v = 1 − ᾱ, which costs ½(v_t/v_{t−1} − 1 −
 * log(v_t/v_{t−1})). Near t = 0 that is the same for every T: v is like t where noise
 * starts at a rate, and the sum over t ≥ 2 is γ/2; it is like t² where the rate starts
 * from 0, and the sum is γ + π²/12.
 */
export function limit_of_gap(mixture, path, chain, variance, error) {
  const alpha_bar = chain.alpha_bar[chain.T];
  const noise = chain.noise_variance[chain.T];
  const second = second_moment(mixture);
  const tau = -Math.log(alpha_bar);
  const last = divergence_from_prior(noised(mixture, alpha_bar, noise));
  const score =
    divergence_from_prior(mixture) - last + 0.5 * (tau - (second - 1) * noise);
  const weight = error.kind === "constant" ? 0.5 * tau : score;
  const narrow = path.variance_dot(0) > 0 ? EULER / 2 : EULER + Math.PI ** 2 / 12;
  return last + (variance === "beta" ? 0 : narrow) + error.size ** 2 * weight;
}

/** KL(p ‖ N(0, 1)) of a mixture on the line. */
function divergence_from_prior(law) {
  return negative_entropy(law) + 0.5 * (Math.log(2 * Math.PI) + second_moment(law));
}

/** E x² of a mixture on the line. */
export function second_moment({ weights, means, covariances }) {
  return weights.reduce((sum, w, k) => sum + w * (means[k] ** 2 + covariances[k]), 0);
}

/** The density whose score is that of the mixture with the error, ∝ p e^{cx} or
 *  p^{1+c}, at the points x. */
export function density_of_score(mixture, error, x) {
  const { kind, size } = error;
  const grow = (log_p, x) =>
    Math.exp(kind === "constant" ? log_p + size * x : (1 + size) * log_p);
  const { weights, means, covariances } = mixture;
  const { low, h, p } = on_the_line(weights, means, covariances);
  let mass = 0;
  p.forEach((density, i) => {
    if (density > 0) mass += h * grow(Math.log(density), low + h * i);
  });
  return mixture.log_prob(x).map((log_p, i) => grow(log_p, x[i]) / mass);
}
