/** The bound of a diffusion model, one bar per term, beside the exact log p. */

import { GaussianMixture, decode, encode, make_path } from "./core.js";
import {
  Chain,
  average_moments,
  cost_of_error,
  density_of_score,
  elbo_terms,
  latest_end,
  limit_of_gap,
  moments_at,
  negative_entropy,
  second_moment,
} from "./elbo.js";
import {
  Chart,
  assign,
  choice,
  element,
  format,
  handle,
  legend,
  player,
  readout,
  slider,
} from "./figure.js";
import { Widget } from "./widget.js";

const MOST_STEPS = 1000;
const SECONDS = 10; // from T = 1 to 1000, played
const LEAST_END = 0.2; // of t_max
const FARTHEST = 6; // of x and of the means from 0
const WIDTHS = [0.05, 2]; // least and most standard deviation of a component
const MOST_COMPONENTS = 6;
const POINTS = 300; // of a curve
const BREADTH = 4; // pixels from which on there is a seam beside a bar
const LEAST = 0.8; // pixels of its height
const TICKS = [1, 10, 100, 1000, 2, 5, 20, 50, 200, 500]; // by how much they are wanted
const APART = 22; // pixels from tick to tick

const [GAP, RECONSTRUCTION, PRIOR, EXACT, DISC, POINT] = [0, 1, 2, 3, 4, 5]; // colours

const PROCESSES = [
  ["VariancePreserving", "linear β(t)"],
  ["Cosine", "cosine"],
];
const VARIANCES = [
  ["beta", "ς² = β, the larger"],
  ["beta_tilde", "ς² = β̃, the smaller"],
];
const MODES = [
  ["average", "averaged over p₀"],
  ["at x", "at the point x"],
];
const PERTURBATIONS = [
  ["constant", "s + c"],
  ["factor", "(1 + c) s"],
];

const NUMBERS = [
  ["reconstruction", "reconstruction", "E log p(x₀ | x₁)"],
  ["denoising", "Σ denoising", "the divergences of steps t = 2 … T"],
  ["prior", "prior", "KL(q(x_T | x₀) ‖ N(0, 1))"],
  ["elbo", "bound", "reconstruction − Σ denoising − prior"],
  ["log_p", "exact log p₀", "at x, or averaged over p₀"],
  ["gap", "gap", "exact log p₀ − bound"],
  [
    "unperturbed",
    "average gap at c = 0",
    "of the same chain with the exact score, averaged over p₀",
  ],
  [
    "error",
    "+ cost of the error",
    "on average: Σ_t ½ (√ᾱ_{t−1} β_t / (1 − ᾱ_t))² E(x̂_θ − x̂)² / ς_t²",
  ],
  ["predicted", "= predicted average gap", "what the gap averaged over p₀ is"],
  [
    "limit",
    "predicted for T → ∞",
    "KL(p_T ‖ N(0, 1)) + ½∫g² E(s_θ − s)² dt, and more where ς² = β̃",
  ],
];

const TRAITS = [
  "weights",
  "means",
  "deviations",
  "path",
  "end",
  "steps",
  "variance",
  "mode",
  "x",
  "perturbation",
  "size",
  "playing",
];

/** A number of nats. */
function nats(value) {
  const size = Math.abs(value);
  if ((size > 0 && size < 1e-3) || size >= 1e5) return format(value, 2);
  return value.toFixed(4).replace("-", "−");
}

/** A number with two digits after the point. */
function short(value) {
  return value.toFixed(2).replace("-", "−");
}

/** What is left of the bound after each step t = 1 … T. */
function waterfall({ reconstruction, denoising }) {
  const rest = new Float64Array(denoising.length - 1).fill(reconstruction);
  for (let t = 2; t <= rest.length; t++) rest[t - 1] = rest[t - 2] - denoising[t];
  return rest;
}

/** A chart over the steps, on a logarithmic axis on which step t takes t ± ½. */
class StepChart extends Chart {
  /** [pixel, text] for the names, the last step, 1, 2, 5, 10, … where they have room. */
  ticks() {
    const { y } = super.ticks();
    const x = this.named.map(([t, text]) => [this.toPixel(t, 0)[0], text]);
    for (const t of [this.last, ...TICKS]) {
      const [left] = this.toPixel(t, 0);
      const room = x.every(([other]) => Math.abs(left - other) >= APART);
      if (room && t >= this.first && t <= this.last) x.push([left, String(t)]);
    }
    return { x, y };
  }

  /** [from, to) of the bars that make one on the screen: narrow ones share a pixel. */
  groups(edges) {
    const last = edges.length - 1;
    const groups = [];
    for (let i = 1, from = 0; i <= last; i++) {
      const breadth = this.toPixel(edges[i], 0)[0] - this.toPixel(edges[from], 0)[0];
      if (breadth < 1 && i < last) continue;
      groups.push([from, i]);
      from = i;
    }
    return groups;
  }

  /** Rectangles between consecutive edges: one edge more than rectangles. */
  blocks(edges, high, low, colour, alpha) {
    const { context } = this;
    context.fillStyle = colour;
    context.globalAlpha = alpha;
    context.beginPath();
    for (const [from, to] of this.groups(edges)) {
      const ends = [...high.slice(from, to), ...low.slice(from, to)];
      const [left, top] = this.toPixel(edges[from], Math.max(...ends));
      const [right, foot] = this.toPixel(edges[to], Math.min(...ends));
      const seam = right - left > BREADTH ? -0.75 : 0.5; // narrow bars overlap
      context.rect(left, top, right - left + seam, Math.max(LEAST, foot - top));
    }
    context.fill();
    context.globalAlpha = 1;
  }

  /** A line over stairs: one edge more than heights. */
  stairs(edges, heights, colour) {
    const points = this.groups(edges).flatMap(([from, to]) => [
      [edges[from], heights[from]],
      [edges[to], heights[to - 1]],
    ]);
    this.line(points, colour, { width: 1.4, dash: [5, 3] });
  }

  /** A remark inside the frame, in its top right corner. */
  remark(text) {
    const { context, margin } = this;
    context.font = "600 11px system-ui, sans-serif";
    context.fillStyle = this.colours.ink;
    context.textAlign = "right";
    context.textBaseline = "top";
    context.fillText(text, margin.left + this.width - 8, margin.top + 8);
  }
}

class BoundBars extends Widget {
  constructor({ model, el }) {
    super({ model, el, name: "bound_bars", traits: TRAITS });
    this.remembered = {}; // the last parameters of each process
    this.density = new Chart("", { x: "x", y: "density p₀", aspect: 1.75 });
    this.costs = new StepChart("", {
      x: "step t",
      y: "divergence per unit of log t",
      log_x: true,
      aspect: 1.75,
    });
    this.terms = new StepChart("", {
      x: "step t",
      y: "nats",
      log_x: true,
      aspect: 0.86,
    });
    const panels = [this.density, this.costs, this.terms];
    this.figure.stage.append(...panels.map(({ node }) => node));
    this.discs = [];
    this.point = this.makePoint();
    this.density.node.append(this.point.node);
    this.buildControls();
    this.begin();
  }

  // ----------------------------------------------------------------------------- state

  /** The law of x_0 that the traits describe; throws on bad ones. */
  readMixture() {
    const [weights, means, deviations] = ["weights", "means", "deviations"].map(
      (name) => decode(this.model.get(name)),
    );
    const [least, most] = WIDTHS;
    if (weights.length > MOST_COMPONENTS)
      throw new Error(`weights must be those of ${MOST_COMPONENTS} components at most`);
    if (means.length !== weights.length || deviations.length !== weights.length)
      throw new Error("weights, means and deviations must be equally many");
    // what is rounded to float32 may lie just outside
    if (!deviations.every((s) => s >= least - 1e-6 && s <= most + 1e-6))
      throw new Error(`deviations must lie in [${least}, ${most}]`);
    if (!means.every((m) => Math.abs(m) <= FARTHEST))
      throw new Error(`means must lie in [−${FARTHEST}, ${FARTHEST}]`);
    return new GaussianMixture(
      weights,
      means,
      deviations.map((s) => s ** 2),
    );
  }

  /** Everything the picture depends on; throws on bad traits. */
  read() {
    const names = (list) => list.map(([name]) => name);
    const path = this.model.get("path");
    if (!names(PROCESSES).includes(path?.name))
      throw new Error(`path must be one of ${names(PROCESSES).join(", ")}`);
    const end = this.real("end", LEAST_END, 1);
    const made = make_path(path);
    const latest = latest_end(made);
    if (end > latest)
      throw new Error(
        `end must be at most ${latest}, where ᾱ is still 10⁻⁵, got ${end}`,
      );
    return {
      mixture: this.readMixture(),
      path: made,
      end,
      latest,
      T: this.whole("steps", 1, MOST_STEPS),
      variance: this.oneOf("variance", names(VARIANCES)),
      mode: this.oneOf("mode", names(MODES)),
      x: this.real("x", -FARTHEST, FARTHEST),
      error: {
        kind: this.oneOf("perturbation", names(PERTURBATIONS)),
        size: this.real("size", -0.5, 0.5),
      },
    };
  }

  /** `make()` again only where what it depends on has changed. */
  keep(name, key, make) {
    this.kept ??= {};
    const all = JSON.stringify(key);
    if (this.kept[name]?.key !== all) this.kept[name] = { key: all, value: make() };
    return this.kept[name].value;
  }

  /** The terms and the numbers: the moments are those of the exact score, so that an
   *  error or another variance costs next to nothing. */
  compute() {
    const { mixture, path, end, T, variance, mode, x, error } = this.now;
    const get = (name) => this.model.get(name);
    const law = ["weights", "means", "deviations"].map(get);
    const steps = [get("path"), end, T];
    const chain = this.keep("chain", steps, () => new Chain(path, T, end));
    const average = this.keep("average", [law, steps], () =>
      average_moments(mixture, chain),
    );
    const mean_log_p = this.keep("log_p", law, () => negative_entropy(mixture));
    const second = second_moment(mixture);
    const exact = { ...error, size: 0 };
    const mean = elbo_terms(chain, average, second, variance, exact);
    const at_x = mode === "at x";
    const moments = at_x
      ? this.keep("at", [law, steps, x], () => moments_at(mixture, chain, x))
      : average;
    const square = at_x ? x ** 2 : second;
    const log_p_x = mixture.log_prob([x])[0];
    const log_p = at_x ? log_p_x : mean_log_p;
    const terms = elbo_terms(chain, moments, square, variance, error);
    const unperturbed = mean_log_p - mean.elbo;
    const cost = cost_of_error(chain, average, variance, error);
    Object.assign(this.now, {
      terms,
      exact: elbo_terms(chain, moments, square, variance, exact),
      log_p_x,
      log_p,
      gap: log_p - terms.elbo,
      unperturbed,
      cost,
      limit: limit_of_gap(mixture, path, chain, variance, error),
    });
  }

  changed() {
    if (!this.gesture) this.view = null;
    super.changed();
  }

  /** Half the width of the view of p₀; it rests while a hand moves something. */
  halfWidth() {
    const { mixture, x } = this.now;
    const reaches = Array.from(
      mixture.means,
      (m, k) => Math.abs(m) + 3.2 * Math.sqrt(mixture.covariances[k]),
    );
    return Math.ceil(2 * Math.max(...reaches, Math.abs(x) + 0.2)) / 2;
  }

  // ------------------------------------------------------------------------------ time

  advance(seconds) {
    const T = this.model.get("steps");
    // from where T was rounded to, unless somebody moved it
    const from = Math.round(this.growing ?? 0) === T ? this.growing : T;
    this.growing = Math.min(MOST_STEPS, from * MOST_STEPS ** (seconds / SECONDS));
    this.take(Math.round(this.growing), this.growing < MOST_STEPS);
  }

  /** Another T. */
  take(T, playing = false) {
    if (T === this.model.get("steps") && playing) return;
    assign(this.model, { steps: Math.max(1, Math.min(MOST_STEPS, T)), playing });
  }

  togglePlay() {
    const playing = !this.model.get("playing");
    const atEnd = this.model.get("steps") >= MOST_STEPS;
    assign(this.model, playing && atEnd ? { steps: 1, playing } : { playing });
  }

  // -------------------------------------------------------------------------- controls

  buildControls() {
    this.player = player({
      onplay: () => this.togglePlay(),
      onstep: () => this.take(this.now.T + Math.max(1, Math.round(this.now.T / 5))),
      onreset: () => assign(this.model, { ...this.initial, playing: false }),
    });
    this.steps = slider({
      label: "steps T",
      min: 0,
      max: Math.log10(MOST_STEPS),
      step: "any",
      text: (log) => String(Math.round(10 ** log)),
      oninput: (log) => this.take(Math.round(10 ** log)),
    });
    this.process = choice({
      label: "schedule",
      options: PROCESSES,
      onchange: (name) => this.setProcess(name),
    });
    this.end = slider({
      label: "ends at t",
      min: LEAST_END,
      max: 1,
      step: 0.01,
      text: short,
      oninput: this.set("end"),
    });
    this.variance = choice({
      label: "variance",
      options: VARIANCES,
      onchange: this.set("variance"),
    });
    this.mode = choice({
      label: "bound",
      options: MODES,
      onchange: this.set("mode"),
    });
    this.perturbation = choice({
      label: "score read as",
      options: PERTURBATIONS,
      onchange: this.set("perturbation"),
    });
    this.size = slider({
      label: "error c",
      min: -0.5,
      max: 0.5,
      step: 0.01,
      text: short,
      oninput: this.set("size"),
    });
    this.numbers = readout(NUMBERS);
    const column = (...controls) =>
      element("div", { class: "diffedu-column" }, ...controls.map(({ node }) => node));
    this.figure.side.append(
      column(this.player, this.steps, this.process, this.end),
      column(this.variance, this.mode, this.perturbation, this.size),
    );
    const key = legend([
      ["is-shade", "#009e73", "reconstruction"],
      ["is-shade", "var(--density)", "denoising, and p₀"],
      ["is-shade", "#cc79a7", "prior"],
      ["is-shade", "#d55e00", "gap"],
      ["is-line", "currentColor", "exact log p₀"],
      ["is-dash", "#e69f00", "with the exact score"],
      ["is-dash", "#d55e00", "density that has the perturbed score"],
    ]);
    this.figure.below.append(key, this.numbers.node);
  }

  /** The other process, as the reader left it, no later than it can be followed. */
  setProcess(name) {
    const old = this.model.get("path");
    this.remembered[old.name] = old;
    const path = this.remembered[name] ?? { name };
    const end = Math.min(this.now.end, latest_end(make_path(path)));
    assign(this.model, { path, end });
  }

  // ----------------------------------------------------------------------------- hands

  /** The point x. */
  makePoint() {
    const point = handle({
      panel: this.density,
      text: "x",
      where: () => [this.model.get("x"), 0],
      move: (x) => {
        this.gesture = true;
        assign(this.model, { x: this.inside(x), mode: "at x" });
      },
      step: (event) => (event.shiftKey ? 0.25 : 0.05),
      focus: () => {},
      release: () => this.let_go(),
    });
    return point;
  }

  makeDisc(k) {
    return handle({
      panel: this.density,
      text: String(k + 1),
      where: () => [decode(this.model.get("means"))[k], 0],
      move: (x) => {
        this.gesture = true;
        const means = decode(this.model.get("means"));
        means[k] = this.inside(x);
        assign(this.model, { means: encode(means, [means.length]) });
      },
      step: (event) => (event.shiftKey ? 0.25 : 0.05),
      focus: () => {},
      release: () => this.let_go(),
    });
  }

  let_go() {
    this.gesture = false;
    this.view = null;
    this.figure.invalidate();
  }

  /** The nearest place in the view of p₀, which is open between a release and a frame. */
  inside(x) {
    const half = Math.min(this.view ?? FARTHEST, FARTHEST);
    return Math.max(-half, Math.min(half, x));
  }

  // -------------------------------------------------------------------------- one frame

  draw(colours) {
    if (this.stale) this.refresh();
    this.view ??= this.halfWidth();
    const blue = `rgb(${colours.density.join(" ")})`;
    this.drawDensity(colours, blue);
    this.drawCosts(colours, blue);
    this.drawTerms(colours, blue);
    this.updateNumbers();
  }

  /** Recomputes what depends on the traits, and shows them in the controls. */
  refresh() {
    this.now = this.read();
    this.compute();
    const { T, end, latest, variance, mode, error } = this.now;
    this.player.set(this.model.get("playing"));
    this.steps.set(Math.log10(T));
    this.process.set(this.model.get("path").name);
    this.end.range(LEAST_END, latest, 0.01);
    this.end.set(end);
    this.variance.set(variance);
    this.mode.set(mode);
    this.perturbation.set(error.kind);
    this.size.set(error.size);
    this.stale = false;
  }

  /** p₀, the point in it, and the density whose score is the perturbed one. */
  drawDensity(colours, blue) {
    const { density: panel, now } = this;
    const { mixture, x, error, log_p_x, mode } = now;
    const half = this.view;
    const points = Float64Array.from(
      { length: POINTS + 1 },
      (_, i) => half * ((2 * i) / POINTS - 1),
    );
    const p = mixture.log_prob(points).map(Math.exp);
    const other = density_of_score(mixture, error, points);
    panel.view = { x: [-half, half], y: [0, 1.15 * Math.max(...p, ...other)] };
    if (!panel.begin(colours)) return;
    const at_x = mode === "at x";
    panel.clipped(() => {
      panel.fill(points, p, blue, { alpha: 0.3 });
      panel.curve(points, p, blue, { width: 1.8 });
      const style = { width: 1.4, dash: [5, 3] };
      if (error.size !== 0) panel.curve(points, other, colours.components[GAP], style);
      panel.marker(x, at_x ? colours.ink : colours.faint, { width: at_x ? 1.4 : 0.8 });
    });
    panel.axes();
    const text = `log p₀(${short(x)}) = ${short(log_p_x)}`;
    panel.heading(text, "right", at_x ? colours.ink : colours.faint);
    panel.describe(
      `Density of ${mixture.n_components} Gaussians on the line, and the point ` +
        `x = ${short(x)} where log p₀ = ${short(log_p_x)}.`,
    );
    this.placeHandles(colours, Math.exp(log_p_x));
  }

  placeHandles(colours, height) {
    const { mixture, x } = this.now;
    if (this.discs.length !== mixture.n_components) {
      this.discs.forEach(({ node }) => node.remove());
      this.discs = Array.from(mixture.weights, (_, k) => this.makeDisc(k));
      this.point.node.before(...this.discs.map(({ node }) => node));
    }
    this.discs.forEach(({ place }, k) =>
      place(
        [mixture.means[k], 0],
        colours.components[DISC],
        `Component ${k + 1}, mean at ${short(mixture.means[k])}; arrow keys move it`,
      ),
    );
    this.point.place(
      [x, height],
      colours.components[POINT],
      `Point at x = ${short(x)}; arrow keys move it and show the bound there`,
    );
  }

  /** What every step costs; areas are nats. */
  drawCosts(colours, blue) {
    const { costs: panel, now } = this;
    const { T, terms, exact, error } = now;
    const edges = Float64Array.from({ length: T }, (_, i) => i + 1.5);
    const heights = ({ denoising }) =>
      denoising.slice(2).map((cost, i) => cost / Math.log(edges[i + 1] / edges[i]));
    const [costs, before] = [heights(terms), heights(exact)];
    const top = Math.max(...costs, ...before);
    panel.view = {
      x: [1.5, 1.08 * Math.max(T, 2) + 0.5],
      y: [0, T > 1 ? 1.12 * top : 1],
    };
    Object.assign(panel, { first: 2, last: T, named: [] });
    if (!panel.begin(colours)) return;
    panel.clipped(() => {
      panel.blocks(edges, costs, new Float64Array(T - 1), blue, 0.55);
      if (error.size !== 0) panel.stairs(edges, before, colours.components[EXACT]);
    });
    panel.axes();
    if (T === 1) panel.note("no denoising step at T = 1", "top");
    else panel.heading(`area ${nats(terms.total)} nats`, "right");
    panel.describe(
      `The divergence of every denoising step, t = 2 to ${T}: ` +
        `${nats(terms.total)} nats in all.`,
    );
  }

  /** From the reconstruction down to the bound, and the gap from there to log p. */
  drawTerms(colours, blue) {
    const { terms: panel, now } = this;
    const { T, terms, exact, log_p, gap, mode, error } = now;
    const last = T + 0.5;
    const slot = (2 * last) ** Math.max(0.14, 1 / (T + 2)); // of the prior, of the gap
    const [end, far] = [last * slot, last * slot ** 2];
    Object.assign(panel, {
      first: 1,
      last: T,
      named: [
        [last * Math.sqrt(slot), "prior"],
        [end * Math.sqrt(slot), "gap"],
      ],
    });
    const shown = [0, terms.reconstruction, terms.elbo, log_p, exact.elbo];
    const [low, high] = [Math.min(...shown), Math.max(...shown)];
    const room = 0.06 * (high - low);
    panel.view = { x: [0.5, far], y: [low - room, high + room] };
    if (!panel.begin(colours)) return;
    const rest = waterfall(terms);
    const edges = Float64Array.from({ length: T + 1 }, (_, i) => i + 0.5);
    const steps = edges.subarray(1);
    const after = rest.subarray(1);
    const left = after.map(() => terms.elbo);
    panel.clipped(() => {
      panel.curve([0.5, far], [0, 0], colours.faint);
      panel.blocks(steps, after, left, blue, 0.16);
      panel.blocks(steps, rest, after, blue, 0.75);
      for (const [along, from, to, colour] of [
        [[0.5, 1.5], 0, rest[0], RECONSTRUCTION],
        [[last, end], rest[T - 1], terms.elbo, PRIOR],
        [[end, far], terms.elbo, log_p, GAP],
      ])
        panel.blocks(along, [from], [to], colours.components[colour], 0.8);
      if (error.size !== 0)
        panel.stairs(
          [...edges, end],
          [...waterfall(exact), exact.elbo],
          colours.components[EXACT],
        );
      panel.curve([0.5, far], [log_p, log_p], colours.ink, { width: 1.6 });
    });
    panel.axes();
    const text = `${mode === "at x" ? "gap at x" : "average gap"} ${nats(gap)}`;
    panel.heading(text, "right", colours.ink);
    if (gap < 0) panel.remark("The model’s density exceeds p₀ here");
    panel.describe(
      `Waterfall from the reconstruction term ${nats(terms.reconstruction)} down to ` +
        `the bound ${nats(terms.elbo)}; exact log p₀ ${nats(log_p)}, ${text}.`,
    );
  }

  updateNumbers() {
    const { terms, log_p, gap, unperturbed, cost, limit } = this.now;
    const values = {
      reconstruction: terms.reconstruction,
      denoising: terms.total,
      prior: terms.prior,
      elbo: terms.elbo,
      log_p,
      gap,
      unperturbed,
      error: cost,
      predicted: unperturbed + cost,
      limit,
    };
    for (const [key, value] of Object.entries(values))
      this.numbers.set(key, nats(value));
  }
}

/** anywidget's entry point: draws into `el`, returns the clean-up. */
export function render({ model, el }) {
  const widget = new BoundBars({ model, el });
  return () => widget.remove();
}
