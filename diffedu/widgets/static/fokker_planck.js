/**
 * A potential bent by its knots, and the Fokker–Planck equation in it, for the page.
 *
 *     dx = −U′(x) dt + √(2θ) dw,   ∂p/∂t = (U′ p)′ + θ p″,   Gibbs density ∝ e^(−U/θ)
 *
 * No DOM here. The solver is that of the Python package in one dimension: Scharfetter–
 * Gummel fluxes between cell centres, walls through which nothing flows, and a
 * Crank–Nicolson step as half a step of backward Euler, extrapolated.
 */

const NODES = [-0.8611363115940526, -0.3399810435848563]; // Gauss–Legendre, 4 points
const WEIGHTS = [0.34785484513745385, 0.6521451548625461];
const RULE = [0, 1, 1, 0].map((k, i) => ({
  node: 0.5 * (1 + (i < 2 ? NODES[k] : -NODES[k])),
  weight: 0.5 * WEIGHTS[k],
}));
const TINY = 2.2250738585072014e-308; // below it a number has lost digits

// ---------------------------------------------------------------------------- potential

/**
 * The cubic spline through (knots, heights) whose second derivative is `curvature` at
 * both ends; beyond them the parabola of that curvature, so that U grows on both sides
 * whatever the heights are.
 */
export class Potential {
  constructor(knots, heights, curvature = 1) {
    this.knots = knots;
    this.heights = heights;
    this.bend = secondDerivatives(knots, heights, curvature);
  }

  /** [U(x), U′(x)]. */
  at(x) {
    const { knots, heights, bend } = this;
    const last = knots.length - 1;
    if (x <= knots[0] || x >= knots[last]) {
      const end = x <= knots[0] ? 0 : last;
      const [, slope] = this._piece(Math.min(end, last - 1), knots[end]);
      const d = x - knots[end];
      return [heights[end] + d * (slope + 0.5 * bend[end] * d), slope + bend[end] * d];
    }
    let k = 0;
    while (x > knots[k + 1]) k++;
    return this._piece(k, x);
  }

  /** U and U′ of the cubic between knots k and k + 1. */
  _piece(k, x) {
    const { knots, heights, bend } = this;
    const h = knots[k + 1] - knots[k];
    const [a, b] = [(knots[k + 1] - x) / h, (x - knots[k]) / h];
    const cubic = (a ** 3 - a) * bend[k] + (b ** 3 - b) * bend[k + 1];
    const slope = (1 - 3 * a ** 2) * bend[k] + (3 * b ** 2 - 1) * bend[k + 1];
    return [
      a * heights[k] + b * heights[k + 1] + (h ** 2 / 6) * cubic,
      (heights[k + 1] - heights[k]) / h + (h / 6) * slope,
    ];
  }

  /** U at every x. */
  value(x) {
    return Float64Array.from(x, (at) => this.at(at)[0]);
  }

  /** −U′ at every x. */
  drift(x) {
    return Float64Array.from(x, (at) => -this.at(at)[1]);
  }
}

/** U″ at the knots, where the slope is continuous across them. */
function secondDerivatives(x, y, curvature) {
  const n = x.length;
  const [lower, diagonal, upper, right] = Array.from({ length: 4 }, () =>
    new Float64Array(n).fill(0),
  );
  diagonal[0] = diagonal[n - 1] = 1;
  right[0] = right[n - 1] = curvature;
  for (let i = 1; i < n - 1; i++) {
    const [left, next] = [x[i] - x[i - 1], x[i + 1] - x[i]];
    lower[i] = left / 6;
    diagonal[i] = (left + next) / 3;
    upper[i] = next / 6;
    right[i] = (y[i + 1] - y[i]) / next - (y[i] - y[i - 1]) / left;
  }
  return tridiagonal(lower, diagonal, upper)(right);
}

export const KNOTS = Float64Array.from({ length: 7 }, (_, k) => 0.8 * (k - 3));
export const START_WIDTH = 0.2; // standard deviation of the start law

/** Presets: U at the knots. */
export const POTENTIALS = {
  quadratic: (x) => 0.5 * x ** 2,
  "double well": (x) => doubleWell(x),
  tilted: (x) => doubleWell(x) + 0.56 - 0.35 * x,
};

function doubleWell(x) {
  return 1.5 * ((x / 1.6) ** 2 - 1) ** 2;
}

// ------------------------------------------------------------------------------- solver

/** `cells` equal cells from low to high. */
export class Grid {
  constructor(low, high, cells) {
    Object.assign(this, { low, high, cells });
    this.spacing = (high - low) / cells;
    this.centers = Float64Array.from(
      { length: cells },
      (_, i) => low + this.spacing * (i + 0.5),
    );
  }

  /** The mean of a density over every cell, by 4-point quadrature. */
  average(density) {
    return this.centers.map((x) =>
      RULE.reduce(
        (sum, { node, weight }) =>
          sum + weight * density(x + this.spacing * (node - 0.5)),
        0,
      ),
    );
  }

  /** ∫ p. */
  mass(p) {
    return p.reduce((sum, value) => sum + value, 0) * this.spacing;
  }
}

/** b ↦ A⁻¹ b for a tridiagonal A that needs no pivots; factored here. */
function tridiagonal(lower, diagonal, upper) {
  const n = diagonal.length;
  const pivot = Float64Array.from(diagonal);
  const factor = new Float64Array(n);
  for (let i = 1; i < n; i++) {
    factor[i] = lower[i] / pivot[i - 1];
    pivot[i] -= factor[i] * upper[i - 1];
  }
  return (b) => {
    const x = Float64Array.from(b);
    for (let i = 1; i < n; i++) x[i] -= factor[i] * x[i - 1];
    x[n - 1] /= pivot[n - 1];
    for (let i = n - 2; i >= 0; i--) x[i] = (x[i] - upper[i] * x[i + 1]) / pivot[i];
    return x;
  };
}

/** B(z) = z / (e^z − 1), the Scharfetter–Gummel weight. */
export function bernoulli(z) {
  return z === 0 ? 1 : z / Math.expm1(z);
}

/** The jumps between neighbouring cells of dx = drift dt + √G dw: rates up and down. */
export class JumpProcess {
  constructor(drift, G, grid) {
    this.grid = grid;
    const { centers, spacing: h, cells } = grid;
    this.up = new Float64Array(cells - 1);
    this.down = new Float64Array(cells - 1);
    for (let i = 0; i < cells - 1; i++) {
      const points = RULE.map(({ node }) => centers[i] + node * h);
      const f = drift(points).reduce((sum, f_k, k) => sum + RULE[k].weight * f_k, 0);
      const w = (2 * f * h) / G;
      this.up[i] = ((0.5 * G) / h ** 2) * bernoulli(-w);
      this.down[i] = ((0.5 * G) / h ** 2) * bernoulli(w);
    }
    this.log_pi = this.stationary_log_density();
    this.steppers = new Map(); // the factors, by the length of the step
  }

  /** The rate at which the cell is left that is left fastest. */
  fastest() {
    const { up, down } = this;
    let most = 0;
    for (let i = 0; i <= up.length; i++)
      most = Math.max(most, (up[i] ?? 0) + (down[i - 1] ?? 0));
    return most;
  }

  /** log of the density that no current flows in: p_{i+1} / p_i = up / down. */
  stationary_log_density() {
    const log_p = new Float64Array(this.grid.cells);
    this.up.forEach(
      (up, i) => (log_p[i + 1] = log_p[i] + Math.log(up) - Math.log(this.down[i])),
    );
    const max = log_p.reduce((a, b) => Math.max(a, b));
    const log_mass = Math.log(this.grid.mass(log_p.map((l) => Math.exp(l - max))));
    return log_p.map((l) => l - max - log_mass);
  }

  /** p ↦ (I − τA)⁻¹ p: backward Euler, where dp/dt = A p. */
  backward_euler(tau) {
    const { up, down } = this;
    const n = this.grid.cells;
    const lower = new Float64Array(n);
    const upper = new Float64Array(n);
    const diagonal = new Float64Array(n).fill(1);
    for (let i = 0; i < n - 1; i++) {
      diagonal[i] += tau * up[i];
      diagonal[i + 1] += tau * down[i];
      lower[i + 1] = -tau * up[i];
      upper[i] = -tau * down[i];
    }
    return tridiagonal(lower, diagonal, upper);
  }

  /**
   * p after the time τ, by Crank–Nicolson. A step that would make the density negative
   * somewhere is taken as two halves, and so on, as in Python. Steps shorter than
   * 2 / fastest never do, so that halving ends; where Python refuses to take more than
   * a thousand, the page goes on.
   */
  advance(p, tau) {
    if (!this.steppers.has(tau)) this.steppers.set(tau, this.backward_euler(0.5 * tau));
    const q = this.steppers.get(tau)(p);
    const next = q.map((value, i) => 2 * value - p[i]);
    const lowest = next.reduce((a, b) => Math.min(a, b));
    if (lowest >= 0) return next;
    if (lowest > -TINY) return next.map((value) => Math.max(value, 0));
    return this.advance(this.advance(p, 0.5 * tau), 0.5 * tau);
  }

  /** −d KL / dt ≥ 0 of p to the stationary density: Σ current × fall of log(p / π). */
  dissipation(p) {
    const log_pi = this.log_pi;
    const fall = (i) => Math.log(p[i]) - log_pi[i] - Math.log(p[i + 1]) + log_pi[i + 1];
    let sum = 0;
    this.up.forEach((up, i) => {
      const current = up * p[i] - this.down[i] * p[i + 1];
      if (current !== 0) sum += current * fall(i);
    });
    return sum * this.grid.spacing;
  }

  /**
   * λ₁, the slowest rate at which a density approaches the stationary one: KL to it
   * falls like e^(−2λ₁t) in the end. By inverse iteration on densities of mass 0.
   */
  spectral_gap() {
    const { grid, up, down } = this;
    const pi = this.log_pi.map(Math.exp);
    const solve = this.backward_euler(1e6 / this.fastest());
    let r = grid.centers.map((x, i) => pi[i] * x); // r = π u, and u is the eigenfunction
    for (let k = 0; k < 60; k++) {
      const mass = grid.mass(r);
      r = r.map((value, i) => value - mass * pi[i]);
      const size = Math.sqrt(r.reduce((sum, value, i) => sum + value ** 2 / pi[i], 0));
      r = solve(r.map((value) => value / size));
    }
    // Rayleigh's quotient of u in the symmetric form of the chain
    let dirichlet = 0;
    let norm = 0;
    const u = r.map((value, i) => value / pi[i]);
    const mean = u.reduce((sum, value, i) => sum + value * pi[i], 0) * grid.spacing;
    for (let i = 0; i < u.length; i++) {
      norm += pi[i] * (u[i] - mean) ** 2;
      if (i > 0) dirichlet += pi[i - 1] * up[i - 1] * (u[i] - u[i - 1]) ** 2;
    }
    return dirichlet / norm;
  }
}

/** ∫ p log(p / q) for densities on cells with the same mass, from log q. */
export function grid_kl(p, log_q, volume) {
  let sum = 0;
  for (let i = 0; i < p.length; i++) {
    const q = Math.exp(log_q[i]);
    const d = (p[i] - q) / q;
    // p log(p/q) − p + q is never negative; near 0 its terms would cancel
    if (Math.abs(d) < 1e-3) sum += q * d ** 2 * (1 / 2 - d / 6 + d ** 2 / 12);
    else if (p[i] > 0) sum += p[i] * (Math.log(p[i]) - log_q[i]) - p[i] + q;
    else sum += q;
  }
  return sum * volume;
}

/** The widget's grid: a cell on every knot, so that between centres U is one cubic. */
export const GRID = new Grid(-3.22, 3.22, 161);

/** The averages of a Gaussian at x_0 over the cells, with mass 1. */
export function bump(grid, x_0) {
  const p = grid.average((x) => Math.exp(-0.5 * ((x - x_0) / START_WIDTH) ** 2));
  const mass = grid.mass(p);
  return p.map((value) => value / mass);
}

// ---------------------------------------------------------------------------- particles

/** Points that went through the walls, mirrored back between them. */
export function reflect(x, low, high) {
  const period = 2 * (high - low);
  return x.map((value) => {
    if (value >= low && value <= high) return value;
    const along = (((value - low) % period) + period) % period;
    return low + Math.min(along, period - along);
  });
}

/** The points below which the shares u of the density lie: draws from it, for uniform u. */
export function place(p, grid, u) {
  const below = new Float64Array(p.length + 1);
  p.forEach((value, i) => (below[i + 1] = below[i] + value * grid.spacing));
  return u.map((share) => {
    let [i, end] = [0, p.length - 1]; // the first cell with enough below its upper end
    while (i < end) {
      const middle = Math.floor((i + end) / 2);
      if (below[middle + 1] < share) i = middle + 1;
      else end = middle;
    }
    const part = (share - below[i]) / (below[i + 1] - below[i]);
    return grid.low + (i + Math.min(1, part)) * grid.spacing;
  });
}

/** The share of the density right of x, with the cell that holds x counted in part. */
export function mass_right(p, grid, x) {
  let sum = 0;
  for (let i = 0; i < p.length; i++) {
    const right = grid.low + (i + 1) * grid.spacing;
    sum += p[i] * Math.max(0, Math.min(grid.spacing, right - x));
  }
  return sum;
}
