/** What the widgets about a mixture share: its traits, its view, and its draws. */

import { GaussianMixture, decode, make_path } from "./core.js";
import { principalAxes } from "./figure.js";
import { Widget } from "./widget.js";

/** The processes a reader can choose among. */
export const PROCESSES = [
  ["OrnsteinUhlenbeck", "Ornstein–Uhlenbeck"],
  ["VariancePreserving", "variance preserving"],
  ["VarianceExploding", "variance exploding"],
  ["Cosine", "cosine"],
  ["Straight", "straight"],
];

/** How far from the origin p_t reaches: every mean and 2.7 standard deviations around it. */
export function reach(law) {
  return Math.max(
    ...Array.from(law.weights, (_, k) => {
      const { major } = principalAxes(law.covariances.subarray(4 * k, 4 * k + 4));
      return Math.hypot(law.means[2 * k], law.means[2 * k + 1]) + 2.7 * major;
    }),
  );
}

/** Half the width of the view at t: fixed if the process stays near, else growing with it. */
export function viewExtent(mixture, path, t) {
  const start = reach(mixture);
  let most = start;
  for (let i = 1; i <= 32; i++)
    most = Math.max(most, reach(path.marginal(mixture, (i / 32) * path.t_max)));
  return Math.max(start, Math.min(most, 1.5 * start), reach(path.marginal(mixture, t)));
}

/** The numbers that n draws from a mixture in the plane are made of. */
export function draws(generator, n) {
  return { u: generator.uniform(n), z: generator.normal(2 * n) };
}

/** The base class of a widget about a mixture in the plane and a path that noises it. */
export class MixtureWidget extends Widget {
  constructor(parts) {
    super(parts);
    this.remembered = {}; // the last parameters of each process
  }

  /** The mixture and the path that the traits describe; throws on bad ones. */
  readMixture() {
    const get = (name) => this.model.get(name);
    const mixture = new GaussianMixture(
      decode(get("weights")),
      decode(get("means")),
      decode(get("covariances")),
    );
    if (mixture.dim !== 2) throw new Error("means must be points of the plane");
    return { mixture, path: make_path(get("path")) };
  }

  /** Those, and how many particles and steps there are. */
  readShared() {
    return {
      ...this.readMixture(),
      n: this.whole("n_particles", 2, 20000),
      steps: this.whole("steps", 1, 1000),
    };
  }

  /** The path of another process, as the reader left it. */
  otherPath(name) {
    const old = this.model.get("path");
    this.remembered[old.name] = old;
    return this.remembered[name] ?? { name };
  }
}
