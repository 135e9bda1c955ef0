/** A noisy point that the reader moves, and the law of where it came from. */

import { decode, encode, make_path } from "./core.js";
import {
  Plane,
  assign,
  choice,
  element,
  format,
  group,
  handle,
  legend,
  player,
  principalAxes,
  readout,
  slider,
  toggle,
} from "./figure.js";
import { MixtureWidget, PROCESSES, reach, viewExtent } from "./mixture_widget.js";
import { kl_divergence, modes, moment_matched, narrowing } from "./tweedie.js";

const SECONDS = 8; // from the least noise to the most, played
const LEAST = 1e-3; // of t_max, the earliest time that the slider reaches
const SHORTEST = 1e-3; // of t, the shortest step back
const LONGEST = 0.95;
const FIRST = 0.1; // of t, the step that a reader sees first
const DEVIATIONS = 2;
const SHOWN = 0.01; // weight of a component that is worth an ellipse
const MOST_NOISE = 1e3; // τ/a beyond which narrow Gaussian and xₜ/a are off every view

const NUMBERS = [
  ["point", "noisy point xₜ", "where the pointer, or the arrow keys, put it"],
  [
    "level",
    "a, τ, τ/a",
    "xₜ = a xₛ + τ ε, where a and τ are α and σ for s = 0; τ/a is the standard " +
      "deviation of the small-noise Gaussian",
  ],
  ["mean", "mean", "E[xₛ | xₜ] = (xₜ + τ²∇log pₜ)/a, Tweedie's formula"],
  [
    "deviations",
    "standard deviations",
    "of the law, along its principal axes: roots of the eigenvalues of " +
      "(τ²/a²)(I + τ²∇²log pₜ)",
  ],
  ["trace", "tr Cov[xₛ | xₜ]", "expected squared error of the mean"],
  ["weights", "weights", "of the components, given xₜ"],
  ["modes", "modes", "peaks at least a hundredth as high as the highest"],
  [
    "matched",
    "KL to matched Gaussian",
    "KL(law ‖ N(mean, Cov)) in nats, by quadrature",
  ],
  ["small", "KL to small-noise one", "KL(law ‖ N(mean, (τ²/a²) I)) in nats"],
  ["leading", "¼‖τ²∇²log pₜ‖²", "what the KL to the small-noise Gaussian tends to"],
];

const TRAITS = [
  "weights",
  "means",
  "covariances",
  "path",
  "t",
  "s",
  "x_t",
  "follow",
  "playing",
];

/** "(1.00, −0.50)". */
function pair(numbers) {
  const texts = Array.from(numbers, (x) => x.toFixed(2).replace("-", "−"));
  return `(${texts.join(", ")})`;
}

/** A divergence, whose rounding error is about 1e-15. */
function divergence(value) {
  return value < 1e-12 ? "< 10⁻¹²" : format(value);
}

/** Half the width of a view around the mean that shows the law and both Gaussians:
 *  rounded up to a quarter power of 2, so that it rests while the point moves. */
function zoom(law, a, tau) {
  const [x, y] = law.mean;
  let most = tau < MOST_NOISE * a ? (1.2 * DEVIATIONS * tau) / a : 0;
  law.weights.forEach((weight, k) => {
    if (!(weight > SHOWN)) return;
    const { major } = principalAxes(law.covariances.subarray(4 * k, 4 * k + 4));
    const distance = Math.hypot(law.means[2 * k] - x, law.means[2 * k + 1] - y);
    most = Math.max(most, distance + 2.7 * major);
  });
  return 2 ** (Math.ceil(4 * Math.log2(most)) / 4);
}

/** An arrow on a plane; nothing where it has no length. */
function arrow(panel, tail, tip, colour) {
  const length = Math.hypot(tip[0] - tail[0], tip[1] - tail[1]);
  const head = Math.min(7 / panel.scale, 0.5 * length);
  if (!(head > 0)) return;
  const [c, s] = [(tip[0] - tail[0]) / length, (tip[1] - tail[1]) / length];
  const side = (turn) => [
    tip[0] - head * (c + 0.5 * turn * s),
    tip[1] - head * (s - 0.5 * turn * c),
  ];
  panel.line([tail, tip], colour, { width: 1.5 });
  panel.line([side(1), tip, side(-1)], colour, { width: 1.5 });
}

class TweediePosterior extends MixtureWidget {
  constructor({ model, el }) {
    super({ model, el, name: "tweedie_posterior", traits: TRAITS });
    this.show = { components: true, matched: true, small: true };
    this.near = null; // whether the right view is drawn near the law
    this.reference = null; // the mixture that the views are fitted to
    this.left = new Plane("");
    this.right = new Plane("");
    this.figure.stage.append(this.left.node, this.right.node);
    this.discs = [];
    this.point = this.makePoint();
    this.left.node.append(this.point.node);
    this.listen(this.left.canvas);
    this.buildControls();
    this.begin();
  }

  // ----------------------------------------------------------------------------- state

  /** Everything the picture depends on, computed from the traits; throws on bad ones. */
  read() {
    const shared = this.readMixture();
    const { t_max } = shared.path;
    const t = this.real("t", 0, t_max);
    if (t === 0) throw new Error(`t must lie in (0, ${t_max}], got 0`);
    const s = this.real("s", 0, t);
    if (s === t) throw new Error(`s must lie in [0, ${t}), got ${s}`);
    const x_t = decode(this.model.get("x_t"));
    if (x_t.length !== 2 || !x_t.every(Number.isFinite))
      throw new Error("x_t must be two finite numbers");
    return { ...shared, t, s, x_t };
  }

  /** What follows from those: the laws, and the Gaussians that stand for the one. */
  compute() {
    const { mixture, path, t, s, x_t } = this.now;
    const [a, tau] = path.between(s, t);
    const noised = path.marginal(mixture, t);
    const law = path.marginal(mixture, s).posterior(x_t, a, tau);
    const matched = moment_matched(law);
    const { exact, leading } = narrowing(noised, x_t, a, tau, law.covariance);
    const kl = kl_divergence(law, matched);
    Object.assign(this.now, { a, tau, noised, law, kl, leading });
    this.now.kl_small = kl + exact;
    this.now.narrow = tau < MOST_NOISE * a ? (tau / a) ** 2 : Infinity;
    this.now.modes = modes(law);
  }

  changed() {
    if (!this.gesture) this.reference = null;
    super.changed();
  }

  advance(seconds) {
    const { t_max } = this.now.path;
    const t = Math.min(t_max, this.now.t * LEAST ** (-seconds / SECONDS));
    this.setTime(t, t < t_max);
  }

  /** Another time, at which s is the same share of it. */
  setTime(t, playing = false) {
    assign(this.model, { t, s: (this.now.s / this.now.t) * t, playing });
  }

  /** Takes the noisy point to a place. */
  take(place, follow) {
    if (!place.every(Number.isFinite)) return;
    assign(this.model, { x_t: encode(place, [2]), follow });
  }

  // -------------------------------------------------------------------------- controls

  buildControls() {
    this.player = player({
      onplay: () => this.togglePlay(),
      onstep: () => this.setTime(Math.min(this.now.path.t_max, 1.2 * this.now.t)),
      onreset: () => assign(this.model, this.initial),
    });
    this.time = slider({
      label: "time t",
      min: Math.log(LEAST),
      max: 0,
      step: "any",
      text: (share) =>
        this.now ? format(Math.exp(share) * this.now.path.t_max, 2) : "",
      oninput: (share) => this.setTime(Math.exp(share) * this.now.path.t_max),
    });
    this.asked = choice({
      label: "the law of",
      options: [
        ["data", "x₀, the data"],
        ["step", "xₛ, one step back"],
      ],
      onchange: (what) =>
        assign(this.model, { s: what === "data" ? 0 : (1 - FIRST) * this.now.t }),
    });
    this.step = slider({
      label: "step t − s",
      min: Math.log(SHORTEST),
      max: Math.log(LONGEST),
      step: "any",
      text: (share) => (this.now ? format(Math.exp(share) * this.now.t, 2) : ""),
      oninput: (share) => assign(this.model, { s: (1 - Math.exp(share)) * this.now.t }),
    });
    this.process = choice({
      label: "process",
      options: PROCESSES,
      onchange: (name) => this.setProcess(name),
    });
    this.follow = toggle({
      label: "xₜ follows the pointer",
      onchange: this.set("follow"),
    });
    this.zoomed = toggle({
      label: "look closely",
      onchange: (on) => {
        this.near = on;
        this.figure.invalidate();
      },
    });
    const names = {
      components: "components",
      matched: "matched Gaussian",
      small: "small-noise Gaussian",
    };
    const switches = Object.entries(names).map(([name, label]) => {
      const control = toggle({
        label,
        onchange: (on) => {
          this.show[name] = on;
          this.figure.invalidate();
        },
      });
      control.set(true);
      return control.node;
    });
    const shown = group("Show", ...switches, this.zoomed.node);
    shown.classList.add("is-inline");
    this.numbers = readout(NUMBERS);
    this.figure.side.append(
      element(
        "div",
        { class: "diffedu-column" },
        this.player.node,
        this.time.node,
        this.process.node,
      ),
      element(
        "div",
        { class: "diffedu-column" },
        this.asked.node,
        this.step.node,
        this.follow.node,
        shown,
      ),
    );
    const key = legend([
      ["is-shade", "var(--density)", "left pₜ, right the law of x₀ or xₛ given xₜ"],
      ["is-line", "#d55e00", "its components"],
      ["is-line", "currentColor", "matched Gaussian: its mean and covariance"],
      ["is-dash", "var(--accent)", "small-noise Gaussian: its mean and (τ²/a²) I"],
      ["is-arrow", "currentColor", "left τ²∇log pₜ, right from xₜ/a to the mean"],
    ]);
    this.figure.below.append(key, this.numbers.node);
  }

  togglePlay() {
    const playing = !this.model.get("playing");
    const { t_max } = this.now.path;
    if (playing && this.now.t >= t_max) this.setTime(LEAST * t_max, true);
    else assign(this.model, { playing });
  }

  /** Another process at the same fractions of its time. */
  setProcess(name) {
    const path = this.otherPath(name);
    const t = (this.now.t / this.now.path.t_max) * make_path(path).t_max;
    assign(this.model, { path, t, s: (this.now.s / this.now.t) * t });
  }

  // ----------------------------------------------------------------------------- hands

  /** A mouse takes the point along until it clicks; a finger taps. */
  listen(canvas) {
    canvas.addEventListener("pointermove", (event) => {
      const held = event.buttons & 1;
      if (event.pointerType === "touch" || !(this.model.get("follow") || held)) return;
      this.take(this.left.under(event), this.model.get("follow"));
    });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch" || event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId); // the disc would be in the way
      this.take(this.left.under(event), false);
    });
    canvas.addEventListener("click", (event) =>
      this.take(this.left.under(event), false),
    );
  }

  /** The noisy point itself, for hands and arrow keys. */
  makePoint() {
    const point = handle({
      panel: this.left,
      text: "x",
      where: () => decode(this.model.get("x_t")),
      move: (x, y) => this.take(this.inside(x, y), false),
      step: (event) => (event.shiftKey ? 0.05 : 0.0125) * this.left.extent,
      focus: null,
      release: () => {},
    });
    point.node.classList.add("is-point");
    return point;
  }

  makeDisc(k) {
    return handle({
      panel: this.left,
      text: String(k + 1),
      where: () => decode(this.model.get("means")).subarray(2 * k, 2 * k + 2),
      move: (x, y) => {
        this.gesture = true; // the views stay as they are until the hand lets go
        const means = decode(this.model.get("means"));
        means.set(this.inside(x, y), 2 * k);
        assign(this.model, { means: encode(means, [means.length / 2, 2]) });
      },
      step: (event) => (event.shiftKey ? 0.05 : 0.0125) * this.left.extent,
      focus: null,
      release: () => {
        this.gesture = false;
        this.reference = null;
        this.figure.invalidate();
      },
    });
  }

  /** The nearest place in the left view. */
  inside(x, y) {
    const [half_x, half_y] = this.left.half;
    return [
      Math.max(-half_x, Math.min(half_x, x)),
      Math.max(-half_y, Math.min(half_y, y)),
    ];
  }

  // -------------------------------------------------------------------------- one frame

  draw(colours) {
    if (this.stale) this.refresh();
    this.reference ??= this.now.mixture;
    this.drawNoisy(colours);
    this.drawLaw(colours);
    this.updateNumbers();
  }

  /** Recomputes what depends on the traits, and shows them in the controls. */
  refresh() {
    this.now = this.read();
    this.compute();
    const { path, t, s } = this.now;
    const stepping = s > 0;
    if (this.stepping !== stepping) this.near = stepping; // a step is too small to see
    this.stepping = stepping;
    this.player.set(this.model.get("playing"));
    this.time.set(Math.log(t / path.t_max));
    this.asked.set(stepping ? "step" : "data");
    this.step.node.hidden = !stepping;
    this.step.set(Math.log((t - s) / t));
    this.process.set(this.model.get("path").name);
    this.follow.set(this.model.get("follow"));
    this.zoomed.set(this.near);
    this.stale = false;
  }

  /** The density pₜ, the noisy point, and the step τ²∇log pₜ from it. */
  drawNoisy(colours) {
    const { left: panel, now } = this;
    const { path, t, a, x_t, noised, law } = now;
    panel.extent = viewExtent(this.reference, path, t);
    if (!panel.begin(colours)) return;
    panel.clipped(() => {
      panel.density(noised);
      arrow(
        panel,
        x_t,
        law.mean.map((m) => a * m),
        colours.ink,
      );
      panel.points(x_t, colours.ink, { radius: 4.5, alpha: 1 });
    });
    panel.axes();
    panel.heading(`pₜ at t = ${format(t)}`, "left", colours.ink);
    const follow = this.model.get("follow");
    panel.heading(follow ? "xₜ follows the pointer" : "xₜ stays", "right");
    panel.describe(
      `Density of the noisy mixture at t = ${format(t)}, sigma = ` +
        `${format(path.sigma(t))}, and in it the point ${pair(x_t)}.`,
    );
    this.placeHandles(colours, follow);
  }

  placeHandles(colours, follow) {
    const { mixture, x_t } = this.now;
    if (this.discs.length !== mixture.n_components) {
      this.discs.forEach(({ node }) => node.remove());
      this.discs = Array.from(mixture.weights, (_, k) => this.makeDisc(k));
      this.point.node.before(...this.discs.map(({ node }) => node));
    }
    this.discs.forEach(({ place }, k) => {
      const mean = mixture.means.subarray(2 * k, 2 * k + 2);
      place(
        this.inside(...mean),
        colours.components[k % colours.components.length],
        `Component ${k + 1} of the data, mean at ${pair(mean)}; arrow keys move it`,
      );
    });
    this.point.node.classList.toggle("is-following", follow);
    this.point.place(
      this.inside(...x_t),
      "transparent",
      `Noisy point at ${pair(x_t)}; arrow keys move it`,
    );
  }

  /** The law of x_s given x_t, its components, and the Gaussians that stand for it. */
  drawLaw(colours) {
    const { right: panel, now } = this;
    const { x_t, s, a, tau, law, narrow } = now;
    const { mean, covariance } = law;
    panel.extent = this.near
      ? zoom(law, a, tau)
      : reach(now.path.marginal(this.reference, s));
    panel.centre = this.near ? mean : [0, 0];
    if (!panel.begin(colours)) return;
    panel.clipped(() => {
      panel.density(law);
      if (this.show.components) this.drawComponents(colours);
      const style = { deviations: DEVIATIONS, width: 1.8 };
      if (this.show.matched) panel.ellipse(mean, covariance, colours.ink, style);
      if (this.show.small && narrow < Infinity)
        panel.ellipse(mean, [narrow, 0, 0, narrow], this.accent(colours), {
          ...style,
          dash: [5, 3],
        });
      if (narrow < Infinity)
        arrow(
          panel,
          x_t.map((x) => x / a),
          mean,
          colours.ink,
        );
      panel.points(mean, colours.ink, { radius: 4, alpha: 1 });
      if (this.show.components) this.drawWeights(colours);
    });
    panel.axes();
    const of = s > 0 ? `xₛ given xₜ, s = ${format(s)}` : "x₀ given xₜ";
    panel.heading(of, "left", colours.ink);
    panel.describe(
      `The law of ${of}: mean ${pair(mean)}, component weights ${this.weights()}; ` +
        `KL ${divergence(now.kl)} to the matched Gaussian, ` +
        `${divergence(now.kl_small)} to the small-noise Gaussian.`,
    );
  }

  /** The colour of the small-noise Gaussian: a density's, at full strength. */
  accent(colours) {
    return `rgb(${colours.density.join(" ")})`;
  }

  /** Calls `draw(k, mean, colour)` for every component that is worth it. */
  eachShown(colours, draw) {
    const { law } = this.now;
    law.weights.forEach((weight, k) => {
      if (weight > SHOWN)
        draw(
          k,
          law.means.subarray(2 * k, 2 * k + 2),
          colours.components[k % colours.components.length],
        );
    });
  }

  drawComponents(colours) {
    const { law } = this.now;
    this.eachShown(colours, (k, mean, colour) => {
      const covariance = law.covariances.subarray(4 * k, 4 * k + 4);
      this.right.ellipse(mean, covariance, colour, {
        deviations: DEVIATIONS,
        width: 1.2,
      });
    });
  }

  /** The weight of every component beside its mean. */
  drawWeights(colours) {
    const { right: panel, now } = this;
    const { context } = panel;
    this.eachShown(colours, (k, mean, colour) => {
      const [left, top] = panel.toPixel(...mean);
      context.font = "600 12px system-ui, sans-serif";
      context.textAlign = "center";
      context.textBaseline = "bottom";
      context.lineJoin = "round";
      context.lineWidth = 3;
      context.strokeStyle = colours.paper;
      context.fillStyle = colour;
      for (const draw of ["strokeText", "fillText"])
        context[draw](now.law.weights[k].toFixed(2), left, top - 6);
    });
  }

  // --------------------------------------------------------------------------- numbers

  /** Up to three weights in the order of the components; of more, the largest two. */
  weights() {
    const weights = Array.from(this.now.law.weights);
    if (weights.length <= 3) return weights.map((w) => w.toFixed(2)).join(", ");
    const shares = weights.map((weight, k) => [weight, k + 1]);
    const largest = shares.sort(([a], [b]) => b - a).slice(0, 2);
    return largest.map(([weight, k]) => `${k}: ${weight.toFixed(2)}`).join(", ");
  }

  updateNumbers() {
    const { x_t, a, tau, law, kl, kl_small, leading } = this.now;
    const covariance = law.covariance;
    const { major, minor } = principalAxes(covariance);
    const texts = {
      point: pair(x_t),
      level: [a, tau, tau / a].map((value) => format(value)).join(", "),
      mean: pair(law.mean),
      deviations: `${format(major)}, ${format(minor)}`,
      trace: format(covariance[0] + covariance[3]),
      weights: this.weights(),
      modes: String(this.now.modes.length),
      matched: divergence(kl),
      small: divergence(kl_small),
      leading: divergence(leading),
    };
    for (const [key, text] of Object.entries(texts)) this.numbers.set(key, text);
  }
}

/** anywidget's entry point: draws into `el`, returns the clean-up. */
export function render({ model, el }) {
  const widget = new TweediePosterior({ model, el });
  return () => widget.remove();
}
