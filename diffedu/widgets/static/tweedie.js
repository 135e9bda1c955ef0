/**
 * What is known of x_s given x_t = a x_s + τ ε, beyond the mixture that it is: the
 * Gaussians that stand for it, how far from it they are, and its peaks. No DOM here.
 */

import { GaussianMixture } from "./core.js";

const REACH = 7; // standard deviations of a component that the quadrature covers
const SPACING = 0.35; // in those standard deviations
const NEGLIGIBLE = 1e-12; // weight of a component that is left out of the quadrature
const LOWEST_PEAK = 0.01; // of the highest one

/** The nodes z of the trapezoidal rule in a disc, and their shares of N(0, I). */
function rule() {
  const [nodes, shares] = [[], []];
  const side = Math.floor(REACH / SPACING);
  for (let i = -side; i <= side; i++) {
    for (let j = -side; j <= side; j++) {
      const square = SPACING ** 2 * (i * i + j * j);
      if (square > REACH ** 2) continue;
      nodes.push(SPACING * i, SPACING * j);
      shares.push((SPACING ** 2 / (2 * Math.PI)) * Math.exp(-0.5 * square));
    }
  }
  return { nodes: Float64Array.from(nodes), shares: Float64Array.from(shares) };
}

const { nodes: NODES, shares: SHARES } = rule();

/** N(E[x], Cov[x]), the closest Gaussian to the mixture in KL(mixture ‖ Gaussian). */
export function moment_matched(law) {
  return new GaussianMixture([1], law.mean, law.covariance);
}

/** KL(p ‖ q) of mixtures in the plane, in nats: Σ_k w_k E_k[log p − log q], where the
 *  mean over component k is a trapezoidal sum in its own standard deviations. */
export function kl_divergence(p, q) {
  let total = 0;
  for (let k = 0; k < p.n_components; k++) {
    if (p.weights[k] < NEGLIGIBLE) continue;
    const [l, , m, n] = p.factors.subarray(4 * k, 4 * k + 4);
    const x = new Float64Array(NODES.length);
    for (let i = 0; i < SHARES.length; i++) {
      const [z_1, z_2] = [NODES[2 * i], NODES[2 * i + 1]];
      x[2 * i] = p.means[2 * k] + l * z_1;
      x[2 * i + 1] = p.means[2 * k + 1] + m * z_1 + n * z_2;
    }
    const log_p = p.log_prob(x);
    const log_q = q.log_prob(x);
    let mean = 0;
    for (let i = 0; i < SHARES.length; i++) mean += SHARES[i] * (log_p[i] - log_q[i]);
    total += p.weights[k] * mean;
  }
  return total;
}

/**
 * The Gaussians that Tweedie's formulas make of the score s and its Jacobian H at x_t:
 * mean (x_t + τ²s)/a, which is E[x_s | x_t]; covariance (τ²/a²)(I + τ²H), which is
 * Cov[x_s | x_t]; and narrow, (τ²/a²) I, what is left of it where τ²H is small.
 */
export function tweedie(noised, x_t, a, tau) {
  const s = noised.score(x_t);
  const H = noised.hessian(x_t);
  const variance = (tau / a) ** 2;
  const identity = [1, 0, 0, 1];
  return {
    mean: x_t.map((x, i) => (x + tau ** 2 * s[i]) / a),
    covariance: H.map((h, i) => variance * (identity[i] + tau ** 2 * h)),
    narrow: Float64Array.from(identity, (one) => variance * one),
  };
}

/** The eigenvalues of a symmetric 2×2 matrix, the larger first. */
function eigenvalues([h, off, , v]) {
  const middle = (h + v) / 2;
  const spread = Math.hypot((h - v) / 2, off);
  return [middle + spread, middle - spread];
}

/**
 * What the narrow Gaussian adds to the divergence of the moment-matched one, which has
 * the same mean: ½ Σ_i (μ_i − log(1 + μ_i)) with μ_i the eigenvalues of τ²∇²log p_t;
 * and ¼ Σ_i μ_i², with which it begins where τ is small. 1 + μ_i is also the share of
 * τ²/a² that `covariance`, Cov[x_s | x_t], keeps, which does not cancel at μ_i ≈ −1.
 */
export function narrowing(noised, x_t, a, tau, covariance) {
  const mu = eigenvalues(noised.hessian(x_t)).map((h) => tau ** 2 * h);
  const kept = eigenvalues(covariance).map((c) => (a / tau) ** 2 * c);
  const log = (m, i) => (m < -0.5 ? Math.log(kept[i]) : Math.log1p(m));
  return {
    exact: mu.reduce((sum, m, i) => sum + 0.5 * (m - log(m, i)), 0),
    leading: mu.reduce((sum, m) => sum + 0.25 * m * m, 0),
  };
}

/**
 * The peaks of a mixture in the plane that are at least a hundredth as high as the
 * highest, [x, y] each: from every component's mean, x ← A⁻¹ Σ_k P(k | x) Σ_k⁻¹ m_k
 * with A = Σ_k P(k | x) Σ_k⁻¹ climbs to one.
 */
export function modes(law) {
  const { precisions, means } = law;
  const found = [];
  for (let start = 0; start < law.n_components; start++) {
    if (law.weights[start] < NEGLIGIBLE) continue;
    let x = means.slice(2 * start, 2 * start + 2);
    const [c_x, , , c_y] = law.covariances.subarray(4 * start, 4 * start + 4);
    const width = Math.sqrt(c_x + c_y);
    for (let step = 0; step < 400; step++) {
      const r = law.responsibilities(x);
      const A = [0, 0, 0];
      const b = [0, 0];
      r.forEach((share, k) => {
        const [p, q, , v] = precisions.subarray(4 * k, 4 * k + 4);
        const [m_x, m_y] = [means[2 * k], means[2 * k + 1]];
        A[0] += share * p;
        A[1] += share * q;
        A[2] += share * v;
        b[0] += share * (p * m_x + q * m_y);
        b[1] += share * (q * m_x + v * m_y);
      });
      const determinant = A[0] * A[2] - A[1] ** 2;
      const next = Float64Array.of(
        (A[2] * b[0] - A[1] * b[1]) / determinant,
        (A[0] * b[1] - A[1] * b[0]) / determinant,
      );
      const moved = Math.hypot(next[0] - x[0], next[1] - x[1]);
      x = next;
      if (moved < 1e-8 * width) break;
    }
    const known = found.some(
      (mode) => Math.hypot(mode.x[0] - x[0], mode.x[1] - x[1]) < 0.02 * width,
    );
    if (!known) found.push({ x, log_p: law.log_prob(x)[0] });
  }
  const highest = Math.max(...found.map((mode) => mode.log_p));
  return found
    .filter((mode) => mode.log_p > highest + Math.log(LOWEST_PEAK))
    .map((mode) => Array.from(mode.x));
}
