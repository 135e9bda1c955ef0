/** Four trainings of one network: the learned fields beside the exact one. */

import { time_at } from "./core.js";
import {
  Chart,
  Plane,
  assign,
  choice,
  element,
  format,
  legend,
  player,
  readout,
  slider,
} from "./figure.js";
import { HIGH, LOW, Measure, RATIOS, denoisers } from "./learned.js";
import { MixtureWidget, draws, viewExtent } from "./mixture_widget.js";

const PACE = 0.9; // seconds that a checkpoint is shown for, played
const ARROWS = 12; // along each side of a panel
const HALF = 0.2; // relative error at which an arrow of the error has half its full length
const ROOM = 1.25; // beyond the first and the last step
const SLICE = 12; // milliseconds of measuring per frame
const REFERENCE = "denoising"; // the loss that costs are relative to
const NARROW = 150; // pixels; a panel below that has short headings

const NUMBERS = [
  ["t", "time t", "the time at which σ/α is this noise level"],
  ["alpha", "amplitude α", "of the signal in xₜ = α x₀ + σ ε"],
  ["sigma", "noise σ", "its standard deviation in xₜ"],
  ["norm", "E‖ε*‖²", "what the error at this level is relative to"],
  ["count", "networks evaluated", "checkpoints whose errors this page has computed"],
];

const LAW = ["weights", "means", "covariances", "path"];
const HAND = ["checkpoint", "ratio", "arrows", "against", "playing"]; // the reader's
const TRAITS = ["trainings", "live", ...LAW, ...HAND, "n_points", "seed"];

/** A training: its denoisers, one per checkpoint, and their errors once computed. */
class Learner {
  constructor(training, path, live) {
    Object.assign(this, training, { live });
    this.denoisers = denoisers(training, path);
    this.errors = this.denoisers.map(() => null);
  }

  /** The checkpoint that stands for checkpoint k of the longest training. */
  at(k) {
    return Math.min(k, this.steps.length - 1);
  }

  /** CPU seconds per step; NaN where they were not recorded. */
  get cost() {
    return (this.seconds.at(-1) ?? NaN) / this.steps.at(-1);
  }
}

class LearnedFields extends MixtureWidget {
  constructor({ model, el }) {
    super({ model, el, name: "learned_fields", traits: TRAITS });
    const chart = (x, y) =>
      new Chart("", { x, y, log_x: true, log_y: true, aspect: 1.35 });
    this.charts = {
      levels: chart("σ/α", "error at each noise level"),
      training: chart("steps", "error over all noise levels"),
    };
    this.charts.levels.view.x = [LOW, HIGH];
    this.panels = [];
    this.learners = new Map(); // by what the model holds
    this.trails = new Map(); // by label: [step, error] of networks that were live
    this.hover = null;
    this.buildControls();
    const lists = ["trainings", "live"].map((name) => model.get(name));
    this.arrange(merged(...lists.map((list) => (Array.isArray(list) ? list : []))));
    this.begin();
  }

  // ----------------------------------------------------------------------------- state

  /** What the traits say; throws on bad ones. */
  read() {
    const [trainings, live] = ["trainings", "live"].map((name) => this.model.get(name));
    if (!Array.isArray(trainings) || !Array.isArray(live))
      throw new Error("trainings and live must be lists");
    const { mixture, path } = this.readMixture();
    const ratio = this.real("ratio", LOW, HIGH);
    const steps = trainings.map((one) => one.steps);
    const longest = steps.reduce((a, b) => (b.length > a.length ? b : a), [0]);
    return {
      trainings,
      live,
      mixture,
      path,
      ratio,
      t: time_at(path, ratio),
      steps: longest,
      checkpoint: this.whole("checkpoint", 0, longest.length - 1),
      arrows: this.oneOf("arrows", ["learned", "error"]),
      against: this.oneOf("against", ["steps", "seconds"]),
      n: this.whole("n_points", 2, 20000),
    };
  }

  /** Recomputes what depends on the traits, and shows them in the controls. */
  refresh() {
    this.now = this.read();
    const { mixture, path, t, ratio, checkpoint, steps } = this.now;
    this.prepare();
    this.now.law = path.marginal(mixture, t);
    this.now.level = this.measure.at(ratio);
    const shown = merged(this.now.trainings, this.now.live);
    this.shown = this.learn(shown);
    this.relative = this.shown.map((one) =>
      this.now.level.relative(one.denoisers[one.at(checkpoint)]),
    );
    this.arrange(shown);
    this.player.set(this.model.get("playing"));
    this.training.node.hidden = steps.length < 2;
    this.training.range(0, steps.length - 1, 1);
    this.training.set(checkpoint);
    this.level.set(Math.log10(ratio));
    this.arrows.set(this.now.arrows);
    this.against.set(this.now.against);
    this.stale = false;
  }

  /** The points that errors are measured on; another law makes all errors stale. */
  prepare() {
    const { mixture, path, n } = this.now;
    this.drawNoise([n], (generator) => ({
      ...draws(generator, n),
      eps: generator.normal(2 * n),
    }));
    const law = LAW.map((name) => this.model.get(name));
    const key = JSON.stringify([this.noise.key, law]);
    if (this.measure?.key === key) return;
    this.measure = new Measure(mixture, path, this.noise);
    this.measure.key = key;
    this.learners.clear();
    this.trails.clear();
  }

  /** The trainings as learners, those known already with what they know. */
  learn(shown) {
    const { live, path } = this.now;
    const known = this.learners;
    this.learners = new Map(
      shown.map((one) => [
        one,
        known.get(one) ?? new Learner(one, path, live.includes(one)),
      ]),
    );
    return [...this.learners.values()];
  }

  /** Errors at the present checkpoint, then others for a slice of time; true when all
   *  are there. */
  evaluate() {
    const { checkpoint } = this.now;
    for (const one of this.shown) this.evaluateOne(one, one.at(checkpoint));
    const until = performance.now() + SLICE;
    for (const one of this.shown) {
      for (const k of one.steps.keys()) {
        if (one.errors[k]) continue;
        if (performance.now() > until) return false;
        this.evaluateOne(one, k);
      }
    }
    return true;
  }

  evaluateOne(one, k) {
    if (one.errors[k]) return;
    one.errors[k] = this.measure.errors(one.denoisers[k]);
    if (!one.live) return;
    const trail = this.trails.get(one.label) ?? [];
    const again = trail.length && trail.at(-1)[0] >= one.steps[k];
    const point = [one.steps[k], one.errors[k].overall];
    this.trails.set(one.label, again ? [point] : [...trail, point]);
  }

  /** [x, error] of a learner's checkpoints as far as computed; x is steps or seconds. */
  history(one) {
    if (one.live) return this.now.against === "steps" ? this.trails.get(one.label) : [];
    return one[this.now.against].flatMap((x, k) =>
      one.errors[k] ? [[x, one.errors[k].overall]] : [],
    );
  }

  advance(seconds) {
    this.progress = (this.progress ?? 0) + seconds / PACE;
    if (this.progress < 1) return;
    this.progress = 0;
    this.next();
  }

  /** One checkpoint on, and to a halt at the last. */
  next() {
    const last = this.now.steps.length - 1;
    const checkpoint = Math.min(last, this.model.get("checkpoint") + 1);
    assign(
      this.model,
      checkpoint < last ? { checkpoint } : { checkpoint, playing: false },
    );
  }

  togglePlay() {
    const playing = !this.model.get("playing");
    const atEnd = this.model.get("checkpoint") >= this.now.steps.length - 1;
    this.progress = 0;
    assign(this.model, playing && atEnd ? { checkpoint: 0, playing } : { playing });
  }

  // -------------------------------------------------------------------------- controls

  buildControls() {
    this.player = player({
      onplay: () => this.togglePlay(),
      onstep: () => {
        assign(this.model, { playing: false });
        this.next();
      },
      onreset: () => {
        const back = HAND.map((name) => [name, this.initial[name]]);
        assign(this.model, Object.fromEntries(back));
      },
    });
    this.training = slider({
      label: "training step",
      min: 0,
      max: 1,
      step: 1,
      text: (k) => String(this.now.steps[k]),
      oninput: (checkpoint) => assign(this.model, { checkpoint, playing: false }),
    });
    this.level = slider({
      label: "noise σ/α",
      min: Math.log10(LOW),
      max: Math.log10(HIGH),
      step: "any",
      text: (log) => format(10 ** log, 2),
      oninput: (log) =>
        assign(this.model, { ratio: Math.max(LOW, Math.min(HIGH, 10 ** log)) }),
    });
    this.arrows = choice({
      label: "arrows",
      options: [
        ["learned", "learned, over exact"],
        ["error", "learned − exact, enlarged"],
      ],
      onchange: this.set("arrows"),
    });
    this.against = choice({
      label: "error against",
      options: [
        ["steps", "training steps"],
        ["seconds", "CPU seconds"],
      ],
      onchange: this.set("against"),
    });
    this.rows = element("tbody");
    const columns = ["loss", "error at this level", "error at all levels", "CPU / step"];
    const head = columns.map((text) => element("th", { scope: "col" }, text));
    const table = element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...head)),
      this.rows,
    );
    this.numbers = readout(NUMBERS);
    const controls = element(
      "div",
      { class: "diffedu-column" },
      this.player.node,
      this.training.node,
      this.level.node,
      this.arrows.node,
      this.against.node,
    );
    this.figure.side.append(controls, table);
    const key = legend([
      ["is-shade", "var(--density)", "exact density pₜ"],
      ["is-arrow", "currentColor", "exact score ∇ log pₜ (length saturates)"],
      ["is-arrow", "#d55e00", "in a loss’s colour: the score it has taught"],
    ]);
    this.figure.below.append(key, this.numbers.node);
  }

  /** A panel and a row of the table for everything that is shown. */
  arrange(shown) {
    const labels = shown.map(({ label }) => label);
    const key = JSON.stringify(labels);
    if (this.arranged === key) return;
    this.arranged = key;
    this.panels = Array.from({ length: Math.max(1, labels.length) }, () => {
      const panel = new Plane("");
      panel.followPointer((place) => {
        this.hover = place;
        this.figure.invalidate();
      });
      return panel;
    });
    const all = [...Object.values(this.charts), ...this.panels];
    this.figure.stage.replaceChildren(...all.map(({ node }) => node));
    this.cells = labels.map((_, i) =>
      ["level", "all", "cost"].map((name) =>
        element("td", { "data-number": `${name}-${i}` }),
      ),
    );
    const rows = labels.map((label, i) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, element("i", {}), label),
        ...this.cells[i],
      ),
    );
    this.rows.replaceChildren(...rows);
  }

  // -------------------------------------------------------------------------- one frame

  draw(colours) {
    if (this.stale) this.refresh();
    const complete = this.evaluate();
    this.panels.forEach((panel, i) => this.drawField(panel, i, colours));
    this.drawLevels(colours);
    this.drawTraining(colours);
    this.updateNumbers(colours);
    if (!complete) this.figure.invalidate();
  }

  drawField(panel, i, colours) {
    const { mixture, path, t, law, level, ratio, arrows, checkpoint } = this.now;
    const one = this.shown[i];
    panel.extent = viewExtent(mixture, path, t);
    if (!panel.begin(colours)) return;
    const exact = (x) => law.score(x);
    const learned = (x) => one.denoisers[one.at(checkpoint)].score(x, t);
    const difference = (x) => {
      const s = exact(x);
      return learned(x).map((value, j) => value - s[j]);
    };
    // half of the full length where it is HALF of the exact score's rms
    const rms = Math.sqrt(level.norm) / path.sigma(t);
    const unit = (HALF * rms * 2 * panel.extent) / ARROWS;
    const error = (x) => difference(x).map((value) => value / unit);
    const colour = colourOf(colours, i);
    panel.clipped(() => {
      panel.density(law);
      panel.arrows(exact, ARROWS, { alpha: 0.35, width: 2 });
      if (one) {
        const field = arrows === "error" ? error : learned;
        panel.arrows(field, ARROWS, { colour, alpha: 1, width: 1.2 });
      }
      if (this.hover) panel.points(this.hover, colours.ink, { radius: 3, alpha: 1 });
    });
    panel.axes();
    panel.heading(one?.label ?? "exact", "left", colours.ink);
    if (one) panel.heading(this.remark(panel, i, exact, difference), "right", colours.ink);
    panel.describe(
      one
        ? `Score field of the network “${one.label}” after ` +
            `${one.steps[one.at(checkpoint)]} steps over the exact one at noise level ` +
            `${format(ratio, 2)}: relative error ${format(this.relative[i], 2)}.`
        : `Exact density and score at noise level ${format(ratio, 2)}; ` +
            "no network is shown yet.",
    );
  }

  /** How far a field is from the exact one: at this level, or under the pointer. */
  remark(panel, i, exact, difference) {
    const short = panel.width < NARROW;
    if (!this.hover) return `${short ? "" : "error "}${format(this.relative[i], 2)}`;
    const x = Float64Array.from(this.hover);
    const off = (100 * Math.hypot(...difference(x))) / Math.hypot(...exact(x));
    return `${short ? "" : "here "}${format(off, 2)} % off`;
  }

  drawLevels(colours) {
    const chart = this.charts.levels;
    const { ratio, checkpoint } = this.now;
    const measured = this.shown.flatMap(({ errors }) => errors.filter(Boolean));
    chart.view.y = decades(measured.flatMap(({ relative }) => relative));
    if (!chart.begin(colours)) return;
    chart.clipped(() => {
      chart.marker(ratio, colours.faint, { dash: [4, 3] });
      this.shown.forEach((one, i) => {
        const { relative } = one.errors[one.at(checkpoint)];
        chart.curve(RATIOS, relative, colourOf(colours, i), { width: 1.6 });
        const here = [ratio, this.relative[i]];
        chart.points(here, colourOf(colours, i), { radius: 3.5, alpha: 1 });
      });
    });
    chart.axes();
    chart.describe(
      "Relative error of the score against the noise level, log–log, from " +
        `σ/α = ${LOW} to ${HIGH}.`,
    );
  }

  drawTraining(colours) {
    const chart = this.charts.training;
    const { against, checkpoint } = this.now;
    const histories = this.shown.map((one) =>
      this.history(one).filter(([x]) => x > 0),
    );
    const along = this.now.trainings.flatMap((one) => one[against]);
    along.push(...histories.flat().map(([x]) => x));
    const times = along.filter((x) => x > 0);
    if (!times.length) times.push(1, 10);
    chart.names.x = against === "steps" ? "steps" : "CPU seconds";
    chart.view.x = [Math.min(...times) / ROOM, Math.max(...times) * ROOM];
    const measured = this.shown.flatMap(({ errors }) => errors.filter(Boolean));
    chart.view.y = decades(measured.map(({ overall }) => overall));
    if (!chart.begin(colours)) return;
    chart.clipped(() => {
      this.shown.forEach((one, i) => {
        const colour = colourOf(colours, i);
        const points = histories[i];
        const { overall } = one.errors[one.at(checkpoint)];
        chart.line(points, colour, { width: 1.6 });
        chart.points(points.flat(), colour, { radius: 2, alpha: 0.8 });
        const x = one[against][one.at(checkpoint)];
        if (x > 0) chart.points([x, overall], colour, { radius: 4.5, alpha: 1 });
        else
          chart.line(
            chart.view.x.map((end) => [end, overall]),
            colour,
            { width: 1.6, dash: [5, 3] },
          );
      });
    });
    chart.axes();
    chart.describe(
      `Relative error over all noise levels against ${chart.names.x}, log–log; ` +
        `now after ${this.now.steps[checkpoint]} steps.`,
    );
  }

  updateNumbers(colours) {
    const { path, t, level, checkpoint } = this.now;
    const reference = this.shown.find(({ label, live }) => label === REFERENCE && !live);
    let [done, all] = [0, 0];
    this.shown.forEach((one, i) => {
      const cost = one.cost / reference?.cost;
      const texts = [
        format(this.relative[i], 2),
        format(one.errors[one.at(checkpoint)].overall, 2),
        Number.isFinite(cost) ? `${cost.toFixed(2)} ×` : "—",
      ];
      texts.forEach((text, j) => {
        if (this.cells[i][j].textContent !== text) this.cells[i][j].textContent = text;
      });
      const mark = this.cells[i][0].parentElement.querySelector("i");
      mark.style.background = colourOf(colours, i);
      done += one.errors.filter(Boolean).length;
      all += one.errors.length;
    });
    this.numbers.set("t", format(t));
    this.numbers.set("alpha", format(path.alpha(t)));
    this.numbers.set("sigma", format(path.sigma(t)));
    this.numbers.set("norm", format(level.norm));
    this.numbers.set("count", `${done} of ${all}`);
  }
}

/** What is shown: trainings, a live one in place of its namesake, and other live ones. */
function merged(trainings, live) {
  const rest = new Map(live.map((one) => [one.label, one]));
  const shown = trainings.map((one) => {
    const instead = rest.get(one.label);
    rest.delete(one.label);
    return instead ?? one;
  });
  return [...shown, ...rest.values()];
}

function colourOf(colours, i) {
  return colours.components[i % colours.components.length];
}

/** Powers of ten around positive values, at least one apart. */
function decades(values) {
  if (!values.length) return [1, 10];
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.ceil(Math.log10(Math.max(...values)));
  return [10 ** low, 10 ** Math.max(high, low + 1)];
}

/** anywidget's entry point: draws into `el`, returns the clean-up. */
export function render({ model, el }) {
  const widget = new LearnedFields({ model, el });
  return () => widget.remove();
}
