/**
 * What every widget of the book is drawn with: a canvas with axes, native controls,
 * live numbers, the page's theme, and a loop that rests when nobody can see it.
 */

// ----------------------------------------------------------------------------- elements

/** A DOM element; properties starting with "on" are listeners, the rest attributes. */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** A number as the book prints it: `digits` significant ones, a true minus sign. */
export function format(value, digits = 3) {
  if (Number.isNaN(value)) return "undefined";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  let text = size === 0 ? "0" : value.toPrecision(digits);
  if (size >= 1e5 || (size < 1e-3 && size > 0)) {
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    text = `${mantissa}·10${superscript(Number(exponent))}`;
  } else if (text.includes("e")) {
    text = String(Math.round(value));
  }
  return text.replaceAll("-", "−");
}

function superscript(n) {
  return String(n).replace(/[-0-9]/g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
}

/** "value ± standard error". */
export function formatEstimate({ value, standard_error }) {
  return `${format(value, 2)} ± ${format(standard_error, 1)}`;
}

// -------------------------------------------------------------------------------- theme

// Okabe and Ito's colours: distinct for every common kind of colour blindness.
const COMPONENTS = ["#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6bbe"];

const LIGHT = {
  ink: "#1d2733",
  faint: "#767676",
  paper: "#ffffff",
  density: [0, 90, 156],
};
const DARK = {
  ink: "#e8edf2",
  faint: "#8f979f",
  paper: "#14181e",
  density: [86, 180, 233],
};

/** Whether the page around the node is dark: what it says, else how it looks. */
function isDark(node) {
  const root = document.documentElement;
  if (root.dataset.theme) return root.dataset.theme === "dark";
  if (document.body.dataset.jpThemeLight)
    return document.body.dataset.jpThemeLight === "false";
  for (let at = node; at; at = at.parentElement) {
    const [r, g, b, a = 1] = getComputedStyle(at)
      .backgroundColor.match(/[\d.]+/g)
      .map(Number);
    if (a > 0.5) return 0.299 * r + 0.587 * g + 0.114 * b < 128;
  }
  return false;
}

// ----------------------------------------------------------------------------- controls

/** A row with a name, a native input and its current value. */
function row(label, input, output) {
  return element(
    "label",
    { class: "diffedu-row" },
    element("span", {}, label),
    input,
    output ?? "",
  );
}

/** A slider for a number; `set(value)` moves it without a callback. */
export function slider({ label, min, max, step, text = format, oninput }) {
  const input = element("input", {
    type: "range",
    min,
    max,
    step,
    "aria-label": label,
  });
  const output = element("output");
  const show = (value) => {
    output.textContent = text(value);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    show(input.valueAsNumber);
    oninput(input.valueAsNumber);
  });
  const node = row(label, input, output);
  return {
    node,
    range(low, high, by) {
      Object.assign(input, { min: low, max: high, step: by });
    },
    set(value) {
      input.value = value;
      show(value);
    },
  };
}

/** A choice among [value, text, properties of the option] triples. */
export function choice({ label, options, onchange }) {
  const list = options.map(([value, text, properties]) =>
    element("option", { value, ...properties }, text),
  );
  const select = element(
    "select",
    { "aria-label": label, onchange: () => onchange(select.value) },
    ...list,
  );
  return { node: row(label, select), set: (value) => (select.value = value) };
}

/** A switch. */
export function toggle({ label, onchange }) {
  const input = element("input", {
    type: "checkbox",
    onchange: () => onchange(input.checked),
  });
  const node = element("label", { class: "diffedu-toggle" }, input, label);
  return { node, set: (value) => (input.checked = value) };
}

/** A button with text. */
export function button(text, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, text);
}

/** Play or pause, step, reset; and restart, where that is less than a reset. */
export function player({ onplay, onstep, onreset, onrestart = null }) {
  const play = button("Play", onplay, { class: "diffedu-play" });
  const node = element("div", {
    class: "diffedu-player",
    role: "group",
    "aria-label": "Playback",
  });
  node.append(play, button("Step", onstep));
  if (onrestart) node.append(button("Restart", onrestart));
  node.append(button("Reset", onreset));
  return { node, set: (playing) => (play.textContent = playing ? "Pause" : "Play") };
}

/** A titled group of controls. */
export function group(title, ...nodes) {
  return element("fieldset", {}, element("legend", {}, title), ...nodes);
}

/** Live numbers: names fixed, values set as they change. */
export function readout(names) {
  const values = new Map(
    names.map(([key]) => [key, element("b", { "data-number": key }, "…")]),
  );
  const node = element("div", { class: "diffedu-numbers" });
  for (const [key, name, title] of names) {
    node.append(
      element("div", { title }, element("span", {}, name), " ", values.get(key)),
    );
  }
  return {
    node,
    set(key, text) {
      if (values.get(key).textContent !== text) values.get(key).textContent = text;
    },
  };
}

/** What the marks mean: [css class, colour, text] triples. */
export function legend(entries) {
  const items = entries.map(([mark, colour, text]) =>
    element(
      "li",
      {},
      element("span", { class: `diffedu-mark ${mark}`, style: `--mark: ${colour}` }),
      text,
    ),
  );
  return element("ul", { class: "diffedu-legend" }, ...items);
}

// ------------------------------------------------------------------------------- panels

const DENSITY_CELLS = 72;
const FONT = "11px system-ui, sans-serif";

/**
 * Axes on a canvas. A subclass says where a point lies (`toPixel`, `toData`) and which
 * ticks there are (`ticks`).
 */
class Panel {
  constructor(label, margin) {
    this.margin = margin;
    this.canvas = element("canvas", { role: "img", "aria-label": label });
    this.node = element("div", { class: "diffedu-panel" }, this.canvas);
    this.context = this.canvas.getContext("2d");
  }

  describe(text) {
    if (this.canvas.getAttribute("aria-label") !== text)
      this.canvas.setAttribute("aria-label", text);
  }

  /** Calls `handler` with the place under the pointer, [x, y], or with null. */
  followPointer(handler) {
    const point = (event) => handler(this.under(event));
    this.canvas.addEventListener("pointermove", point);
    this.canvas.addEventListener("pointerdown", point);
    this.canvas.addEventListener("pointerleave", () => handler(null));
  }

  /** The place under a pointer event, in units of the data. */
  under(event) {
    const box = this.canvas.getBoundingClientRect();
    return this.toData(event.clientX - box.left, event.clientY - box.top);
  }

  /** Fits the canvas to its box and clears it; false where it has no room. */
  begin(colours) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h)
      Object.assign(this.canvas, { width: w, height: h });
    this.colours = colours;
    this.width = width - this.margin.left - this.margin.right;
    this.height = height - this.margin.top - this.margin.bottom;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.clearRect(0, 0, width, height);
    return this.width > 0 && this.height > 0;
  }

  /** Draws within the axes only. */
  clipped(draw) {
    this.context.save();
    this.context.beginPath();
    this.context.rect(this.margin.left, this.margin.top, this.width, this.height);
    this.context.clip();
    draw();
    this.context.restore();
  }

  /** Frame, ticks and tick labels. */
  axes() {
    const { context, colours, margin } = this;
    const [right, bottom] = [margin.left + this.width, margin.top + this.height];
    const { x, y } = this.ticks();
    context.strokeStyle = colours.faint;
    context.fillStyle = colours.faint;
    context.lineWidth = 1;
    context.font = FONT;
    context.strokeRect(
      margin.left - 0.5,
      margin.top - 0.5,
      this.width + 1,
      this.height + 1,
    );
    context.beginPath();
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const [left, text] of x) {
      context.moveTo(left, bottom);
      context.lineTo(left, bottom + (text ? 4 : 2));
      context.fillText(text, left, bottom + 7);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [top, text] of y) {
      context.moveTo(margin.left, top);
      context.lineTo(margin.left - (text ? 4 : 2), top);
      context.fillText(text, margin.left - 7, top);
    }
    context.stroke();
  }

  /** Text above the frame, left or right. */
  heading(text, align = "left", colour = this.colours.faint) {
    const { context, margin } = this;
    context.font = FONT;
    context.fillStyle = colour;
    context.textAlign = align;
    context.textBaseline = "alphabetic";
    context.fillText(
      text,
      align === "left" ? margin.left : margin.left + this.width,
      margin.top - 5,
    );
  }

  /** A remark inside the frame, in its top or bottom left corner. */
  note(text, corner) {
    const { context, margin } = this;
    context.font = `600 ${FONT}`;
    const width = context.measureText(text).width + 10;
    const top = corner === "top" ? margin.top + 4 : margin.top + this.height - 22;
    context.globalAlpha = 0.85;
    context.fillStyle = this.colours.paper;
    context.fillRect(margin.left + 4, top, width, 18);
    context.globalAlpha = 1;
    context.fillStyle = this.colours.ink;
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillText(text, margin.left + 9, top + 9.5);
  }

  /** Points (x, y), one after another, as discs; `belongs(i)` chooses among them.
   *  Returns how many lie outside. */
  points(x, colour, { radius = 2, alpha = 0.85, belongs = null } = {}) {
    const { context, margin } = this;
    const [right, bottom] = [margin.left + this.width, margin.top + this.height];
    let outside = 0;
    context.fillStyle = colour;
    context.globalAlpha = alpha;
    context.beginPath();
    for (let i = 0; i < x.length / 2; i++) {
      if (belongs && !belongs(i)) continue;
      const [left, top] = this.toPixel(x[2 * i], x[2 * i + 1]);
      const across = left >= margin.left && left <= right;
      if (!(across && top >= margin.top && top <= bottom)) {
        outside += 1;
        continue;
      }
      context.moveTo(left + radius, top);
      context.arc(left, top, radius, 0, 2 * Math.PI);
    }
    context.fill();
    context.globalAlpha = 1;
    return outside;
  }

  /** A line through [x, y] pairs, broken where a pair has no place on the axes. */
  line(points, colour, { width = 1, alpha = 1, dash = [] } = {}) {
    const { context } = this;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.globalAlpha = alpha;
    context.setLineDash(dash);
    context.beginPath();
    let down = false;
    for (const [x, y] of points) {
      const [left, top] = this.toPixel(x, y);
      const here = Number.isFinite(left) && Number.isFinite(top);
      if (here) context[down ? "lineTo" : "moveTo"](left, top);
      down = here;
    }
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
  }
}

/** The plane: equal scales, centred on the origin unless `centre` is set. */
export class Plane extends Panel {
  constructor(label) {
    super(label, { left: 34, right: 8, top: 16, bottom: 26 });
    this.extent = 1;
    this.centre = [0, 0];
    this.image = element("canvas", { width: DENSITY_CELLS, height: DENSITY_CELLS });
    this.cells = new Float64Array(2 * DENSITY_CELLS ** 2);
  }

  /** Pixels per unit of the data. */
  get scale() {
    return Math.min(this.width, this.height) / (2 * this.extent);
  }

  toPixel(x, y) {
    return [
      this.margin.left + this.width / 2 + (x - this.centre[0]) * this.scale,
      this.margin.top + this.height / 2 - (y - this.centre[1]) * this.scale,
    ];
  }

  toData(left, top) {
    return [
      this.centre[0] + (left - this.margin.left - this.width / 2) / this.scale,
      this.centre[1] + (this.margin.top + this.height / 2 - top) / this.scale,
    ];
  }

  /** Half the width and height of the view, in units of the data. */
  get half() {
    return [this.width / 2 / this.scale, this.height / 2 / this.scale];
  }

  ticks() {
    const [half_x, half_y] = this.half;
    const [x_0, y_0] = this.centre;
    const step = niceStep(2 * half_x);
    return {
      x: linearTicks([x_0 - half_x, x_0 + half_x], step).map(([x, text]) => [
        this.toPixel(x, 0)[0],
        text,
      ]),
      y: linearTicks([y_0 - half_y, y_0 + half_y], step).map(([y, text]) => [
        this.toPixel(0, y)[1],
        text,
      ]),
    };
  }

  /** The density as shading, √(p / max p); returns the largest p in view. */
  density(law) {
    const [half_x, half_y] = this.half;
    const [x_0, y_0] = this.centre;
    const n = DENSITY_CELLS;
    for (let j = 0; j < n; j++) {
      for (let i = 0; i < n; i++) {
        this.cells[2 * (j * n + i)] = x_0 + ((2 * i + 1) / n - 1) * half_x;
        this.cells[2 * (j * n + i) + 1] = y_0 + (1 - (2 * j + 1) / n) * half_y;
      }
    }
    const log_p = law.log_prob(this.cells);
    let max = -Infinity;
    for (let i = 0; i < log_p.length; i++) if (log_p[i] > max) max = log_p[i];
    const context = this.image.getContext("2d");
    const pixels = context.createImageData(n, n);
    const [red, green, blue] = this.colours.density;
    for (let i = 0; i < log_p.length; i++) {
      pixels.data[4 * i] = red;
      pixels.data[4 * i + 1] = green;
      pixels.data[4 * i + 2] = blue;
      pixels.data[4 * i + 3] = 165 * Math.exp(0.5 * (log_p[i] - max));
    }
    context.putImageData(pixels, 0, 0);
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(
      this.image,
      this.margin.left,
      this.margin.top,
      this.width,
      this.height,
    );
    return Math.exp(max);
  }

  /** A field as count×count arrows; their length grows with |v| and saturates at one cell. */
  arrows(
    field,
    count = 20,
    { colour = this.colours.ink, alpha = 0.5, width = 1 } = {},
  ) {
    const [half_x, half_y] = this.half;
    const [x_0, y_0] = this.centre;
    const points = new Float64Array(2 * count * count);
    for (let i = 0; i < count * count; i++) {
      points[2 * i] = x_0 + ((2 * (i % count) + 1) / count - 1) * half_x;
      points[2 * i + 1] = y_0 + ((2 * Math.floor(i / count) + 1) / count - 1) * half_y;
    }
    const v = field(points);
    const cell = (2 * half_x) / count;
    const { context } = this;
    context.strokeStyle = colour;
    context.globalAlpha = alpha;
    context.lineWidth = width;
    context.beginPath();
    for (let i = 0; i < count * count; i++) {
      const size = Math.hypot(v[2 * i], v[2 * i + 1]);
      const length = (0.85 * cell * this.scale * size) / (size + 1 / cell);
      if (!(length > 0.5)) continue;
      const [c, s] = [v[2 * i] / size, -v[2 * i + 1] / size];
      const [left, top] = this.toPixel(points[2 * i], points[2 * i + 1]);
      const [tip_x, tip_y] = [left + 0.5 * length * c, top + 0.5 * length * s];
      const head = Math.min(4, 0.4 * length);
      context.moveTo(left - 0.5 * length * c, top - 0.5 * length * s);
      context.lineTo(tip_x, tip_y);
      context.moveTo(tip_x - head * (c - 0.6 * s), tip_y - head * (s + 0.6 * c));
      context.lineTo(tip_x, tip_y);
      context.lineTo(tip_x - head * (c + 0.6 * s), tip_y - head * (s - 0.6 * c));
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  /** The ellipse of `deviations` standard deviations around a mean. */
  ellipse(mean, covariance, colour, { deviations = 1, ...style } = {}) {
    const { major, minor, angle } = principalAxes(covariance);
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    const around = Array.from({ length: 61 }, (_, i) => {
      const a = deviations * major * Math.cos((2 * Math.PI * i) / 60);
      const b = deviations * minor * Math.sin((2 * Math.PI * i) / 60);
      return [mean[0] + c * a - s * b, mean[1] + s * a + c * b];
    });
    this.line(around, colour, style);
  }
}

/**
 * A disc on a panel that a hand or the arrow keys move. `where()` says where it is,
 * `move(x, y)` takes it elsewhere, `step(event)` is how far an arrow key takes it;
 * `release` is called when a hand lets go of it. `place` shows it.
 */
export function handle({ panel, text, where, move, step, focus, release }) {
  const node = button(text, null, { class: "diffedu-handle", onfocus: focus });
  let grip = null; // from the pointer to the handle, while dragged
  node.addEventListener("pointerdown", (event) => {
    node.setPointerCapture(event.pointerId);
    node.focus();
    const [x, y] = panel.under(event);
    const [at_x, at_y] = where();
    grip = [at_x - x, at_y - y];
  });
  node.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const [x, y] = panel.under(event);
    move(x + grip[0], y + grip[1]);
  });
  const let_go = () => {
    grip = null;
    release();
  };
  node.addEventListener("pointerup", let_go);
  node.addEventListener("pointercancel", let_go);
  node.addEventListener("keydown", (event) => {
    const moves = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, 1],
      ArrowDown: [0, -1],
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    const [x, y] = where();
    const by = step(event);
    move(x + by * moves[event.key][0], y + by * moves[event.key][1]);
  });
  node.addEventListener("keyup", release);
  return {
    node,
    place([x, y], colour, label) {
      const [left, top] = panel.toPixel(x, y);
      node.style.transform = `translate(${left}px, ${top}px) translate(-50%, -50%)`;
      node.style.setProperty("--mark", colour);
      if (node.getAttribute("aria-label") !== label)
        node.setAttribute("aria-label", label);
    },
  };
}

/**
 * A chart: x and y in `view`, each axis linear or logarithmic, a name for each. Curves
 * are two arrays of equal length, points and lines what they are for every panel.
 */
export class Chart extends Panel {
  constructor(
    label,
    { x = "", y = "", log_x = false, log_y = false, aspect = 1.8 } = {},
  ) {
    super(label, { left: 42, right: 12, top: 18, bottom: x ? 36 : 26 });
    this.canvas.style.setProperty("--aspect", aspect);
    this.names = { x, y };
    this.log = { x: log_x, y: log_y };
    this.view = { x: [0, 1], y: [0, 1] };
  }

  toPixel(x, y) {
    return [
      this.margin.left + this.width * fraction(x, this.view.x, this.log.x),
      this.margin.top + this.height * (1 - fraction(y, this.view.y, this.log.y)),
    ];
  }

  toData(left, top) {
    return [
      at((left - this.margin.left) / this.width, this.view.x, this.log.x),
      at(1 - (top - this.margin.top) / this.height, this.view.y, this.log.y),
    ];
  }

  ticks() {
    const along = (range, log, pixels) =>
      log ? logTicks(range) : linearTicks(range, niceStep(range[1] - range[0], pixels));
    const { view, log } = this;
    return {
      x: along(view.x, log.x, this.width / 60).map(([x, text]) => [
        this.toPixel(x, view.y[0])[0],
        text,
      ]),
      y: along(view.y, log.y, this.height / 26).map(([y, text]) => [
        this.toPixel(view.x[0], y)[1],
        text,
      ]),
    };
  }

  /** Frame, ticks and the names of the axes: y above the frame, x below the ticks. */
  axes() {
    super.axes();
    this.heading(this.names.y);
    const { context, margin } = this;
    context.textAlign = "center";
    context.fillText(
      this.names.x,
      margin.left + this.width / 2,
      margin.top + this.height + 31,
    );
  }

  /** The curve through (x_i, y_i). */
  curve(x, y, colour, style) {
    this.line(
      Array.from(x, (x_i, i) => [x_i, y[i]]),
      colour,
      style,
    );
  }

  /** The area between the curve and the foot of the axes. */
  fill(x, y, colour, { alpha = 0.3 } = {}) {
    const { context } = this;
    const foot = this.margin.top + this.height;
    context.fillStyle = colour;
    context.globalAlpha = alpha;
    context.beginPath();
    context.moveTo(this.toPixel(x[0], y[0])[0], foot);
    for (let i = 0; i < x.length; i++) {
      const [left, top] = this.toPixel(x[i], y[i]);
      context.lineTo(left, Number.isFinite(top) ? Math.min(top, foot) : foot);
    }
    context.lineTo(this.toPixel(x[x.length - 1], y[0])[0], foot);
    context.fill();
    context.globalAlpha = 1;
  }

  /** Bars of the given heights between consecutive edges: one edge more than bars. */
  bars(edges, heights, colour, { alpha = 0.35 } = {}) {
    const { context } = this;
    const foot = this.margin.top + this.height;
    context.fillStyle = colour;
    context.globalAlpha = alpha;
    for (let i = 0; i < heights.length; i++) {
      const [left, top] = this.toPixel(edges[i], heights[i]);
      const [right] = this.toPixel(edges[i + 1], heights[i]);
      if (top < foot) context.fillRect(left, top, right - left - 0.5, foot - top);
    }
    context.globalAlpha = 1;
  }

  /** Text to the right of a place. */
  text(x, y, text, colour) {
    const { context } = this;
    const [left, top] = this.toPixel(x, y);
    context.font = FONT;
    context.fillStyle = colour;
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillText(text, left + 5, top);
  }

  /** A vertical line through the whole height. */
  marker(x, colour, style) {
    this.line(
      this.view.y.map((y) => [x, y]),
      colour,
      style,
    );
  }
}

/** Where a value lies in a range, from 0 to 1. */
function fraction(value, [low, high], log) {
  return log
    ? Math.log(value / low) / Math.log(high / low)
    : (value - low) / (high - low);
}

/** The inverse of `fraction`. */
function at(share, [low, high], log) {
  return log ? low * (high / low) ** share : low + share * (high - low);
}

/** A round step that makes about `count` of the length, and five at most. */
function niceStep(length, count = 5) {
  const rough = length / Math.max(1, Math.min(5, count));
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= rough);
}

/** [value, text] of the multiples of `step` in the range. */
function linearTicks([low, high], step) {
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step) - first + 1;
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  return Array.from({ length: Math.max(0, count) }, (_, i) => {
    const value = (first + i) * step;
    return [value, value.toFixed(digits).replace("-", "−")];
  });
}

/** [value, text] of the powers of ten in the range, and between them ticks without text
 *  or, where the range has fewer than two powers, the numbers themselves. */
function logTicks([low, high]) {
  const [first, last] = [Math.ceil(Math.log10(low)), Math.floor(Math.log10(high))];
  const every = Math.max(1, Math.ceil((last - first) / 5));
  const few = last - first < 1;
  const list = [];
  for (let k = first - 1; k <= last; k++) {
    for (let m = 1; m < 10; m++) {
      const value = m * 10 ** k;
      if (value < low * (1 - 1e-9) || value > high * (1 + 1e-9)) continue;
      if (few) list.push([value, [1, 2, 5].includes(m) ? format(value, 1) : ""]);
      else if (m === 1) list.push([value, k % every ? "" : `10${superscript(k)}`]);
      else if (last - first < 4) list.push([value, ""]);
    }
  }
  return list;
}

/** Standard deviations along the principal axes of a 2×2 covariance, and the first's angle. */
export function principalAxes([a, b, , c]) {
  const middle = (a + c) / 2;
  const spread = Math.hypot((a - c) / 2, b);
  return {
    major: Math.sqrt(middle + spread),
    minor: Math.sqrt(Math.max(0, middle - spread)),
    angle: spread > 1e-12 ? 0.5 * Math.atan2(2 * b, a - c) : 0,
  };
}

// ------------------------------------------------------------------------------- figure

/**
 * A figure on the page: title, stage (panels), side (controls), numbers, caption.
 *
 * `draw(colours)` is called at most once a frame, and only while the figure is on
 * screen; an error that it throws is shown in the figure instead of a stale picture.
 * `advance(seconds)` is called before it while `playing`.
 */
export class Figure {
  constructor({ name, el, model, draw, advance }) {
    this.node = el.tagName === "FIGURE" ? el : el.appendChild(element("figure"));
    this.draw = draw;
    this.advance = advance;
    this.playing = false;
    this.visible = false;
    this.resized = false;
    this.requested = 0;
    this.last = 0;
    this.stage = element("div", { class: "diffedu-stage" });
    this.side = element("div", { class: "diffedu-side" });
    this.below = element("div", { class: "diffedu-below" });
    this.message = element("p", {
      class: "diffedu-message",
      role: "alert",
      hidden: true,
    });
    this.node.classList.add("diffedu-widget");
    this.node.dataset.widget = name;
    this.node.replaceChildren(
      element("p", { class: "diffedu-title" }, model.get("title")),
      this.message,
      element("div", { class: "diffedu-body" }, this.stage, this.side),
      this.below,
      element("figcaption", {}, model.get("caption")),
    );
    this.stillness = window.matchMedia("(prefers-reduced-motion: reduce)");
    this._watch();
  }

  _watch() {
    const again = () => this.invalidate();
    const resized = new ResizeObserver(() => {
      this.resized = true;
      this.invalidate();
    });
    resized.observe(this.node);
    const seen = new IntersectionObserver((entries) => {
      this.visible = entries.at(-1).isIntersecting;
      this.last = 0;
      this.invalidate();
    });
    seen.observe(this.node);
    const themed = new MutationObserver(again);
    const attributes = {
      attributeFilter: ["data-theme", "data-jp-theme-light", "class", "style"],
    };
    themed.observe(document.documentElement, attributes);
    themed.observe(document.body, attributes);
    const scheme = window.matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", again);
    this.release = () => {
      for (const observer of [resized, seen, themed]) observer.disconnect();
      scheme.removeEventListener("change", again);
      cancelAnimationFrame(this.requested);
      this.visible = false;
    };
  }

  /** Asks for one frame; the first, and one at a new size, wherever the figure is. */
  invalidate() {
    const fits = this.node.dataset.state === "live" && !this.resized;
    if ((this.visible || !fits) && !this.requested)
      this.requested = requestAnimationFrame((now) => this._frame(now));
  }

  _frame(now) {
    this.requested = 0;
    this.resized = false;
    const seconds = this.last ? Math.min(0.1, (now - this.last) / 1000) : 0;
    this.last = this.playing ? now : 0;
    try {
      if (this.playing) this._advance(seconds);
      const dark = isDark(this.node);
      this.node.dataset.colours = dark ? "dark" : "light";
      this.draw({ ...(dark ? DARK : LIGHT), components: COMPONENTS });
      this.fail(null);
    } catch (error) {
      this.fail(error);
    }
    if (this.playing) this.invalidate();
  }

  /** Smooth motion, or two jumps a second for readers who prefer less of it. */
  _advance(seconds) {
    if (!this.stillness.matches) return this.advance(seconds);
    this.waited = (this.waited ?? 0) + seconds;
    if (this.waited < 0.5) return undefined;
    this.waited = 0;
    return this.advance(0.5);
  }

  /** Shows why nothing can be drawn; null when all is well. */
  fail(error) {
    this.node.classList.toggle("is-broken", error !== null);
    const state = error === null ? "live" : "error";
    if (state === "live" && this.node.dataset.state !== "live")
      performance.mark("diffedu-live"); // in the browser's own timeline
    this.node.dataset.state = state;
    const text = error === null ? "" : `This figure cannot be drawn: ${error.message}.`;
    this.message.hidden = error === null;
    if (this.message.textContent !== text) this.message.textContent = text;
  }
}

/** Wires the model's traits to handlers; returns what undoes it. */
export function follow(model, names, handler) {
  for (const name of names) model.on(`change:${name}`, handler);
  return () => {
    for (const name of names) model.off(`change:${name}`, handler);
  };
}

/** Sets several traits and tells the kernel, where there is one. */
export function assign(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}
