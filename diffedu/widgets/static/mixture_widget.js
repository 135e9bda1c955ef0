/** What the widgets about a mixture share: their traits, their noise and their life. */

import { Generator, GaussianMixture, decode, make_path } from "./core.js";
import { Figure, assign, follow } from "./figure.js";

/**
 * The base class. A subclass builds its panels and controls, calls `begin`, and has
 * `draw(colours)` for one frame and `advance(seconds)` for time that goes by.
 */
export class MixtureWidget {
  constructor({ model, el, name, traits }) {
    this.model = model;
    this.traits = traits;
    this.initial = Object.fromEntries(traits.map((trait) => [trait, model.get(trait)]));
    this.remembered = {}; // the last parameters of each process
    this.figure = new Figure({
      name,
      el,
      model,
      draw: (colours) => this.draw(colours),
      advance: (seconds) => this.advance(seconds),
    });
  }

  begin() {
    this.unfollow = follow(this.model, this.traits, () => this.changed());
    this.changed();
  }

  changed() {
    this.stale = true;
    this.figure.playing = this.model.get("playing");
    this.figure.invalidate();
  }

  remove() {
    this.unfollow();
    this.figure.release();
  }

  /** What a control calls with its value, to set a trait. */
  set(name) {
    return (value) => assign(this.model, { [name]: value });
  }

  // -------------------------------------------------------- traits, checked when read

  /** The objects that the shared traits describe; throws on bad ones. */
  readShared() {
    const get = (name) => this.model.get(name);
    const mixture = new GaussianMixture(
      decode(get("weights")),
      decode(get("means")),
      decode(get("covariances")),
    );
    if (mixture.dim !== 2) throw new Error("means must be points of the plane");
    return {
      mixture,
      path: make_path(get("path")),
      n: this.whole("n_particles", 2, 20000),
      steps: this.whole("steps", 1, 1000),
    };
  }

  /** A trait that must be a whole number. */
  whole(name, least, most) {
    const value = this.model.get(name);
    if (!(Number.isInteger(value) && value >= least && value <= most))
      throw new Error(
        `${name} must be a whole number in ${least} … ${most}, got ${value}`,
      );
    return value;
  }

  /** A trait that must be a number. */
  real(name, least, most) {
    const value = this.model.get(name);
    if (!(Number.isFinite(value) && value >= least && value <= most))
      throw new Error(`${name} must lie in [${least}, ${most}], got ${value}`);
    return value;
  }

  /** The path of another process, as the reader left it. */
  otherPath(name) {
    const old = this.model.get("path");
    this.remembered[old.name] = old;
    return this.remembered[name] ?? { name };
  }

  /** All the noise there is, drawn once per seed and size: the same for every reader. */
  drawNoise(n, steps, draw) {
    const key = `${this.model.get("seed")} ${n} ${steps}`;
    if (this.noise?.key === key) return;
    const generator = new Generator(this.model.get("seed"));
    const sample = () => ({ u: generator.uniform(n), z: generator.normal(2 * n) });
    this.noise = { key, ...draw(generator, sample) };
  }

  /** A stream that replays the noise of the steps, from step k on. */
  replay(k = 0) {
    return { normal: (count) => this.noise.steps.subarray(k++ * count, k * count) };
  }
}
