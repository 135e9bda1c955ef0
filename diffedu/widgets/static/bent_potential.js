/** A potential that the reader bends: particles, density and Gibbs law follow it. */

import { Generator, decode, encode, euler_maruyama } from "./core.js";
import {
  Chart,
  assign,
  choice,
  format,
  handle,
  legend,
  player,
  readout,
  slider,
} from "./figure.js";
import {
  GRID,
  JumpProcess,
  KNOTS,
  POTENTIALS,
  Potential,
  START_WIDTH,
  bump,
  grid_kl,
  mass_right,
  place,
  reflect,
} from "./fokker_planck.js";
import { Widget } from "./widget.js";

const SPEED = 1.5; // units of t per second, played
const T_MAX = 60;
const BINS = 46; // of the histogram, 3½ cells each
const PILE = 0.4; // height of the heap of particles, in units of U
const BAR = 2.9; // where a bar of height θ stands, to measure barriers by
const LEAST_KL = 1e-12; // below it rounding is what is left
const HISTORY = 1500; // points of the trace of KL
const NUMBERS_EVERY = 120; // milliseconds between two refreshes of the numbers
const HEIGHTS = [-2, 6]; // least and most of U at a knot
const HAND = [-0.5, 4.3]; // how far a hand can take it

const NAMES = [
  ["quadratic", "quadratic (Ornstein–Uhlenbeck)"],
  ["double well", "double well"],
  ["tilted", "tilted double well"],
  ["bent", "bent by hand", { disabled: true }],
];

const NUMBERS = [
  ["kl", "KL(pₜ ‖ Gibbs)", "in nats, of the densities on the cells"],
  ["rate", "rate of its decay", "−d log KL / dt, from the currents between cells"],
  ["gap", "in the end 2λ₁", "λ₁: the slowest rate of decay, computed from U and θ"],
  ["right", "pₜ right of 0", "the mass of the density there"],
  ["particles", "particles right of 0", "their share, ± standard error"],
  ["gibbs", "Gibbs right of 0", "its mass there"],
  ["mass", "mass of pₜ, less 1", "what rounding does to the mass"],
  ["limit", "Δt / explicit limit", "explicit Euler steps keep p ≥ 0 up to 1"],
];

const TRAITS = [
  "heights",
  "temperature",
  "start",
  "t",
  "time_step",
  "n_particles",
  "seed",
  "playing",
];

class BentPotential extends Widget {
  constructor({ model, el }) {
    super({ model, el, name: "bent_potential", traits: TRAITS });
    this.panels = {
      potential: new Chart("", { y: "potential U(x)", aspect: 1.9 }),
      density: new Chart("", { y: "density", aspect: 2.3 }),
      trace: new Chart("", { x: "t", y: "KL(pₜ ‖ Gibbs)", log_y: true, aspect: 2.7 }),
    };
    const { potential, density, trace } = this.panels;
    this.figure.stage.append(potential.node, density.node, trace.node);
    this.hover = null;
    for (const panel of [potential, density]) {
      panel.followPointer((place) => {
        this.hover = place && Math.abs(place[0]) < GRID.high ? place[0] : null;
        this.figure.invalidate();
      });
    }
    this.buildHandles();
    this.buildControls();
    this.begin();
  }

  // ----------------------------------------------------------------------------- state

  /** What the traits say; throws on bad ones. */
  read() {
    const heights = decode(this.model.get("heights"));
    const [least, most] = HEIGHTS;
    const good = heights.every((height) => height >= least && height <= most);
    if (heights.length !== KNOTS.length || !good)
      throw new Error(`heights must be ${KNOTS.length} numbers in [${least}, ${most}]`);
    return {
      heights,
      theta: this.real("temperature", 0.1, 2),
      start: this.real("start", -2.8, 2.8),
      t: this.real("t", 0, T_MAX),
      dt: this.real("time_step", 0.001, 0.2),
      n: this.whole("n_particles", 2, 20000),
    };
  }

  /** Brings potential, density and particles to where the traits say. */
  refresh() {
    this.now = this.read();
    const { heights, theta, start, t, dt, n } = this.now;
    const shape = [...heights, theta].join(" ");
    if (this.law?.shape !== shape) this.bend(shape);
    const origin = [start, this.model.get("seed")].join(" ");
    if (this.run?.origin !== origin || t < this.run.t - 1e-9) this.restart(origin);
    if (this.run.x.length !== n) this.drawParticles();
    while (this.run.t < t - 1e-9) {
      const left = t - this.run.t;
      this.advanceRun(left < dt - 1e-9 ? left : dt); // rounding makes no other step
    }
    this.player.set(this.model.get("playing"));
    this.preset.set(this.presetName());
    this.temperature.set(theta);
    this.step.set(Math.log10(dt));
    this.start.set(start);
    this.count.set(n);
    this.stale = false;
  }

  /** Another potential or temperature under the density and the particles as they are. */
  bend(shape) {
    const { heights, theta } = this.now;
    const U = new Potential(KNOTS, heights);
    const process = new JumpProcess((x) => U.drift(x), 2 * theta, GRID);
    this.law = {
      shape,
      U,
      heights: U.value(GRID.centers),
      process,
      gibbs: process.log_pi.map(Math.exp),
      gap: process.spectral_gap(),
      sde: { drift: (x) => U.drift(x), diffusion: () => Math.sqrt(2 * theta) },
    };
    if (this.run) this.record(true);
  }

  /** Density and particles at t = 0. */
  restart(origin) {
    const { start, n } = this.now;
    const generator = new Generator(this.model.get("seed"));
    const x = generator.normal(n).map((z) => start + START_WIDTH * z);
    this.run = {
      origin,
      generator,
      t: 0,
      p: bump(GRID, start),
      x: reflect(x, GRID.low, GRID.high),
      pile: generator.uniform(n),
      history: [],
    };
    this.record(false);
  }

  /** Another number of particles: drawn from the density as it is. */
  drawParticles() {
    const { run, now } = this;
    run.x = place(run.p, GRID, run.generator.uniform(now.n));
    run.pile = run.generator.uniform(now.n);
  }

  /** One step of density and particles. */
  advanceRun(tau) {
    const { run, law } = this;
    const times = [run.t, run.t + tau];
    const [, x] = euler_maruyama(law.sde, run.x, times, run.generator);
    run.x = reflect(x, GRID.low, GRID.high);
    run.p = law.process.advance(run.p, tau);
    run.t += tau;
    this.record(false);
  }

  /** Notes KL; of several bends at one time only what was before and the last. */
  record(bent) {
    const { run, law } = this;
    const { history } = run;
    run.kl = grid_kl(run.p, law.process.log_pi, GRID.spacing);
    const last = history.at(-1);
    const again = bent && last && last.t === run.t && (last.bent || run.t === 0);
    if (again) history.pop();
    history.push({ t: run.t, kl: run.kl, bent });
    if (history.length > HISTORY)
      run.history = history.filter(
        (point, i) => i % 2 === 0 || point.bent || history[i + 1]?.bent,
      );
  }

  advance(seconds) {
    const { dt } = this.now;
    this.owed = (this.owed ?? 0) + seconds * SPEED;
    const steps = Math.floor(this.owed / dt);
    if (steps === 0) return;
    this.owed -= steps * dt;
    this.move(steps);
  }

  /** Some steps on, and to a halt at the end. */
  move(steps) {
    const { dt } = this.now;
    const t = Math.min(T_MAX, this.model.get("t") + steps * dt);
    assign(this.model, t < T_MAX ? { t } : { t, playing: false });
  }

  togglePlay() {
    const playing = !this.model.get("playing");
    const atEnd = this.model.get("t") >= T_MAX;
    assign(this.model, playing && atEnd ? { t: 0, playing } : { playing });
  }

  presetName() {
    const same = ([name]) =>
      POTENTIALS[name] &&
      KNOTS.every((x, k) => Math.abs(this.now.heights[k] - POTENTIALS[name](x)) < 1e-6);
    return (NAMES.find(same) ?? ["bent"])[0];
  }

  // -------------------------------------------------------------------------- controls

  buildHandles() {
    const quiet = () => {};
    this.handles = Array.from(KNOTS, (x, k) =>
      handle({
        panel: this.panels.potential,
        text: "",
        where: () => [x, decode(this.model.get("heights"))[k]],
        move: (_, height) => {
          const heights = decode(this.model.get("heights"));
          heights[k] = Math.max(HAND[0], Math.min(HAND[1], height));
          assign(this.model, { heights: encode(heights, [KNOTS.length]) });
        },
        step: (event) => (event.shiftKey ? 0.5 : 0.1),
        focus: quiet,
        release: quiet,
      }),
    );
    this.panels.potential.node.append(...this.handles.map(({ node }) => node));
    this.origin = handle({
      panel: this.panels.density,
      text: "x₀",
      where: () => [this.model.get("start"), 0],
      move: (x) => this.startAt(x),
      step: () => 0.1,
      focus: quiet,
      release: quiet,
    });
    this.panels.density.node.append(this.origin.node);
  }

  startAt(x) {
    assign(this.model, { start: Math.max(-2.8, Math.min(2.8, x)), t: 0 });
  }

  buildControls() {
    this.player = player({
      onplay: () => this.togglePlay(),
      onstep: () => {
        assign(this.model, { playing: false });
        this.move(1);
      },
      onrestart: () => assign(this.model, { t: 0 }),
      onreset: () => {
        this.run = null;
        assign(this.model, { ...this.initial, playing: false });
        this.changed(); // also where all traits are what they were
      },
    });
    this.preset = choice({
      label: "potential",
      options: NAMES,
      onchange: (name) =>
        assign(this.model, { heights: encode(KNOTS.map(POTENTIALS[name]), [7]) }),
    });
    this.temperature = slider({
      label: "temperature θ",
      min: 0.1,
      max: 2,
      step: 0.02,
      text: (theta) => theta.toFixed(2),
      oninput: this.set("temperature"),
    });
    this.start = slider({
      label: "start x₀",
      min: -2.8,
      max: 2.8,
      step: 0.1,
      text: (x) => x.toFixed(1).replace("-", "−"),
      oninput: (x) => this.startAt(x),
    });
    this.step = slider({
      label: "time step Δt",
      min: -2.3,
      max: Math.log10(0.2),
      step: "any",
      text: (log) => format(10 ** log, 2),
      oninput: (log) => assign(this.model, { time_step: 10 ** log }),
    });
    this.count = slider({
      label: "particles",
      min: 100,
      max: 2000,
      step: 100,
      text: String,
      oninput: this.set("n_particles"),
    });
    this.numbers = readout(NUMBERS);
    this.figure.side.append(
      this.player.node,
      this.preset.node,
      this.temperature.node,
      this.start.node,
      this.step.node,
      this.count.node,
      this.numbers.node,
    );
    const key = legend([
      ["is-shade", "var(--density)", "density pₜ, finite volumes"],
      ["is-dot", "#d55e00", "particles, and their histogram"],
      ["is-dash", "#009e73", "Gibbs density ∝ e^(−U/θ)"],
      ["is-dash", "currentColor", "KL from now on if it fell as e^(−2λ₁t)"],
    ]);
    this.figure.below.append(key);
  }

  // -------------------------------------------------------------------------- one frame

  draw(colours) {
    if (this.stale) this.refresh();
    const blue = `rgb(${colours.density.join(" ")})`;
    this.drawPotential(colours);
    this.drawDensity(colours, blue);
    this.drawTrace(colours, blue);
    this.updateNumbers();
  }

  drawPotential(colours) {
    const panel = this.panels.potential;
    const { heights, theta, dt } = this.now;
    const { U } = this.law;
    panel.view = {
      x: [GRID.low, GRID.high],
      y: [Math.min(-0.8, ...heights) - 0.1, Math.max(4.5, ...heights) + 0.1],
    };
    if (!panel.begin(colours)) return;
    const { x, pile } = this.run;
    const U_x = U.value(x);
    const points = new Float64Array(2 * x.length);
    for (let i = 0; i < x.length; i++) {
      points[2 * i] = x[i];
      points[2 * i + 1] = U_x[i] + PILE * pile[i];
    }
    panel.clipped(() => {
      panel.fill(GRID.centers, this.law.heights, colours.ink, { alpha: 0.07 });
      panel.points(points, colours.components[0], { radius: 1.8, alpha: 0.6 });
      panel.curve(GRID.centers, this.law.heights, colours.ink, { width: 1.8 });
      const bar = [0, theta].map((y) => [BAR, y]);
      panel.line(bar, colours.ink, { width: 3 });
      panel.text(BAR, theta / 2, "θ", colours.ink);
      this.drawPointer(panel, colours);
    });
    panel.axes();
    panel.heading(`θ = ${theta.toFixed(2)}, Δt = ${format(dt, 2)}`, "right");
    this.handles.forEach((disc, k) => {
      const at = `x = ${KNOTS[k].toFixed(1)}`.replace("-", "−");
      const height = heights[k].toFixed(2).replace("-", "−");
      disc.place(
        [KNOTS[k], heights[k]],
        colours.components[4],
        `Potential at ${at} is ${height}; arrow keys bend it`,
      );
    });
    panel.describe(
      `Potential ${this.presetName()} with ${x.length} particles lying in it, ` +
        `temperature ${theta.toFixed(2)}; seven handles bend it.`,
    );
  }

  drawDensity(colours, blue) {
    const panel = this.panels.density;
    const { p, x, t } = this.run;
    const { gibbs } = this.law;
    const top = Math.max(...p, ...gibbs);
    panel.view = { x: [GRID.low, GRID.high], y: [0, 1.12 * top] };
    if (!panel.begin(colours)) return;
    const edges = Array.from(
      { length: BINS + 1 },
      (_, i) => GRID.low + (i / BINS) * (GRID.high - GRID.low),
    );
    const counts = new Float64Array(BINS);
    for (const value of x) {
      const share = (value - GRID.low) / (GRID.high - GRID.low);
      counts[Math.min(BINS - 1, Math.floor(BINS * share))] += 1;
    }
    const heights = counts.map((count) => count / (x.length * (edges[1] - edges[0])));
    panel.clipped(() => {
      panel.fill(GRID.centers, p, blue, { alpha: 0.35 });
      panel.bars(edges, heights, colours.components[0], { alpha: 0.45 });
      panel.curve(GRID.centers, p, blue, { width: 1.8 });
      const dashed = { width: 1.8, dash: [6, 4] };
      panel.curve(GRID.centers, gibbs, colours.components[1], dashed);
      this.drawPointer(panel, colours);
    });
    panel.axes();
    const at = (density) =>
      density[Math.floor((this.hover - GRID.low) / GRID.spacing)].toFixed(3);
    panel.heading(
      this.hover === null
        ? `t = ${t.toFixed(2)}`
        : `x = ${this.hover.toFixed(2)}: p = ${at(p)}, Gibbs ${at(gibbs)}`.replace(
            "-",
            "−",
          ),
      "right",
      colours.ink,
    );
    const { start } = this.now;
    const label = `Start at x = ${start.toFixed(1)}; arrow keys move it`;
    this.origin.place([start, 0], colours.components[3], label.replace("-", "−"));
    panel.describe(
      `Density at time ${t.toFixed(2)} by finite volumes, histogram of the ` +
        "particles, and the Gibbs density that both tend to.",
    );
  }

  /** Where the pointer is, in both panels above. */
  drawPointer(panel, colours) {
    if (this.hover !== null) panel.marker(this.hover, colours.faint);
  }

  drawTrace(colours, blue) {
    const panel = this.panels.trace;
    const { history, t, kl } = this.run;
    const shown = history.map((point) => Math.max(point.kl, LEAST_KL));
    const end = Math.max(10, 1.25 * t);
    panel.view = { x: [0, end], y: roundRange(shown) };
    if (!panel.begin(colours)) return;
    panel.clipped(() => {
      const points = history.map((point, i) => [point.t, shown[i]]);
      panel.line(points, blue, { width: 1.8 });
      const later = Math.exp(-2 * this.law.gap * (end - t));
      const tangent = [
        [t, kl],
        [end, kl * later],
      ];
      if (kl > LEAST_KL)
        panel.line(tangent, colours.ink, { dash: [2, 4], alpha: 0.8, width: 1.4 });
      panel.points([t, Math.max(kl, LEAST_KL)], blue, { radius: 3.5, alpha: 1 });
    });
    panel.axes();
    panel.describe(
      `Kullback–Leibler divergence of the density from the Gibbs law against time, ` +
        `on a logarithmic scale: ${format(kl)} nats at time ${t.toFixed(2)}.`,
    );
  }

  // --------------------------------------------------------------------------- numbers

  updateNumbers() {
    const { run, law } = this;
    const time = performance.now();
    if (time - (this.numbersAt ?? 0) < NUMBERS_EVERY) {
      if (!this.figure.playing) this.figure.invalidate();
      return;
    }
    this.numbersAt = time;
    const n = run.x.length;
    const share = run.x.reduce((sum, x) => sum + (x > 0), 0) / n;
    const error = Math.sqrt((share * (1 - share)) / n);
    const settled = run.kl < LEAST_KL;
    const { process } = law;
    const texts = {
      kl: settled ? `< ${format(LEAST_KL, 1)}` : format(run.kl),
      rate: settled ? "–" : format(process.dissipation(run.p) / run.kl),
      gap: format(2 * law.gap),
      right: mass_right(run.p, GRID, 0).toFixed(3),
      particles: `${share.toFixed(3)} ± ${error.toFixed(3)}`,
      gibbs: mass_right(law.gibbs, GRID, 0).toFixed(3),
      mass: format(GRID.mass(run.p) - 1, 1),
      limit: format(this.now.dt * process.fastest(), 2),
    };
    for (const [key, text] of Object.entries(texts)) this.numbers.set(key, text);
  }
}

/** 1, 2 or 5 times a power of ten below and above the values, a power apart at least. */
function roundRange(values) {
  const [least, most] = [0.7 * Math.min(...values), 1.2 * Math.max(...values)];
  const power = 10 ** Math.floor(Math.log10(most));
  const high = [1, 2, 5, 10].map((m) => m * power).find((edge) => edge >= most);
  const below = 10 ** Math.floor(Math.log10(least));
  const low = [5, 2, 1].map((m) => m * below).find((edge) => edge <= least);
  return [Math.min(low, high / 10), high];
}

/** anywidget's entry point: draws into `el`, returns the clean-up. */
export function render({ model, el }) {
  const widget = new BentPotential({ model, el });
  return () => widget.remove();
}
