/** What every widget shares: traits that are checked when read, noise, and its life. */

import { Generator } from "./core.js";
import { Figure, assign, follow } from "./figure.js";

/**
 * The base class. A subclass builds its panels and controls, calls `begin`, and has
 * `draw(colours)` for one frame and `advance(seconds)` for time that goes by.
 */
export class Widget {
  constructor({ model, el, name, traits }) {
    this.model = model;
    this.traits = traits;
    this.initial = Object.fromEntries(traits.map((trait) => [trait, model.get(trait)]));
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

  /** A trait that must be one of the names. */
  oneOf(name, choices) {
    const value = this.model.get(name);
    if (!choices.includes(value))
      throw new Error(`${name} must be one of ${choices.join(", ")}`);
    return value;
  }

  // ----------------------------------------------------------------------------- noise

  /** All the noise there is, `draw(generator)`, once per seed and sizes: the same for
   *  every reader. */
  drawNoise(sizes, draw) {
    const key = [this.model.get("seed"), ...sizes].join(" ");
    if (this.noise?.key === key) return;
    this.noise = { key, ...draw(new Generator(this.model.get("seed"))) };
  }

  /** A stream that replays the noise of the steps, from step k on. */
  replay(k = 0) {
    return { normal: (count) => this.noise.steps.subarray(k++ * count, k * count) };
  }
}
