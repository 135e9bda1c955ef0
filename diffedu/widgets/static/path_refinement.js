/** One Brownian path, refined under the reader's hand, and what steps along it cost. */

import {
  FINEST,
  LinearSDE,
  Paths,
  StrongErrors,
  at_level,
  euler_maruyama_step,
  exact,
  milstein_step,
  simulate,
  variation,
} from "./brownian.js";
import {
  Chart,
  assign,
  button,
  choice,
  element,
  format,
  legend,
  readout,
  slider,
  toggle,
} from "./figure.js";
import { Widget } from "./widget.js";

const FITTED = 5; // the order is fitted over the levels from here on: h ≤ 1/32
const END = 1.08; // of the axis of time: room beyond 1 for the errors there
const [COARSE, FINE, SECOND] = [0, 1, 2]; // colours of step h, step h/2, Milstein
const SECONDS = 1.3; // that a level lasts, played
const APPEARING = 600; // milliseconds in which new midpoints leave the line
const SLICE = 8; // milliseconds of measuring per frame,
const FIRST = 20; // but so many paths at least before anything is shown
const PATHS = [100, 200, 400, 1000, 2000];
const DOTTED = 7; // no dots on finer levels than this

const TRAITS = ["process", "level", "paths", "seed", "mu", "nu", "milstein", "playing"];
const PROCESSES = [
  ["multiplicative", "dx = μ x dt + ν x dw"],
  ["additive", "dx = μ x dt + ν dw"],
];
const NUMBERS = [
  ["error_h", "E|error| at h", "mean of |Xₕ(1) − X(1)| ± its standard error"],
  ["error_half", "E|error| at h/2", "the same with half the step"],
  ["ratio", "ratio of the two", "√2 = 1.41 at order ½, 2 at order 1"],
  ["order", "order, h to h/2", "log₂ of the ratio ± its standard error"],
  ["fitted", "order, h ≤ 1/32", "slope of the log–log plot ± its standard error"],
  ["milstein", "Milstein's order", "the same slope for Milstein's scheme"],
  ["own", "this path, h; h/2", "|Xₕ(1) − X(1)| of the path that is drawn"],
  ["length", "Σ|Δw| at h", "variation of the path drawn; its mean is √(2 / πh)"],
  ["quadratic", "Σ(Δw)² at h", "quadratic variation of the path drawn; tends to 1"],
];

/** "value ± standard error", both to the first digit of the latter. */
function estimateText({ value, standard_error }) {
  const size = value > 0 && value < 1e-3 ? Math.floor(Math.log10(value)) : 0;
  const unit = 10 ** size;
  const digits = Math.ceil(-Math.log10(standard_error / unit));
  const [mean, error] = [value, standard_error].map((x) =>
    Number.isFinite(digits) ? (x / unit).toFixed(Math.max(0, digits)) : format(x),
  );
  const text = `${mean} ± ${error}`.replace("-", "−");
  return size ? `(${text})·${format(unit, 1).slice(2)}` : text;
}

/** 2⁻ᵏ as the reader writes it. */
function stepText(level) {
  return level === 0 ? "1" : `1/${2 ** level}`;
}

/** The errors' axes: a step is read as a power of two. */
class ErrorChart extends Chart {
  ticks() {
    const { y } = super.ticks();
    const x = Array.from({ length: FINEST + 1 }, (_, k) => [
      this.toPixel(2 ** -k, 1)[0],
      k % 3 ? "" : stepText(k),
    ]);
    return { x, y };
  }

  /** Text beside a point: above it to the left, or below it to the right. */
  label(x, y, text, colour, above) {
    const { context } = this;
    const [left, top] = this.toPixel(x, y);
    context.font = "600 11px system-ui, sans-serif";
    context.fillStyle = colour;
    context.textAlign = above ? "right" : "left";
    context.textBaseline = "alphabetic";
    context.fillText(text, left + (above ? -8 : 8), top + (above ? -4 : 14));
  }
}

/** A range around the values, and around 0. */
function extent(...arrays) {
  let [low, high] = [0, 0];
  for (const values of arrays) {
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  const room = 0.06 * (high - low);
  return [low - room, high + room];
}

class PathRefinement extends Widget {
  constructor({ model, el }) {
    super({ model, el, name: "path_refinement", traits: TRAITS });
    this.charts = {
      path: new Chart("", { y: "Brownian path w", aspect: 2 }),
      solution: new Chart("", { x: "time t", y: "solution x", aspect: 2 }),
      error: new ErrorChart("", {
        x: "step h",
        y: "E|Xₕ(1) − X(1)|",
        log_x: true,
        log_y: true,
        aspect: 1,
      }),
    };
    for (const name of ["path", "solution"]) this.charts[name].view.x = [0, END];
    this.charts.error.view.x = [2 ** -FINEST / 1.5, 1.5];
    this.figure.stage.append(...Object.values(this.charts).map((chart) => chart.node));
    this.buildControls();
    this.begin();
  }

  // ----------------------------------------------------------------------------- state

  /** Everything the picture depends on, computed from the traits; throws on bad ones. */
  read() {
    const process = this.oneOf(
      "process",
      PROCESSES.map(([name]) => name),
    );
    return {
      level: this.whole("level", 0, FINEST - 1),
      paths: this.whole("paths", 10, 2000),
      seed: this.whole("seed", 0, 2 ** 32 - 1),
      milstein: Boolean(this.model.get("milstein")),
      sde: new LinearSDE(process, this.real("mu", -2, 2), this.real("nu", 0.05, 1.5)),
    };
  }

  /** The schemes that are shown, by name. */
  schemes() {
    const list = { euler_maruyama: euler_maruyama_step };
    return this.now.milstein ? { ...list, milstein: milstein_step } : list;
  }

  /** Runs again what the changed traits make stale. */
  compute() {
    const { seed, paths, sde } = this.now;
    if (this.sample?.seed !== seed) this.sample = { seed, paths: new Paths(seed) };
    const path = this.sample.paths.at(0);
    const key = JSON.stringify([seed, paths, sde]);
    if (this.results?.key !== key)
      this.results = { key, exact: exact(sde, path), runs: {}, errors: {} };
    const { runs, errors } = this.results;
    for (const [name, step] of Object.entries(this.schemes())) {
      errors[name] ??= new StrongErrors(step, sde);
      runs[name] ??= Array.from({ length: FINEST + 1 }, (_, level) =>
        simulate(step, sde, path.w, level),
      );
    }
  }

  /** Measures on some more paths, for a slice of time; true when all are done. */
  measure() {
    const until = performance.now() + SLICE;
    const { paths } = this.now;
    const shown = Object.keys(this.schemes()).map((name) => this.results.errors[name]);
    for (const errors of shown) {
      while (errors.count < Math.min(FIRST, paths)) this.measureOne(errors);
      while (errors.count < paths && performance.now() < until) this.measureOne(errors);
    }
    return shown.every((errors) => errors.count === paths);
  }

  measureOne(errors) {
    errors.add(this.sample.paths.at(errors.count));
  }

  advance(seconds) {
    this.progress = (this.progress ?? 0) + seconds / SECONDS;
    if (this.progress < 1) return;
    this.progress = 0;
    const level = Math.min(FINEST - 1, this.model.get("level") + 1);
    assign(this.model, level < FINEST - 1 ? { level } : { level, playing: false });
  }

  // -------------------------------------------------------------------------- controls

  buildControls() {
    const to = (level) =>
      assign(this.model, {
        level: Math.max(0, Math.min(FINEST - 1, level)),
        playing: false,
      });
    this.play = button("Play", () => this.togglePlay(), { class: "diffedu-play" });
    const refining = element(
      "div",
      { class: "diffedu-player", role: "group", "aria-label": "Steps" },
      this.play,
      button("Coarsen", () => to(this.now.level - 1)),
      button("Refine", () => to(this.now.level + 1)),
    );
    const starting = element(
      "div",
      { class: "diffedu-player", role: "group", "aria-label": "Path" },
      button("New path", () =>
        assign(this.model, { seed: (this.now.seed + 1) % 2 ** 32 }),
      ),
      button("Reset", () => assign(this.model, { ...this.initial, playing: false })),
    );
    this.level = slider({
      label: "step h",
      min: 0,
      max: FINEST - 1,
      step: 1,
      text: stepText,
      oninput: to,
    });
    this.nu = slider({
      label: "noise ν",
      min: 0.05,
      max: 1.5,
      step: 0.05,
      text: (nu) => nu.toFixed(2),
      oninput: this.set("nu"),
    });
    this.mu = slider({
      label: "drift μ",
      min: -2,
      max: 2,
      step: 0.1,
      text: (mu) => mu.toFixed(1).replace("-", "−"),
      oninput: this.set("mu"),
    });
    this.process = choice({
      label: "equation",
      options: PROCESSES,
      onchange: this.set("process"),
    });
    this.paths = choice({
      label: "paths",
      options: PATHS.map((count) => [count, count]),
      onchange: (count) => assign(this.model, { paths: Number(count) }),
    });
    this.milstein = toggle({
      label: "Milstein's scheme too",
      onchange: this.set("milstein"),
    });
    const column = (...nodes) => element("div", { class: "diffedu-column" }, ...nodes);
    this.figure.side.append(
      column(refining, this.level.node, starting, this.paths.node),
      column(this.process.node, this.nu.node, this.mu.node, this.milstein.node),
    );
    const key = legend([
      ["is-dot", "#d55e00", "Euler–Maruyama, step h"],
      ["is-dot", "#009e73", "Euler–Maruyama, step h/2"],
      ["is-dot", "#cc79a7", "Milstein, step h"],
      ["is-line", "currentColor", "exact solution on this path"],
    ]);
    this.milsteinKey = key.children[2];
    this.numbers = readout(NUMBERS);
    this.figure.below.append(key, this.numbers.node);
  }

  togglePlay() {
    const playing = !this.model.get("playing");
    this.progress = 0;
    const atEnd = this.model.get("level") === FINEST - 1;
    assign(this.model, playing && atEnd ? { level: 0, playing } : { playing });
  }

  // -------------------------------------------------------------------------- one frame

  draw(colours) {
    if (this.stale) this.refresh();
    const complete = this.measure();
    const share = this.appeared();
    this.drawPath(colours, share);
    this.drawSolution(colours);
    this.drawErrors(colours);
    this.updateNumbers();
    if (!complete || share < 1) this.figure.invalidate();
  }

  /** Recomputes what depends on the traits, and shows them in the controls. */
  refresh() {
    const before = this.now;
    this.now = this.read();
    this.compute();
    const { level, seed, sde, paths, milstein } = this.now;
    const refined = before && before.seed === seed && level === before.level + 1;
    if (refined && !this.figure.stillness.matches) this.refined = performance.now();
    else if (before?.level !== level) this.refined = -Infinity;
    this.play.textContent = this.model.get("playing") ? "Pause" : "Play";
    this.level.set(level);
    this.mu.set(sde.mu);
    this.nu.set(sde.nu);
    this.process.set(this.model.get("process"));
    this.paths.set(paths);
    this.milstein.set(milstein);
    this.milsteinKey.hidden = !milstein;
    this.charts.path.view.y = extent(this.sample.paths.at(0).w);
    this.charts.solution.view.y = extent(
      this.results.exact,
      ...Object.values(this.results.runs).flat(),
    );
    this.stale = false;
  }

  /** How far the new midpoints have come from the line to their places, 0 … 1. */
  appeared() {
    const share = Math.min(1, (performance.now() - this.refined) / APPEARING);
    return share ** 2 * (3 - 2 * share);
  }

  /** Values at the times of a level: a line and, where there is room, its dots. */
  polygon(chart, values, colour) {
    const n = values.length - 1;
    const level = Math.log2(n);
    const points = Array.from(values, (value, i) => [i / n, value]);
    chart.line(points, colour, { width: level <= DOTTED ? 1.5 : 0.8 });
    const radius = 3.4 - 0.35 * level;
    if (level <= DOTTED) chart.points(points.flat(), colour, { radius, alpha: 1 });
  }

  drawPath(colours, share) {
    const chart = this.charts.path;
    if (!chart.begin(colours)) return;
    const { level } = this.now;
    const { w } = this.sample.paths.at(0);
    const [coarse, fine] = [at_level(w, level), at_level(w, level + 1)];
    for (let i = 1; i < fine.length; i += 2) {
      const middle = 0.5 * (fine[i - 1] + fine[i + 1]);
      fine[i] = middle + share * (fine[i] - middle);
    }
    chart.clipped(() => {
      const times = Array.from(w, (_, i) => i / (w.length - 1));
      chart.curve(times, w, colours.faint, { width: 0.7, alpha: 0.6 });
      this.polygon(chart, fine, colours.components[FINE]);
      this.polygon(chart, coarse, colours.components[COARSE]);
    });
    chart.axes();
    chart.heading(`steps: ${2 ** level} and ${2 ** (level + 1)}`, "right");
    chart.describe(
      `Brownian path known at ${2 ** level} steps, and at ${2 ** (level + 1)}.`,
    );
  }

  drawSolution(colours) {
    const chart = this.charts.solution;
    if (!chart.begin(colours)) return;
    const { level, milstein } = this.now;
    const { exact: x, runs } = this.results;
    const [coarse, fine, second] = [COARSE, FINE, SECOND].map(
      (i) => colours.components[i],
    );
    const shown = [
      [runs.euler_maruyama[level + 1], fine, 1.02],
      [runs.euler_maruyama[level], coarse, 1.04],
    ];
    if (milstein) shown.unshift([runs.milstein[level], second, 1.06]);
    chart.clipped(() => {
      const times = Array.from(x, (_, i) => i / (x.length - 1));
      chart.curve(times, x, colours.ink, { width: 1.2, alpha: 0.6 });
      for (const [run, colour, t] of shown) {
        this.polygon(chart, run, colour);
        const error = [x.at(-1), run.at(-1)].map((end) => [t, end]);
        chart.line(error, colour, { width: 4 });
      }
    });
    chart.axes();
    chart.heading("bars at the end: the errors", "right");
    chart.describe(
      `Exact solution and Euler–Maruyama with steps ${stepText(level)} and ` +
        `${stepText(level + 1)} on the same path.`,
    );
  }

  drawErrors(colours) {
    const chart = this.charts.error;
    const { level, milstein, sde } = this.now;
    const { errors } = this.results;
    const levels = Array.from({ length: FINEST + 1 }, (_, k) => k);
    const main = levels.map((k) => errors.euler_maruyama.at(k));
    const second = milstein ? levels.map((k) => errors.milstein.at(k)) : [];
    const means = [...main, ...second].map(({ value }) => value);
    // half decades, so that the axis rarely moves
    const [low, high] = [0.7 * Math.min(...means), 1.5 * Math.max(...means)];
    chart.view.y = [
      10 ** (Math.floor(2 * Math.log10(low)) / 2),
      10 ** (Math.ceil(2 * Math.log10(high)) / 2),
    ];
    if (!chart.begin(colours)) return;
    chart.clipped(() => {
      for (const [order, text] of [
        [0.5, "slope ½"],
        [1, "slope 1"],
      ])
        this.drawGuide(chart, main[FINEST].value, order, text);
      if (milstein) this.drawEstimates(chart, second, colours.components[SECOND]);
      this.drawEstimates(chart, main, colours.ink);
      for (const [k, name, colour] of [
        [level + 1, "h/2", colours.components[FINE]],
        [level, "h", colours.components[COARSE]],
      ]) {
        chart.points([2 ** -k, main[k].value], colour, { radius: 5, alpha: 1 });
        chart.label(2 ** -k, main[k].value, `${name} = ${stepText(k)}`, colour, k < 6);
      }
    });
    chart.axes();
    const order = estimateText(errors.euler_maruyama.order(FITTED, FINEST));
    chart.heading(`order ${order}`, "right", colours.ink);
    if (milstein && !sde.multiplicative)
      chart.note("g′ = 0: Milstein’s step is Euler–Maruyama’s", "bottom");
    chart.describe(
      `Strong error against step, log–log, over ${errors.euler_maruyama.count} paths: ` +
        `${format(main[level].value, 2)} at ${stepText(level)}, ` +
        `${format(main[level + 1].value, 2)} at ${stepText(level + 1)}; ` +
        `order ${order}.`,
    );
  }

  /** A dashed line of the given slope, from the error of the finest level upwards. */
  drawGuide(chart, start, order, text) {
    const error = (h) => start * (h * 2 ** FINEST) ** order;
    const line = [2 ** -FINEST, 1].map((h) => [h, error(h)]);
    chart.line(line, chart.colours.faint, { dash: [5, 4] });
    const crossing = 2 ** -FINEST * (chart.view.y[1] / start) ** (1 / order);
    const h = Math.min(1 / 8, 0.6 * crossing);
    chart.label(h, error(h), text, chart.colours.faint, false);
  }

  /** Estimates of every level, with bars of two standard errors either way. */
  drawEstimates(chart, estimates, colour) {
    estimates.forEach(({ value, standard_error }, k) => {
      const [low, high] = [-2, 2].map((j) => value + j * standard_error);
      const bar = [
        [2 ** -k, Math.max(low, chart.view.y[0])],
        [2 ** -k, high],
      ];
      chart.line(bar, colour, { width: 1.5 });
    });
    const points = estimates.flatMap(({ value }, k) => [2 ** -k, value]);
    chart.points(points, colour, { radius: 2.5, alpha: 1 });
  }

  updateNumbers() {
    const { level } = this.now;
    const { euler_maruyama: errors, milstein } = this.results.errors;
    const [coarse, fine] = [errors.at(level), errors.at(level + 1)];
    const own = [level, level + 1].map((k) => format(errors.errors[k][0], 2));
    const { w } = this.sample.paths.at(0);
    const texts = {
      error_h: estimateText(coarse),
      error_half: estimateText(fine),
      ratio: format(coarse.value / fine.value, 3),
      order: estimateText(errors.order(level, level + 1)),
      fitted: estimateText(errors.order(FITTED, FINEST)),
      milstein: this.now.milstein ? estimateText(milstein.order(FITTED, FINEST)) : "—",
      own: own.join("; "),
      length: format(variation(w, level, 1)),
      quadratic: format(variation(w, level, 2)),
    };
    for (const [key, text] of Object.entries(texts)) this.numbers.set(key, text);
  }
}

/** anywidget's entry point: draws into `el`, returns the clean-up. */
export function render({ model, el }) {
  const widget = new PathRefinement({ model, el });
  return () => widget.remove();
}
