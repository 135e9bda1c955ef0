/** The same start and the same noise run backwards three ways, beside the exact law. */

import {
  average,
  euler_maruyama,
  exact_score,
  forward,
  heun,
  projections,
  reverse,
  sliced_wasserstein,
  time_grid,
  total_variance,
} from "./core.js";
import {
  Plane,
  assign,
  choice,
  element,
  format,
  legend,
  player,
  slider,
  toggle,
} from "./figure.js";
import { MixtureWidget, PROCESSES, draws, viewExtent } from "./mixture_widget.js";

const SECONDS = 6; // from noise to data, played
const TRAILS = 12; // particles whose way is drawn
const TRAIL_POINTS = 120; // at most, per way
const PAIRS = 4; // samples that the distance and its floor are averaged over

/** The solvers, and how often each asks for the drift in a step. */
const SOLVERS = {
  euler_maruyama: { text: "Euler–Maruyama", run: euler_maruyama, evaluations: 1 },
  heun: { text: "Heun", run: heun, evaluations: 2 },
};

const TRAITS = [
  "weights",
  "means",
  "covariances",
  "path",
  "steps",
  "eta",
  "power",
  "solver",
  "k",
  "n_particles",
  "seed",
  "playing",
];

/** Where the run starts: t_max, or just before it where f and g are infinite. */
function startTime(path) {
  return Number.isFinite(path.f(path.t_max)) && path.alpha(path.t_max) > 1e-9
    ? path.t_max
    : 0.99 * path.t_max;
}

/** The distance from the origin that all but 3 % of the points keep. */
function spread(x) {
  const distance = new Float64Array(x.length / 2);
  for (let i = 0; i < distance.length; i++)
    distance[i] = Math.hypot(x[2 * i], x[2 * i + 1]);
  return distance.sort()[Math.floor(0.97 * (distance.length - 1))];
}

class ReverseTrajectories extends MixtureWidget {
  constructor({ model, el }) {
    super({ model, el, name: "reverse_trajectories", traits: TRAITS });
    this.zoom = true;
    this.runs = [
      { key: "naive", colour: 0, eta: () => null, title: () => "Naive reversal" },
      { key: "flow", colour: 1, eta: () => 0, title: () => "Probability flow, η = 0" },
      {
        key: "eta",
        colour: 2,
        eta: () => model.get("eta"),
        title: () => this.etaTitle(),
      },
    ];
    for (const run of this.runs) run.panel = new Plane("");
    this.figure.stage.append(...this.runs.map((run) => run.panel.node));
    this.buildControls();
    this.begin();
  }

  etaTitle() {
    const eta = this.model.get("eta");
    return `Reverse SDE, η = ${Number(eta.toPrecision(3))}${eta === 1 ? " (Anderson)" : ""}`;
  }

  // ----------------------------------------------------------------------------- state

  /** Everything the picture depends on, computed from the traits; throws on bad ones. */
  read() {
    const shared = this.readShared();
    const { path, steps } = shared;
    const k = Math.min(this.whole("k", 0, 1000), steps);
    const eta = this.real("eta", 0, 10);
    const power = this.real("power", 0.1, 10);
    const solver = this.oneOf("solver", Object.keys(SOLVERS));
    const times = time_grid(startTime(path), 0, steps, power);
    return { ...shared, k, eta, power, solver, times };
  }

  changed() {
    super.changed();
    if (!this.figure.playing) this.progress = null;
  }

  /** All states of one run: the naive reversal is the forward SDE with decreasing times. */
  simulate(eta) {
    const { mixture, path, times, solver } = this.now;
    const { u, z } = this.noise.start;
    const start = path.marginal(mixture, times[0]).place(u, z).x;
    const noising = forward(path);
    const sde =
      eta === null ? noising : reverse(noising, exact_score(mixture, path), eta);
    return [...SOLVERS[solver].run(sde, start, times, this.replay())];
  }

  /** Runs again what has changed, and measures where it ends. */
  compute() {
    const { mixture, steps, n, solver } = this.now;
    this.drawNoise([n, steps], (generator) => ({
      start: draws(generator, n),
      pairs: Array.from({ length: PAIRS }, () => [
        draws(generator, n),
        draws(generator, n),
      ]),
      steps: generator.normal(2 * n * steps),
    }));
    const common = JSON.stringify(
      [
        "weights",
        "means",
        "covariances",
        "path",
        "steps",
        "power",
        "solver",
        "n_particles",
        "seed",
      ].map((name) => this.model.get(name)),
    );
    if (this.common !== common) {
      this.common = common;
      const draw = ({ u, z }) => projections(mixture.place(u, z).x);
      this.exact = this.noise.pairs.map((pair) => pair.map(draw));
      this.floor = average(this.exact.map(([a, b]) => sliced_wasserstein(a, b))).value;
    }
    for (const run of this.runs) {
      const eta = run.eta();
      const done = `${common} ${eta}`;
      if (run.done === done) continue;
      run.done = done;
      run.states = this.simulate(eta);
      const end = projections(run.states.at(-1));
      run.distance = average(this.exact.map(([a]) => sliced_wasserstein(end, a))).value;
      run.evaluations = eta === null ? 0 : steps * SOLVERS[solver].evaluations;
    }
  }

  advance(seconds) {
    const { steps } = this.now;
    this.progress = Math.min(
      steps,
      (this.progress ?? this.model.get("k")) + (seconds / SECONDS) * steps,
    );
    const k = Math.floor(this.progress);
    if (k < steps) {
      if (k !== this.model.get("k")) assign(this.model, { k });
    } else {
      assign(this.model, { k, playing: false });
    }
  }

  // -------------------------------------------------------------------------- controls

  buildControls() {
    this.player = player({
      onplay: () => this.togglePlay(),
      onstep: () =>
        assign(this.model, {
          playing: false,
          k: Math.min(this.now.steps, this.now.k + 1),
        }),
      onreset: () => assign(this.model, { ...this.initial, playing: false }),
    });
    this.position = slider({
      label: "step",
      min: 0,
      max: 1,
      step: 1,
      text: (k) =>
        this.now
          ? `${k} of ${this.now.steps}, t = ${this.now.times[k].toFixed(2)}`
          : "",
      oninput: (k) => assign(this.model, { k, playing: false }),
    });
    this.position.node.classList.add("is-long");
    this.steps = slider({
      label: "steps in all",
      min: Math.log(2),
      max: Math.log(400),
      step: 0.05,
      text: (value) => String(Math.round(Math.exp(value))),
      oninput: (value) => this.setSteps(Math.round(Math.exp(value))),
    });
    this.power = slider({
      label: "grid power",
      min: 1,
      max: 4,
      step: 0.1,
      text: (p) => p.toFixed(1),
      oninput: this.set("power"),
    });
    this.eta = slider({
      label: "noise η",
      min: 0,
      max: 2,
      step: 0.05,
      text: (e) => e.toFixed(2),
      oninput: this.set("eta"),
    });
    this.solver = choice({
      label: "solver",
      options: Object.entries(SOLVERS).map(([name, { text }]) => [name, text]),
      onchange: this.set("solver"),
    });
    this.process = choice({
      label: "process",
      options: PROCESSES,
      onchange: (name) => assign(this.model, { path: this.otherPath(name) }),
    });
    this.zoomed = toggle({
      label: "zoom out with the naive reversal",
      onchange: (on) => {
        this.zoom = on;
        this.figure.invalidate();
      },
    });
    this.zoomed.set(this.zoom);
    this.figure.side.append(
      element(
        "div",
        { class: "diffedu-playback" },
        this.player.node,
        this.position.node,
      ),
      element(
        "div",
        { class: "diffedu-column" },
        this.eta.node,
        this.steps.node,
        this.power.node,
      ),
      element(
        "div",
        { class: "diffedu-column" },
        this.process.node,
        this.solver.node,
        this.zoomed.node,
      ),
    );
    this.table = this.buildTable();
    const key = legend([
      ["is-shade", "var(--density)", "exact density pₜ at this step"],
      ["is-line", "currentColor", `the ways of ${TRAILS} particles`],
      ["is-dot", "#d55e00", "naive"],
      ["is-dot", "#009e73", "flow"],
      ["is-dot", "#cc79a7", "reverse SDE"],
    ]);
    this.figure.below.append(key, this.table);
  }

  /** One column of live numbers per run, in the order of the panels. */
  buildTable() {
    const rows = [
      ["evaluations", "score evaluations", "per particle, in the whole run"],
      [
        "distance",
        "end points to data",
        "sliced Wasserstein distance of the end points to exact samples",
      ],
      [
        "floor",
        "sampling floor",
        "the same distance between two exact samples of this size",
      ],
      ["variance", "total variance now", "of the particles at this step"],
      ["exact", "exact total variance", "of pₜ"],
    ];
    for (const run of this.runs) {
      run.name = element("th", { scope: "col" });
      run.cells = Object.fromEntries(
        rows.map(([key]) => [
          key,
          element("td", { "data-number": `${run.key}-${key}` }),
        ]),
      );
    }
    const head = element("tr", {}, element("td"), ...this.runs.map((run) => run.name));
    const body = rows.map(([key, text, title]) =>
      element(
        "tr",
        {},
        element("th", { scope: "row", title }, text),
        ...this.runs.map((run) => run.cells[key]),
      ),
    );
    return element(
      "table",
      {},
      element("thead", {}, head),
      element("tbody", {}, ...body),
    );
  }

  togglePlay() {
    const playing = !this.model.get("playing");
    const atEnd = this.model.get("k") >= this.model.get("steps");
    assign(this.model, playing && atEnd ? { k: 0, playing } : { playing });
  }

  /** Another number of steps, at the same fraction of the run. */
  setSteps(steps) {
    const k = Math.round((this.now.k / this.now.steps) * steps);
    assign(this.model, steps < this.now.steps ? { k, steps } : { steps, k });
  }

  // -------------------------------------------------------------------------- one frame

  draw(colours) {
    if (this.stale) this.refresh();
    const { mixture, path, times, k } = this.now;
    const t = times[k];
    const law = path.marginal(mixture, t);
    const extent = viewExtent(mixture, path, t);
    for (const run of this.runs) this.drawRun(run, law, extent, colours);
    this.updateNumbers(law, t);
  }

  /** Recomputes what depends on the traits, and shows them in the controls. */
  refresh() {
    this.now = this.read();
    this.compute();
    const { steps, k, times, eta, power, solver } = this.now;
    this.player.set(this.model.get("playing"));
    this.position.range(0, steps, 1);
    this.position.set(k);
    this.steps.set(Math.log(steps));
    this.power.set(power);
    this.eta.set(eta);
    this.solver.set(solver);
    this.process.set(this.model.get("path").name);
    this.figure.node.dataset.time = times[k].toFixed(3);
    this.stale = false;
  }

  drawRun(run, law, extent, colours) {
    const { panel, states } = run;
    const x = states[this.now.k];
    const follows = run.key === "naive" && this.zoom;
    panel.extent = follows ? Math.max(extent, 1.1 * spread(x)) : extent;
    if (!Number.isFinite(panel.extent))
      throw new Error("the naive reversal left the range of numbers");
    if (!panel.begin(colours)) return;
    const colour = colours.components[run.colour];
    let outside = 0;
    panel.clipped(() => {
      panel.density(law);
      this.drawTrails(run, colours);
      outside = panel.points(x, colour, { radius: 1.8, alpha: 0.85 });
    });
    panel.axes();
    panel.heading(run.title(), "left", colours.ink);
    if (panel.extent > 1.05 * extent)
      panel.note(`zoomed out ×${format(panel.extent / extent, 2)}`, "top");
    if (outside) panel.note(`${outside} of ${x.length / 2} outside`, "bottom");
    run.outside = outside;
  }

  drawTrails(run, colours) {
    const { k, n } = this.now;
    const stride = Math.max(1, Math.ceil(k / TRAIL_POINTS));
    const kept = run.states.filter((_, j) => j <= k && (j % stride === 0 || j === k));
    for (let i = 0; i < Math.min(TRAILS, n); i++) {
      const way = kept.map((x) => [x[2 * i], x[2 * i + 1]]);
      run.panel.line(way, colours.ink, { alpha: 0.45, width: 0.8 });
    }
  }

  updateNumbers(law, t) {
    for (const run of this.runs) {
      const variance = total_variance(run.states[this.now.k]);
      const texts = {
        evaluations: String(run.evaluations),
        distance: format(run.distance, 2),
        floor: format(this.floor, 2),
        variance: format(variance),
        exact: format(law.total_variance),
      };
      for (const [key, text] of Object.entries(texts)) {
        if (run.cells[key].textContent !== text) run.cells[key].textContent = text;
      }
      if (run.name.textContent !== run.title()) run.name.textContent = run.title();
      run.panel.describe(
        `${run.title()}: ${this.now.n} particles at time ${t.toFixed(2)}, ` +
          `step ${this.now.k} of ${this.now.steps}; ` +
          `total variance ${texts.variance}, exact ${texts.exact}; ` +
          `end points at distance ${texts.distance} from the data.`,
      );
    }
  }
}

/** anywidget's entry point: draws into `el`, returns the clean-up. */
export function render({ model, el }) {
  const widget = new ReverseTrajectories({ model, el });
  return () => widget.remove();
}
