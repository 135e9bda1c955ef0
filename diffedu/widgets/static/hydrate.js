/** Brings the figures of a static page to life: no kernel, no request. */

/** The state that a figure carries, with the interface of anywidget's model. */
class StaticModel {
  constructor(state) {
    this.state = state;
    this.handlers = new Map();
  }

  get(name) {
    return this.state[name];
  }

  set(name, value) {
    if (Object.is(this.state[name], value)) return;
    this.state[name] = value;
    for (const handler of this.handlers.get(`change:${name}`) ?? []) handler();
  }

  on(event, handler) {
    this.handlers.set(event, [...(this.handlers.get(event) ?? []), handler]);
  }

  off(event, handler) {
    this.handlers.set(
      event,
      (this.handlers.get(event) ?? []).filter((h) => h !== handler),
    );
  }

  save_changes() {}
}

function hydrate(figure, widgets) {
  const data = figure.querySelector('script[type="application/json"]');
  if (!data || figure.dataset.state) return;
  try {
    const model = new StaticModel(JSON.parse(data.textContent));
    figure.dataset.state = "hydrating";
    figure.diffedu = model;
    widgets[figure.dataset.widget].render({ model, el: figure });
  } catch (error) {
    figure.dataset.state = "error";
    const message = document.createElement("p");
    message.className = "diffedu-message";
    message.setAttribute("role", "alert");
    message.textContent = `This figure cannot come to life: ${error.message}.`;
    figure.append(message);
  }
}

/** Hydrates every figure of the page, now or once it is parsed. */
export function hydrate_page(widgets) {
  const all = () =>
    document
      .querySelectorAll("figure.diffedu-widget")
      .forEach((f) => hydrate(f, widgets));
  if (document.readyState === "loading")
    document.addEventListener("DOMContentLoaded", all);
  else all();
}
