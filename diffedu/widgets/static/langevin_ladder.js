/** Langevin against far modes, beside Langevin down a ladder of noise levels. */

import {
  average,
  decode,
  encode,
  exact_score,
  projections,
  sliced_wasserstein,
} from "./core.js";
import {
  Chart,
  Plane,
  assign,
  choice,
  element,
  format,
  group,
  handle,
  legend,
  player,
  slider,
  toggle,
} from "./figure.js";
import {
  annealed_langevin,
  langevin,
  metropolis_langevin,
  noise_ladder,
  shares,
  variance_rule,
} from "./langevin_dynamics.js";
import { MixtureWidget, draws, reach } from "./mixture_widget.js";

const SECONDS = 8; // the whole run, played
const PAIRS = 4; // samples that the distance and its floor are averaged over
const CURVE_POINTS = 100; // of the shares along the run, about
const IN_HASTE = 100; // particles in the first frame, and while a hand changes things
const VIEW = 1.2; // half the view, in units of half the start's square

const STARTS = [
  ["uniform", "uniform square"],
  ["gaussian", "wide Gaussian"],
];

const TRAITS = [
  "weights",
  "means",
  "covariances",
  "path",
  "levels",
  "highest",
  "lowest",
  "steps",
  "step",
  "relative",
  "metropolis",
  "start",
  "spread",
  "k",
  "n_particles",
  "seed",
  "playing",
];

// What the runs depend on: both, and the annealed one on the ladder too.
const COMMON = ["weights", "means", "covariances", "start", "spread", "seed"];
const PLAIN = [...COMMON, "step", "metropolis"];
const LADDER = ["path", "levels", "highest", "lowest", "steps", "relative"];
const ANNEALED = [...COMMON, ...LADDER];

/** The share of particles that differ from one state to the next. */
function moved(before, after) {
  let count = 0;
  for (let i = 0; i < after.length; i += 2) count += after[i] !== before[i];
  return (2 * count) / after.length;
}

class LangevinLadder extends MixtureWidget {
  constructor({ model, el }) {
    super({ model, el, name: "langevin_ladder", traits: TRAITS });
    this.selected = 0;
    this.haste = true; // in the first frame, or while a hand is on a mode or a slider
    this.gesture = false; // whether a hand is on a mode: the view stays
    this.first = true;
    this.arrows = false;
    const run = (key, colour, traits) => {
      return { key, colour, traits, panel: new Plane(""), handles: [] };
    };
    this.plain = run("plain", 3, PLAIN);
    this.annealed = run("annealed", 4, ANNEALED);
    this.runs = [this.plain, this.annealed];
    this.chart = new Chart("", {
      x: "score evaluations per particle",
      y: "share at the mode",
      aspect: 2.9,
    });
    const panels = [this.plain.panel, this.annealed.panel, this.chart];
    this.figure.stage.append(...panels.map((panel) => panel.node));
    this.buildControls();
    this.begin();
  }

  // ----------------------------------------------------------------------------- state

  /** Everything the picture depends on, computed from the traits; throws on bad ones. */
  read() {
    const shared = this.readShared();
    const { mixture, path, steps, n } = shared;
    const levels = this.whole("levels", 2, 50);
    const greatest = path.sigma(path.t_max) / path.alpha(path.t_max);
    const highest = this.real("highest", 1e-3, greatest * (1 + 1e-6));
    const lowest = this.real("lowest", 1e-3, highest);
    if (lowest === highest) throw new Error("lowest must be below highest");
    const total = levels * steps;
    const k = Math.min(this.whole("k", 0, 50_000), total);
    return {
      ...shared,
      levels,
      highest,
      lowest,
      greatest,
      total,
      k,
      step: this.real("step", 1e-4, 100),
      relative: this.real("relative", 1e-4, 100),
      spread: this.real("spread", 0.1, 100),
      start: this.oneOf(
        "start",
        STARTS.map(([name]) => name),
      ),
      metropolis: this.model.get("metropolis"),
      times: noise_ladder(path, highest, lowest, levels),
      score: exact_score(mixture, path),
      simulated: this.haste ? Math.min(n, IN_HASTE) : n,
    };
  }

  changed() {
    super.changed();
    if (!this.figure.playing) this.progress = null;
  }

  /** The noise level that state k came from: its number, from 0, and its time. */
  level() {
    const { k, steps, times } = this.now;
    const i = Math.floor(Math.max(0, k - 1) / steps);
    return { i, t: times[i] };
  }

  /** σ/α, which is σ where the variance explodes. */
  ratio(t) {
    const { path } = this.now;
    return path.sigma(t) / path.alpha(t);
  }

  startingPoints() {
    const { start, spread, simulated } = this.now;
    const { u, z } = this.noise;
    return start === "uniform"
      ? u.subarray(0, 2 * simulated).map((value) => spread * (2 * value - 1))
      : z.subarray(0, 2 * simulated).map((value) => (spread / Math.sqrt(3)) * value);
  }

  /** The noise of the steps, for the first particles; the same for both runs. */
  stream() {
    const { n } = this.now;
    let [j, l] = [0, 0];
    return {
      normal: (count) => {
        const from = 2 * n * j++;
        return this.noise.steps.subarray(from, from + count);
      },
      uniform: (count) => {
        const from = n * l++;
        return this.noise.accept.subarray(from, from + count);
      },
    };
  }

  source(run) {
    const { mixture, path, times, score, step, steps, total, relative } = this.now;
    const x = this.startingPoints();
    const noise = this.stream();
    if (run === this.annealed) {
      const rule = variance_rule(path, relative);
      return annealed_langevin(score, path, x, times, rule, steps, noise);
    }
    const of_data = (points) => mixture.score(points);
    if (!this.now.metropolis) return langevin(of_data, x, step, total, noise);
    const log_p = (points) => mixture.log_prob(points);
    return metropolis_langevin(log_p, of_data, x, step, total, noise);
  }

  /** Runs again what has changed, as far as step k. */
  compute() {
    const { mixture, n, k, total, simulated, metropolis } = this.now;
    this.drawNoise([n, total, Number(metropolis)], (generator) => ({
      u: generator.uniform(2 * n),
      z: generator.normal(2 * n),
      pairs: Array.from({ length: PAIRS }, () => [
        draws(generator, n),
        draws(generator, n),
      ]),
      steps: generator.normal(2 * n * total),
      accept: generator.uniform(metropolis ? n * total : 0),
    }));
    const values = (names) => JSON.stringify(names.map((name) => this.model.get(name)));
    this.measureExact(values(["weights", "means", "covariances"]));
    const stride = Math.ceil(total / CURVE_POINTS);
    for (const run of this.runs) {
      const done = `${values(run.traits)} ${this.noise.key} ${simulated}`;
      if (run.done !== done) {
        run.done = done;
        Object.assign(run, { states: [], curve: [], source: this.source(run) });
      }
      while (run.states.length <= k) run.states.push(run.source.next().value);
      while (run.curve.length * stride <= k)
        run.curve.push(shares(mixture, run.states[run.curve.length * stride]));
      run.share = shares(mixture, run.states[k]);
      run.distance = this.distance(run.states[k]);
    }
    this.now.stride = stride;
  }

  /** Exact samples of as many points as there are particles, and their distance. */
  measureExact(law) {
    const { mixture, simulated } = this.now;
    const key = `${law} ${this.noise.key} ${simulated}`;
    if (this.exact?.key === key) return;
    const lines = ({ u, z }) =>
      projections(mixture.place(u, z).x.subarray(0, 2 * simulated));
    const pairs = this.noise.pairs.map((pair) => pair.map(lines));
    const floor = average(pairs.map(([a, b]) => sliced_wasserstein(a, b))).value;
    this.exact = { key, samples: pairs.map(([a]) => a), floor };
  }

  /** The mean distance of points to the exact samples. */
  distance(x) {
    const lines = projections(x);
    const { samples } = this.exact;
    return average(samples.map((sample) => sliced_wasserstein(lines, sample))).value;
  }

  advance(seconds) {
    const { total } = this.now;
    this.progress = Math.min(
      total,
      (this.progress ?? this.model.get("k")) + (seconds / SECONDS) * total,
    );
    const k = Math.floor(this.progress);
    if (k === total) assign(this.model, { k, playing: false });
    else if (k !== this.model.get("k")) assign(this.model, { k });
  }

  // -------------------------------------------------------------------------- controls

  buildControls() {
    this.player = player({
      onplay: () => this.togglePlay(),
      onstep: () =>
        assign(this.model, {
          playing: false,
          k: Math.min(this.now.total, this.now.k + 1),
        }),
      onreset: () => assign(this.model, { ...this.initial, playing: false }),
    });
    this.position = slider({
      label: "step",
      min: 0,
      max: 1,
      step: 1,
      text: (k) => (this.now ? `${k} of ${this.now.total}` : ""),
      oninput: (k) => assign(this.model, { k, playing: false }),
    });
    this.position.node.classList.add("is-long");
    this.levels = slider({
      label: "levels",
      min: 2,
      max: 40,
      step: 1,
      text: String,
      oninput: (levels) => this.setLength({ levels }),
    });
    this.steps = slider({
      label: "steps on each",
      min: 1,
      max: 60,
      step: 1,
      text: String,
      oninput: (steps) => this.setLength({ steps }),
    });
    this.highest = slider({
      label: "highest noise",
      min: 0,
      max: 1,
      step: "any",
      text: (value) => format(Math.exp(value), 2),
      oninput: (value) =>
        assign(this.model, { highest: Math.min(Math.exp(value), this.now.greatest) }),
    });
    this.relative = slider({
      label: "step h/σ²",
      min: Math.log(0.02),
      max: Math.log(4),
      step: "any",
      text: (value) => format(Math.exp(value), 2),
      oninput: (value) => assign(this.model, { relative: Math.exp(value) }),
    });
    this.step = slider({
      label: "step h",
      min: Math.log(0.005),
      max: Math.log(2),
      step: "any",
      text: (value) => format(Math.exp(value), 2),
      oninput: (value) => assign(this.model, { step: Math.exp(value) }),
    });
    this.weight = slider({
      label: "weight",
      min: 0.02,
      max: 0.98,
      step: 0.01,
      text: (w) => w.toFixed(2),
      oninput: (w) => this.setWeight(w),
    });
    this.start = choice({
      label: "start",
      options: STARTS,
      onchange: this.set("start"),
    });
    this.metropolis = toggle({
      label: "Metropolis-adjusted",
      onchange: this.set("metropolis"),
    });
    const arrows = toggle({
      label: "score arrows",
      onchange: (on) => {
        this.arrows = on;
        this.figure.invalidate();
      },
    });
    this.mode = group("Mode", this.weight.node);
    const columns = [
      element(
        "div",
        { class: "diffedu-column" },
        group(
          "Annealed: noise levels",
          this.levels.node,
          this.highest.node,
          this.steps.node,
          this.relative.node,
        ),
        arrows.node,
      ),
      element(
        "div",
        { class: "diffedu-column" },
        group("Plain", this.step.node, this.metropolis.node),
        this.mode,
        group("Both", this.start.node),
      ),
    ];
    for (const column of columns) {
      column.addEventListener("input", () => (this.haste = true), { capture: true });
      column.addEventListener("change", () => this.settle());
    }
    this.figure.side.append(
      element(
        "div",
        { class: "diffedu-playback" },
        this.player.node,
        this.position.node,
      ),
      ...columns,
    );
    const key = legend([
      ["is-shade", "var(--density)", "density that the score belongs to"],
      ["is-dot", "#d55e00", "particles, coloured by the nearest mode"],
      ["is-line", "#e69f00", "plain"],
      ["is-line", "#56b4e9", "annealed"],
      ["is-dash", "currentColor", "true weight"],
    ]);
    this.table = element("table");
    this.figure.below.append(key, this.table);
  }

  /** The rows of the table for so many modes: a key, a name, what it says on hover. */
  rows() {
    const modes = Array.from(this.now.mixture.weights, (_, k) => [
      `share-${k}`,
      `share at mode ${k + 1}`,
      "mean probability of that component given the particle",
    ]);
    return [
      ...modes,
      [
        "distance",
        "distance to the data",
        "sliced Wasserstein distance of the particles now to exact samples of the " +
          "data; exact: of two such samples",
      ],
      ["evaluations", "score evaluations", "per particle, up to this step"],
      ["noise", "noise level now", "σ/α of the density that the score belongs to"],
      ["step", "step h now", "of x + (h/2) s(x) + √h z"],
      ["accepted", "accepted", "share of the particles that took the last step"],
    ];
  }

  buildTable() {
    const { n_components } = this.now.mixture;
    if (this.table.dataset.modes === String(n_components)) return;
    this.table.dataset.modes = n_components;
    const columns = ["plain", "annealed", "exact"];
    this.cells = {};
    const head = element(
      "tr",
      {},
      element("td"),
      ...columns.map((name) => element("th", { scope: "col" }, name)),
    );
    const body = this.rows().map(([key, text, title]) => {
      const name = element("th", { scope: "row", title }, text);
      const cells = columns.map((column) => {
        const cell = element("td", { "data-number": `${column}-${key}` });
        return (this.cells[cell.dataset.number] = cell);
      });
      return element("tr", {}, name, ...cells);
    });
    this.table.replaceChildren(
      element("thead", {}, head),
      element("tbody", {}, ...body),
    );
  }

  togglePlay() {
    const playing = !this.model.get("playing");
    const atEnd = this.now.k >= this.now.total;
    assign(this.model, playing && atEnd ? { k: 0, playing } : { playing });
  }

  /** Another number of levels or of steps on each, at the same fraction of the run. */
  setLength(change) {
    const { levels, steps, total, k } = this.now;
    const { levels: L, steps: S } = { levels, steps, ...change };
    const place = { k: Math.round((k / total) * L * S) };
    const shorter = L * S < total; // the step must lie in the run at every moment
    assign(this.model, shorter ? { ...place, ...change } : { ...change, ...place });
  }

  setWeight(weight) {
    const { weights, n_components } = this.now.mixture;
    if (n_components === 1) return;
    const k = this.selected;
    const rest = 1 - weights[k];
    const other = (w) =>
      rest > 0 ? (w / rest) * (1 - weight) : (1 - weight) / (n_components - 1);
    const changed = weights.map((w, j) => (j === k ? weight : other(w)));
    assign(this.model, { weights: encode(changed, [n_components]) });
  }

  move(k, x, y) {
    const means = decode(this.model.get("means"));
    const [half_x, half_y] = this.plain.panel.half;
    means[2 * k] = Math.max(-half_x, Math.min(half_x, x));
    means[2 * k + 1] = Math.max(-half_y, Math.min(half_y, y));
    assign(this.model, { means: encode(means, [means.length / 2, 2]) });
  }

  /** A hand has let go: the view is fitted again, and every particle simulated. */
  settle() {
    if (!this.haste) return;
    this.haste = this.gesture = false;
    this.stale = true;
    this.figure.invalidate();
  }

  select(k) {
    this.selected = k;
    this.stale = true;
    this.figure.invalidate();
  }

  // --------------------------------------------------------------------------- handles

  makeHandle(panel, k) {
    return handle({
      panel,
      text: String(k + 1),
      where: () => decode(this.model.get("means")).subarray(2 * k, 2 * k + 2),
      move: (x, y) => {
        this.haste = this.gesture = true;
        this.move(k, x, y);
      },
      step: (event) => (event.shiftKey ? 0.05 : 0.0125) * panel.extent,
      focus: () => this.select(k),
      release: () => this.settle(),
    });
  }

  placeHandles({ panel, key, handles }, colours) {
    const { mixture } = this.now;
    while (handles.length > mixture.n_components) handles.pop().node.remove();
    while (handles.length < mixture.n_components) {
      handles.push(this.makeHandle(panel, handles.length));
      panel.node.append(handles.at(-1).node);
    }
    const [half_x, half_y] = panel.half;
    handles.forEach(({ node, place }, k) => {
      const [x, y] = mixture.means.subarray(2 * k, 2 * k + 2);
      const inside = [
        Math.max(-half_x, Math.min(half_x, x)),
        Math.max(-half_y, Math.min(half_y, y)),
      ];
      const at = `(${x.toFixed(2)}, ${y.toFixed(2)})`;
      place(
        inside,
        colours.components[k % colours.components.length],
        `Mode ${k + 1} in the ${key} panel, mean at ${at}; arrow keys move it`,
      );
      node.classList.toggle("is-selected", k === this.selected);
    });
  }

  // -------------------------------------------------------------------------- one frame

  draw(colours) {
    if (this.stale) this.refresh();
    const { mixture, path, spread, levels, metropolis } = this.now;
    const { i, t } = this.level();
    if (!this.gesture) this.extent = Math.max(VIEW * spread, reach(mixture));
    const law = path.marginal(mixture, t);
    const plain = metropolis ? "Metropolis-adjusted Langevin" : "Plain Langevin";
    const level = `level ${i + 1} of ${levels}, σ = ${format(this.ratio(t), 2)}`;
    this.drawRun(this.plain, mixture, plain, "σ = 0", colours);
    this.drawRun(this.annealed, law, "Annealed Langevin", level, colours);
    this.drawCurves(colours);
    this.updateNumbers();
    if (this.first) this.settle();
    this.first = false;
  }

  /** Recomputes what depends on the traits, and shows them in the controls. */
  refresh() {
    this.now = this.read();
    const { mixture, k, levels, steps, total, step, relative } = this.now;
    const { highest, lowest, greatest, start, metropolis } = this.now;
    this.selected = Math.min(this.selected, mixture.n_components - 1);
    this.compute();
    this.buildTable();
    this.player.set(this.model.get("playing"));
    this.position.range(0, total, 1);
    this.position.set(k);
    this.levels.set(levels);
    this.steps.set(steps);
    const [low, high] = [1.5 * lowest, Math.min(20, greatest)];
    this.highest.range(Math.log(low), Math.log(Math.max(high, highest)), "any");
    this.highest.set(Math.log(highest));
    this.relative.set(Math.log(relative));
    this.step.set(Math.log(step));
    this.start.set(start);
    this.metropolis.set(metropolis);
    const K = mixture.n_components;
    this.mode.firstChild.textContent = `Mode ${this.selected + 1} of ${K}`;
    this.weight.set(mixture.weights[this.selected]);
    this.stale = false;
  }

  drawRun(run, law, title, noise, colours) {
    const { panel, states } = run;
    const { mixture, k } = this.now;
    const x = states[k];
    if (!x.every(Number.isFinite))
      throw new Error(`the ${run.key} run left the range of numbers: h is too large`);
    panel.extent = this.extent;
    if (!panel.begin(colours)) return;
    const K = mixture.n_components;
    const r = mixture.responsibilities(x);
    const nearest = Array.from({ length: x.length / 2 }, (_, i) => {
      const own = r.subarray(K * i, K * (i + 1));
      return own.indexOf(Math.max(...own));
    });
    const palette = colours.components;
    let outside = 0;
    panel.clipped(() => {
      panel.density(law);
      if (this.arrows) panel.arrows((points) => law.score(points));
      palette.forEach((colour, j) => {
        const belongs = (i) => nearest[i] % palette.length === j;
        outside += panel.points(x, colour, { radius: 1.8, alpha: 0.8, belongs });
      });
    });
    panel.axes();
    panel.heading(title, "left", colours.ink);
    panel.heading(noise, "right");
    if (outside) panel.note(`${outside} of ${x.length / 2} outside`, "bottom");
    this.placeHandles(run, colours);
    const share = Array.from(run.share, (value) => value.toFixed(2)).join(", ");
    const weights = Array.from(mixture.weights, (w) => w.toFixed(2)).join(", ");
    panel.describe(
      `${title}, ${noise}: particles after ${k} of ${this.now.total} steps; ` +
        `shares at the modes ${share}, true weights ${weights}.`,
    );
  }

  /** The share at the selected mode along both runs, up to this step. */
  drawCurves(colours) {
    const { chart, selected } = this;
    const { mixture, total, stride, k } = this.now;
    chart.names.y = `share at mode ${selected + 1}`;
    chart.view = { x: [0, total], y: [0, 1] };
    if (!chart.begin(colours)) return;
    chart.axes();
    const weight = mixture.weights[selected];
    const across = [0, total].map((x) => [x, weight]);
    chart.line(across, colours.ink, { dash: [6, 4] });
    for (const run of this.runs) {
      const colour = colours.components[run.colour];
      const known = run.curve.slice(0, Math.floor(k / stride) + 1);
      const points = known.map((share, j) => [j * stride, share[selected]]);
      const end = [k, run.share[selected]];
      chart.line([...points, end], colour, { width: 1.8 });
      chart.points(end, colour, { radius: 3.5, alpha: 1 });
    }
    chart.describe(
      `Share of the particles at mode ${selected + 1} against score evaluations: ` +
        `plain ${this.plain.share[selected].toFixed(2)}, ` +
        `annealed ${this.annealed.share[selected].toFixed(2)} after ${k}, ` +
        `true weight ${weight.toFixed(2)}.`,
    );
  }

  updateNumbers() {
    const { mixture, path, k, step, relative, metropolis } = this.now;
    const { t } = this.level();
    const texts = {
      "exact-distance": format(this.exact.floor, 2),
      "plain-noise": "0",
      "annealed-noise": format(this.ratio(t), 2),
      "plain-step": format(step, 2),
      "annealed-step": format(variance_rule(path, relative)(t), 2),
      "plain-accepted": "all",
      "annealed-accepted": "all",
    };
    mixture.weights.forEach((w, j) => (texts[`exact-share-${j}`] = w.toFixed(2)));
    for (const run of this.runs) {
      texts[`${run.key}-distance`] = format(run.distance, 2);
      texts[`${run.key}-evaluations`] = String(k);
      run.share.forEach(
        (share, j) => (texts[`${run.key}-share-${j}`] = share.toFixed(2)),
      );
    }
    if (metropolis && k) {
      const { states } = this.plain;
      const share = moved(states[k - 1], states[k]);
      texts["plain-accepted"] = `${Math.round(100 * share)} %`;
      texts["plain-evaluations"] = String(k + 1); // every proposal's, and the start's
    }
    for (const [name, text] of Object.entries(texts)) {
      const cell = this.cells[name];
      if (cell.textContent !== text) cell.textContent = text;
    }
  }
}

/** anywidget's entry point: draws into `el`, returns the clean-up. */
export function render({ model, el }) {
  const widget = new LangevinLadder({ model, el });
  return () => widget.remove();
}
