/** A mixture that the reader shapes, dissolving into noise: density, score, particles. */

import {
  average,
  decode,
  encode,
  euler_maruyama,
  forward,
  make_path,
  projections,
  sliced_wasserstein,
  time_grid,
} from "./core.js";
import {
  Plane,
  assign,
  choice,
  format,
  formatEstimate,
  group,
  handle,
  legend,
  player,
  principalAxes,
  readout,
  slider,
  toggle,
} from "./figure.js";
import { MixtureWidget, PROCESSES, draws, viewExtent } from "./mixture_widget.js";

const SECONDS = 8; // from data to noise, played
const PAIRS = 4; // samples that the distance and its floor are averaged over
const NUMBERS_EVERY = 120; // milliseconds between two refreshes of the numbers

/** What can be changed about a process: name, label, least, most, step. */
const PARAMETERS = {
  OrnsteinUhlenbeck: [
    ["beta", "rate β", 0, 3, 0.05],
    ["diffusion", "diffusion g", 0.2, 3, 0.05],
  ],
  VariancePreserving: [["beta_max", "β at t = 1", 1, 30, 0.5]],
  VarianceExploding: [["sigma_max", "σ at t = 1", 1, 20, 0.5]],
  Cosine: [],
  Straight: [],
};

const NUMBERS = [
  ["alpha", "α", "how much of x₀ is left"],
  ["sigma", "σ", "standard deviation of the noise"],
  ["snr", "SNR α²/σ²", "signal-to-noise ratio"],
  [
    "information",
    "I(x₀; xₜ), nats",
    "mutual information, Monte Carlo over the particles, ± standard error",
  ],
  [
    "kl",
    "KL to noise, nats",
    "KL(pₜ ‖ N(0, s²I)), Monte Carlo over the particles, ± standard error",
  ],
  ["distance", "particles to pₜ", "sliced Wasserstein distance to exact samples of pₜ"],
  [
    "floor",
    "sampling floor",
    "the same distance between two exact samples of this size",
  ],
  [
    "posterior",
    "E[x₀ | xₜ] at pointer",
    "posterior mean; the ellipse is one standard deviation",
  ],
];

const TRAITS = [
  "weights",
  "means",
  "covariances",
  "path",
  "t",
  "n_particles",
  "seed",
  "simulate",
  "steps",
  "playing",
];

/** The standard deviation of the Gaussian that the process ends in. */
function noiseScale(path) {
  const { stationary_std } = path;
  return stationary_std < Infinity ? stationary_std : path.sigma(path.t_max);
}

/** The covariance with these standard deviations: √(major minor), major / minor, angle. */
function shaped({ width, elongation, angle }) {
  const [major, minor] = [width ** 2 * elongation, width ** 2 / elongation];
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  const off = (major - minor) * c * s;
  return [major * c * c + minor * s * s, off, off, major * s * s + minor * c * c];
}

class DissolvingMixture extends MixtureWidget {
  constructor({ model, el }) {
    super({ model, el, name: "dissolving_mixture", traits: TRAITS });
    this.selected = 0;
    this.show = { density: true, score: true, particles: true };
    this.hover = null;
    this.gesture = false; // whether a hand is on the mixture
    this.reference = null; // the mixture that the view is fitted to
    this.panel = new Plane("");
    this.figure.stage.append(this.panel.node);
    this.handles = [];
    this.buildControls();
    this.panel.followPointer((place) => this.point(place));
    this.begin();
  }

  // ----------------------------------------------------------------------------- state

  /** Everything the picture depends on, computed from the traits; throws on bad ones. */
  read() {
    const shared = this.readShared();
    const t = this.real("t", 0, shared.path.t_max);
    return { ...shared, t, simulate: this.model.get("simulate") };
  }

  changed() {
    if (!this.gesture) this.reference = null;
    super.changed();
  }

  /** The particles at time t: x_t = α x_0 + σ ε, or the SDE simulated up to t. */
  particles() {
    const { mixture, path, t, simulate } = this.now;
    const { u, z, eps } = this.noise;
    const { x: x_0, component } = mixture.place(u, z);
    const x = simulate ? this.simulated(x_0) : path.perturb(x_0, eps, t);
    return { x_0, x, component, t };
  }

  simulated(x_0) {
    const { path, t, steps } = this.now;
    const times = time_grid(0, path.t_max, steps);
    const key = JSON.stringify(
      ["weights", "means", "covariances", "path", "steps"].map((name) =>
        this.model.get(name),
      ),
    );
    if (this.run?.key !== key || this.run.noise !== this.noise) {
      const states = euler_maruyama(forward(path), x_0, times, this.replay());
      this.run = { key, noise: this.noise, states, reached: [] };
    }
    const k = Math.max(
      0,
      times.findLastIndex((time) => time <= t),
    );
    while (this.run.reached.length <= k)
      this.run.reached.push(this.run.states.next().value);
    const x = this.run.reached[k];
    if (times[k] === t) return x;
    return [...euler_maruyama(forward(path), x, [times[k], t], this.replay(k))].at(-1);
  }

  advance(seconds) {
    const { t_max } = this.now.path;
    const t = Math.min(t_max, this.model.get("t") + (seconds / SECONDS) * t_max);
    assign(this.model, t < t_max ? { t } : { t, playing: false });
  }

  // -------------------------------------------------------------------------- controls

  buildControls() {
    this.player = player({
      onplay: () => this.togglePlay(),
      onstep: () => this.step(),
      onreset: () => assign(this.model, this.initial),
    });
    this.time = slider({
      label: "time t",
      min: 0,
      max: 1,
      step: "any",
      text: (t) => t.toFixed(2),
      oninput: this.set("t"),
    });
    this.process = choice({
      label: "process",
      options: PROCESSES,
      onchange: (name) => this.setProcess(name),
    });
    this.parameters = group("Process", this.process.node);
    this.law = choice({
      label: "particles",
      options: [
        ["exact", "xₜ = α x₀ + σ ε"],
        ["simulated", "simulate the SDE"],
      ],
      onchange: (value) => assign(this.model, { simulate: value === "simulated" }),
    });
    this.steps = slider({
      label: "steps to T",
      min: 2,
      max: 200,
      step: 1,
      text: String,
      oninput: this.set("steps"),
    });
    this.weight = slider({
      label: "weight",
      min: 0.02,
      max: 0.98,
      step: 0.01,
      text: (w) => w.toFixed(2),
      oninput: (w) => this.setWeight(w),
    });
    this.width = slider({
      label: "width",
      min: 0.05,
      max: 1.5,
      step: 0.01,
      text: (w) => w.toFixed(2),
      oninput: (width) => this.reshape({ width }),
    });
    this.elongation = slider({
      label: "elongation",
      min: 1,
      max: 8,
      step: 0.1,
      text: (e) => e.toFixed(1),
      oninput: (elongation) => this.reshape({ elongation }),
    });
    this.angle = slider({
      label: "angle",
      min: -90,
      max: 90,
      step: 1,
      text: (a) => `${Math.round(a)}°`.replace("-", "−"),
      oninput: (a) => this.reshape({ angle: (a * Math.PI) / 180 }),
    });
    this.component = group(
      "Component",
      this.weight.node,
      this.width.node,
      this.elongation.node,
      this.angle.node,
    );
    this.switches = Object.keys(this.show).map((name) => {
      const control = toggle({
        label: name,
        onchange: (on) => {
          this.show[name] = on;
          this.figure.invalidate();
        },
      });
      control.set(true);
      return control.node;
    });
    this.numbers = readout(NUMBERS);
    this.key = legend([
      ["is-shade", "var(--density)", "density pₜ"],
      ["is-arrow", "currentColor", "score ∇ log pₜ (length saturates)"],
      ["is-dot", "#d55e00", "particles, coloured by the component they came from"],
    ]);
    const shown = group("Show", ...this.switches);
    shown.classList.add("is-inline");
    this.figure.side.append(
      this.player.node,
      this.time.node,
      this.parameters,
      group("Particles", this.law.node, this.steps.node),
      this.component,
      shown,
    );
    this.figure.below.append(this.key, this.numbers.node);
    this.component.addEventListener("input", () => (this.gesture = true), {
      capture: true,
    });
    this.component.addEventListener("change", () => this.settle());
  }

  togglePlay() {
    const playing = !this.model.get("playing");
    const atEnd = this.model.get("t") >= this.now.path.t_max;
    assign(this.model, playing && atEnd ? { t: 0, playing } : { playing });
  }

  step() {
    const { t_max } = this.now.path;
    assign(this.model, {
      playing: false,
      t: Math.min(t_max, this.model.get("t") + t_max / 20),
    });
  }

  /** Another process at the same fraction of its time. */
  setProcess(name) {
    const old = this.model.get("path");
    const path = this.otherPath(name);
    const t = (this.model.get("t") / make_path(old).t_max) * make_path(path).t_max;
    assign(this.model, { path, t });
  }

  setWeight(weight) {
    const weights = decode(this.model.get("weights"));
    const k = this.selected;
    const rest = 1 - weights[k];
    if (weights.length === 1) return;
    const others = (w) =>
      rest > 0 ? (w / rest) * (1 - weight) : (1 - weight) / (weights.length - 1);
    assign(this.model, {
      weights: encode(
        weights.map((w, j) => (j === k ? weight : others(w))),
        [weights.length],
      ),
    });
  }

  reshape(change) {
    const covariances = decode(this.model.get("covariances"));
    this.shape = { ...this.shape, ...change };
    covariances.set(shaped(this.shape), 4 * this.selected);
    assign(this.model, {
      covariances: encode(covariances, [covariances.length / 4, 2, 2]),
    });
  }

  move(k, x, y) {
    const means = decode(this.model.get("means"));
    const [half_x, half_y] = this.panel.half;
    means[2 * k] = Math.max(-half_x, Math.min(half_x, x));
    means[2 * k + 1] = Math.max(-half_y, Math.min(half_y, y));
    assign(this.model, { means: encode(means, [means.length / 2, 2]) });
  }

  /** Fits the view again once a gesture has ended: until then it stays as it was. */
  settle() {
    this.gesture = false;
    this.reference = null;
    this.figure.invalidate();
  }

  select(k) {
    this.selected = k;
    this.shape = null;
    this.stale = true;
    this.figure.invalidate();
  }

  // --------------------------------------------------------------------------- handles

  makeHandle(k) {
    return handle({
      panel: this.panel,
      text: String(k + 1),
      where: () => decode(this.model.get("means")).subarray(2 * k, 2 * k + 2),
      move: (x, y) => {
        this.gesture = true;
        this.move(k, x, y);
      },
      step: (event) => (event.shiftKey ? 0.05 : 0.0125) * this.panel.extent,
      focus: () => this.select(k),
      release: () => this.settle(),
    });
  }

  point(place) {
    this.hover = place;
    this.numbersAt = 0;
    this.figure.invalidate();
  }

  // -------------------------------------------------------------------------- one frame

  draw(colours) {
    if (this.stale) this.refresh();
    const { panel, now } = this;
    this.reference ??= now.mixture;
    panel.extent = viewExtent(this.reference, now.path, now.t);
    if (!panel.begin(colours)) return;
    panel.clipped(() => {
      if (this.show.density) this.highest = panel.density(now.law);
      if (this.show.score) panel.arrows((points) => now.law.score(points));
      if (this.show.particles) this.drawParticles(colours);
      this.drawSelection(colours);
      if (this.hover) this.drawPosterior(colours);
    });
    panel.axes();
    panel.heading(`t = ${now.t.toFixed(2)}`, "left", colours.ink);
    if (this.show.density) panel.heading(`max pₜ = ${format(this.highest)}`, "right");
    this.placeHandles(colours);
    this.updateNumbers();
  }

  /** Recomputes what depends on the traits, and shows them in the controls. */
  refresh() {
    this.now = this.read();
    const { mixture, path, t, n, steps, simulate } = this.now;
    this.now.law = path.marginal(mixture, t);
    this.drawNoise([n, steps], (generator) => ({
      ...draws(generator, n),
      eps: generator.normal(2 * n),
      pairs: Array.from({ length: PAIRS }, () => [
        draws(generator, n),
        draws(generator, n),
      ]),
      steps: generator.normal(2 * n * steps),
    }));
    this.now.particles = this.particles();
    this.selected = Math.min(this.selected, mixture.n_components - 1);
    this.showParameters(path);
    this.player.set(this.model.get("playing"));
    this.time.range(0, path.t_max, path.t_max / 500);
    this.time.set(t);
    this.law.set(simulate ? "simulated" : "exact");
    this.steps.set(steps);
    this.steps.node.hidden = !simulate;
    this.showComponent(mixture);
    this.measured = 0;
    this.stale = false;
  }

  showParameters(path) {
    const { name, ...values } = this.model.get("path");
    this.process.set(name);
    if (this.parameters.dataset.name !== name) {
      this.parameters.dataset.name = name;
      this.sliders = PARAMETERS[name].map(([parameter, label, min, max, step]) => {
        const oninput = (value) =>
          assign(this.model, {
            path: { ...this.model.get("path"), [parameter]: value },
          });
        return [parameter, slider({ label, min, max, step, oninput })];
      });
      this.parameters.replaceChildren(
        this.parameters.firstChild,
        this.process.node,
        ...this.sliders.map(([, s]) => s.node),
      );
    }
    for (const [parameter, control] of this.sliders)
      control.set(values[parameter] ?? path[parameter]);
  }

  showComponent(mixture) {
    const k = this.selected;
    const { major, minor, angle } = principalAxes(
      mixture.covariances.subarray(4 * k, 4 * k + 4),
    );
    const elongation = major / minor;
    const round = elongation < 1.01;
    this.shape = {
      width: Math.sqrt(major * minor),
      elongation,
      angle: round ? (this.shape?.angle ?? 0) : angle,
    };
    this.component.firstChild.textContent = `Component ${k + 1} of ${mixture.n_components}`;
    this.weight.set(mixture.weights[k]);
    this.width.set(this.shape.width);
    this.elongation.set(elongation);
    this.angle.set((this.shape.angle * 180) / Math.PI);
  }

  drawParticles(colours) {
    const { x, component } = this.now.particles;
    const palette = colours.components;
    palette.forEach((colour, k) => {
      this.panel.points(x, colour, {
        radius: 1.8,
        alpha: 0.8,
        belongs: (i) => component[i] % palette.length === k,
      });
    });
  }

  /** The selected component of the data: one and two standard deviations. */
  drawSelection(colours) {
    const { mixture } = this.now;
    const k = this.selected;
    const mean = mixture.means.subarray(2 * k, 2 * k + 2);
    const covariance = mixture.covariances.subarray(4 * k, 4 * k + 4);
    this.panel.ellipse(mean, covariance, colours.ink, {
      deviations: 2,
      dash: [4, 3],
      alpha: 0.7,
    });
  }

  drawPosterior(colours) {
    const { mixture, path, t } = this.now;
    const [alpha, sigma] = [path.alpha(t), path.sigma(t)];
    const x_t = Float64Array.from(this.hover);
    const mean = mixture.posterior_mean(x_t, alpha, sigma);
    const covariance = mixture.posterior_covariance(x_t, alpha, sigma);
    this.panel.line([this.hover, mean], colours.ink, { width: 1.5 });
    this.panel.ellipse(mean, covariance, colours.ink, { width: 1.5 });
    this.panel.points(x_t, colours.ink, { radius: 3, alpha: 1 });
    this.panel.points(mean, colours.ink, { radius: 4.5, alpha: 1 });
    this.panel.points(mean, colours.paper, { radius: 2.5, alpha: 1 });
  }

  placeHandles(colours) {
    const { mixture } = this.now;
    if (this.handles.length !== mixture.n_components) {
      this.handles.forEach(({ node }) => node.remove());
      this.handles = Array.from(mixture.weights, (_, k) => this.makeHandle(k));
      this.panel.node.append(...this.handles.map(({ node }) => node));
    }
    const [half_x, half_y] = this.panel.half;
    this.handles.forEach(({ node, place }, k) => {
      const [x, y] = mixture.means.subarray(2 * k, 2 * k + 2);
      const inside = [
        Math.max(-half_x, Math.min(half_x, x)),
        Math.max(-half_y, Math.min(half_y, y)),
      ];
      const at = `(${x.toFixed(2)}, ${y.toFixed(2)})`;
      place(
        inside,
        colours.components[k % colours.components.length],
        `Component ${k + 1}, mean at ${at}; arrow keys move it`,
      );
      node.classList.toggle("is-selected", k === this.selected);
    });
  }

  // --------------------------------------------------------------------------- numbers

  /** Refreshes the numbers now and then, until every pair of samples has been heard. */
  updateNumbers() {
    const { mixture, path, t } = this.now;
    const time = performance.now();
    if (time - (this.numbersAt ?? 0) < NUMBERS_EVERY) {
      if (!this.figure.playing) this.figure.invalidate();
      return;
    }
    this.numbersAt = time;
    const [alpha, sigma] = [path.alpha(t), path.sigma(t)];
    this.numbers.set("alpha", format(alpha));
    this.numbers.set("sigma", format(sigma));
    this.numbers.set("snr", format((alpha / sigma) ** 2));
    this.numbers.set(
      "posterior",
      this.hover ? this.posteriorText(alpha, sigma) : "hover or tap",
    );
    if (this.measured < PAIRS) this.measure(alpha, sigma);
    if (this.measured < PAIRS && !this.figure.playing) this.figure.invalidate();
    const weights = Array.from(mixture.weights, (w) => w.toFixed(2)).join(", ");
    this.panel.describe(
      `Mixture of ${mixture.n_components} Gaussians with weights ${weights} ` +
        `at time ${t.toFixed(2)}: alpha ${format(alpha)}, sigma ${format(sigma)}; ` +
        `density, score arrows and ${this.now.n} particles.`,
    );
  }

  posteriorText(alpha, sigma) {
    const mean = this.now.mixture.posterior_mean(
      Float64Array.from(this.hover),
      alpha,
      sigma,
    );
    return `(${Array.from(mean, (m) => m.toFixed(2)).join(", ")})`.replaceAll("-", "−");
  }

  measure(alpha, sigma) {
    const { law, path } = this.now;
    const { x, x_0 } = this.now.particles;
    const log_p = law.log_prob(x);
    this.numbers.set(
      "information",
      sigma > 0
        ? formatEstimate(average(informationTerms(x, x_0, alpha, sigma, log_p)))
        : "∞",
    );
    this.numbers.set(
      "kl",
      formatEstimate(average(klTerms(x, noiseScale(path), log_p))),
    );

    this.distances ??= [];
    const j = (this.next = ((this.next ?? -1) + 1) % PAIRS);
    const [a, b] = this.noise.pairs[j].map(({ u, z }) =>
      projections(law.place(u, z).x),
    );
    this.distances[j] = [
      sliced_wasserstein(projections(x), a),
      sliced_wasserstein(b, a),
    ];
    this.measured += 1;
    const mean = (which) => average(this.distances.map((pair) => pair[which])).value;
    this.numbers.set("distance", format(mean(0), 2));
    this.numbers.set("floor", format(mean(1), 2));
  }
}

/** log N(x_t; α x_0, σ²I) − log p_t(x_t): its mean is the mutual information. */
function informationTerms(x, x_0, alpha, sigma, log_p) {
  return log_p.map((log_marginal, i) => {
    const distance =
      (x[2 * i] - alpha * x_0[2 * i]) ** 2 +
      (x[2 * i + 1] - alpha * x_0[2 * i + 1]) ** 2;
    return (
      -Math.log(2 * Math.PI * sigma ** 2) - distance / (2 * sigma ** 2) - log_marginal
    );
  });
}

/** log p_t(x_t) − log N(x_t; 0, s²I): its mean is the Kullback–Leibler divergence. */
function klTerms(x, s, log_p) {
  return log_p.map((log_marginal, i) => {
    const distance = x[2 * i] ** 2 + x[2 * i + 1] ** 2;
    return log_marginal + Math.log(2 * Math.PI * s ** 2) + distance / (2 * s ** 2);
  });
}

/** anywidget's entry point: draws into `el`, returns the clean-up. */
export function render({ model, el }) {
  const widget = new DissolvingMixture({ model, el });
  return () => widget.remove();
}
