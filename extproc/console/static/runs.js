// The list of runs: as they happen, filtered, and only as many rows drawn as can be seen.

import { h, show } from "/console/dom.js";
import { clock, count, dollars, percent, plural, seconds } from "/console/format.js";
import { badge, empty } from "/console/parts.js";
import { listen, store } from "/console/store.js";

const COLUMNS = [
  { name: "Outcome", class: "outcome", cell: (line) => [badge(line.outcome ?? "routed"), line.code && h("small", {}, line.code)] },
  { name: "Decision", class: "decision", cell: (line) => [h("a", { href: `#/runs/${line.run}`, tabindex: "-1" }, line.decision), h("small", {}, `${line.recipe} · ${line.algorithm}`)] },
  { name: "Time", class: "time", cell: (line) => clock(line.time) },
  { name: "Took", class: "number", cell: (line) => (line.outcome === "running" ? line.stage ?? "…" : seconds(line.seconds)) },
  { name: "First token", class: "number first", cell: (line) => seconds(line.first_token) },
  { name: "Calls", class: "number calls", cell: (line) => count(line.calls) },
  { name: "Cost", class: "number", cell: (line) => dollars(line.cost_microusd) },
  { name: "Sure", class: "number sure", cell: (line) => (line.confidence_permille === undefined ? "–" : percent(line.confidence_permille / 1000)) },
  { name: "Models", class: "models", cell: (line) => line.models.join(", ") },
];

const AGES = [["", "any time"], ["300", "last 5 minutes"], ["3600", "last hour"], ["86400", "last day"]];
const COSTS = [["", "any cost"], ["100", "over $0.0001"], ["1000", "over $0.001"], ["10000", "over $0.01"], ["100000", "over $0.10"]];
const SPARE = 8;

/** What was chosen stays chosen while the page is open. */
const chosen = { text: "", decision: "", outcome: "", model: "", cost: "", age: "" };

export function runsPage(place) {
  const list = new Rows();
  const counted = h("p", { class: "quiet counted", role: "status" });
  const filters = new Filters(() => refresh(true));
  const pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => setPaused(!paused) }, "Pause");
  let paused = false;
  let pending = false;

  function setPaused(value) {
    paused = value;
    pause.setAttribute("aria-pressed", String(value));
    pause.textContent = value ? "Go on" : "Pause";
    if (!value) refresh(false);
  }

  function refresh(fromTop) {
    pending = false;
    filters.offer();
    const all = [...store.open, ...store.runs];
    const lines = all.filter(wanted());
    list.set(lines, fromTop);
    counted.textContent = lines.length === all.length ? plural(all.length, "run") : `${count(lines.length)} of ${plural(all.length, "run")}`;
  }

  const soon = () => {
    if (!pending && !paused) {
      pending = true;
      requestAnimationFrame(() => pending && refresh(false));
    }
  };
  const stop = listen((kind) => kind !== "configuration" && soon());
  show(place,
    h("div", { class: "head" }, h("h1", {}, "Runs"), counted, pause),
    filters.element,
    list.element);
  refresh(false);
  return () => {
    stop();
    list.close();
  };
}

function wanted() {
  const text = chosen.text.trim().toLowerCase();
  const since = chosen.age ? Date.now() - Number(chosen.age) * 1000 : 0;
  return (line) =>
    (!chosen.decision || `${line.recipe}.${line.decision}` === chosen.decision) &&
    (!chosen.outcome || (line.outcome ?? "routed") === chosen.outcome) &&
    (!chosen.model || line.models.includes(chosen.model)) &&
    (!chosen.cost || (line.cost_microusd ?? 0) > Number(chosen.cost)) &&
    (!since || Date.parse(line.time) >= since) &&
    (!text || [line.run, line.request_id, line.trace_id].some((id) => (id ?? "").toLowerCase().includes(text)));
}

class Filters {
  constructor(changed) {
    this.changed = changed;
    this.selects = {};
    this.known = "";
    const search = h("input", {
      type: "search", id: "find", placeholder: "run or request id", value: chosen.text, autocomplete: "off", spellcheck: "false",
      oninput: (event) => this.choose("text", event.target.value),
    });
    this.element = h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
      h("label", { class: "field grow" }, h("span", {}, "Find"), search),
      this.select("decision", "Decision", [["", "all decisions"]]),
      this.select("outcome", "Outcome", [["", "all outcomes"]]),
      this.select("model", "Model", [["", "all models"]]),
      this.select("cost", "Cost", COSTS),
      this.select("age", "Time", AGES));
  }

  select(name, label, options) {
    const field = h("select", { onchange: (event) => this.choose(name, event.target.value) });
    this.selects[name] = field;
    this.fill(name, options);
    return h("label", { class: "field" }, h("span", {}, label), field);
  }

  fill(name, options) {
    show(this.selects[name], options.map(([value, text]) => h("option", { value }, text)));
    this.selects[name].value = chosen[name];
  }

  choose(name, value) {
    chosen[name] = value;
    this.changed();
  }

  /** Offer what there is to choose from, if that is not what is offered already. */
  offer() {
    const decisions = new Set(), outcomes = new Set(), models = new Set();
    for (const line of [...store.open, ...store.runs]) {
      decisions.add(`${line.recipe}.${line.decision}`);
      outcomes.add(line.outcome ?? "routed");
      for (const model of line.models) models.add(model);
    }
    for (const name of ["decision", "outcome", "model"]) if (chosen[name]) ({ decision: decisions, outcome: outcomes, model: models })[name].add(chosen[name]);
    const known = JSON.stringify([[...decisions].sort(), [...outcomes].sort(), [...models].sort()]);
    if (known === this.known) return;
    this.known = known;
    this.fill("decision", options("all decisions", decisions));
    this.fill("outcome", options("all outcomes", outcomes));
    this.fill("model", options("all models", models));
  }
}

function options(all, values) {
  return [["", all], ...[...values].sort().map((value) => [value, value])];
}

/** Rows of which only those in sight are in the page. Up, Down, Page keys, Home and End move; Enter opens. */
class Rows {
  constructor() {
    this.lines = [];
    this.active = null;
    this.drawn = new Map();
    this.body = h("div", { class: "rows", role: "rowgroup" });
    this.nothing = h("div", {});
    this.grid = h("div", {
      class: "grid", role: "grid", tabindex: "0", "aria-label": "Runs, the newest first",
      onkeydown: (event) => this.key(event), onscroll: () => this.draw(), onfocus: () => this.activate(this.place()),
    },
      h("div", { class: "row heads", role: "row", "aria-rowindex": "1" },
        COLUMNS.map((column) => h("div", { role: "columnheader", class: column.class }, column.name))),
      this.body);
    this.element = h("div", { class: "card list" }, this.grid, this.nothing);
    this.watch = new ResizeObserver(() => this.draw(true));
    this.watch.observe(this.grid);
  }

  close() {
    this.watch.disconnect();
  }

  set(lines, fromTop) {
    // What one reads stays where it is when new runs come in above.
    const top = this.grid.scrollTop;
    const before = this.lines[Math.floor(top / this.height())];
    this.lines = lines;
    this.grid.setAttribute("aria-rowcount", String(lines.length + 1));
    this.grid.hidden = lines.length === 0;
    show(this.nothing, lines.length ? null : nothing());
    this.body.style.setProperty("height", `${lines.length * this.height()}px`);
    if (fromTop) this.grid.scrollTop = 0;
    else if (top > 0 && before) {
      const place = lines.findIndex((line) => line.run === before.run);
      if (place >= 0) this.grid.scrollTop = place * this.height() + (top % this.height());
    }
    if (!lines.some((line) => line.run === this.active)) this.active = null;
    this.draw(true);
  }

  height() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 48;
  }

  draw(anew = false) {
    const height = this.height();
    const first = Math.max(0, Math.floor(this.grid.scrollTop / height) - SPARE);
    const end = Math.min(this.lines.length, Math.ceil((this.grid.scrollTop + this.grid.clientHeight) / height) + SPARE);
    const kept = new Map();
    for (let at = first; at < end; at += 1) {
      const line = this.lines[at];
      const before = this.drawn.get(line.run);
      const same = before && before.line === line;
      const element = same ? before.element : this.row(line);
      if (!same || before.at !== at || anew) {
        element.style.setProperty("transform", `translateY(${at * height}px)`);
        element.setAttribute("aria-rowindex", String(at + 2));
      }
      element.setAttribute("aria-selected", String(line.run === this.active));
      kept.set(line.run, { line, element, at });
    }
    for (const [run, { element }] of this.drawn) if (kept.get(run)?.element !== element) element.remove();
    this.drawn = kept;
    this.order();
    this.grid.setAttribute("aria-activedescendant", this.active && kept.has(this.active) ? `run-${this.active}` : "");
  }

  /** In the page rows stand in the order in which they are seen, for whoever has it read aloud. */
  order() {
    let next = this.body.firstElementChild;
    for (const { element } of this.drawn.values()) {
      if (element === next) next = next.nextElementSibling;
      else this.body.insertBefore(element, next);
    }
  }

  row(line) {
    return h("div", { class: "row", role: "row", id: `run-${line.run}`, onclick: () => this.open(line) },
      COLUMNS.map((column) => h("div", { role: "gridcell", class: column.class }, column.cell(line))));
  }

  open(line) {
    this.active = line.run;
    location.hash = `#/runs/${line.run}`;
  }

  place() {
    return Math.max(0, this.lines.findIndex((line) => line.run === this.active));
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.grid.clientHeight / this.height()) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key === "Enter" && this.lines.length) this.open(this.lines[this.place()]);
    else if (Object.hasOwn(steps, event.key)) this.activate(this.place() + (this.active ? steps[event.key] : 0));
    else return;
    event.preventDefault();
  }

  activate(wanted) {
    if (!this.lines.length) return;
    const at = Math.max(0, Math.min(this.lines.length - 1, wanted));
    this.active = this.lines[at].run;
    const height = this.height();
    const heads = this.grid.firstElementChild.offsetHeight;
    const top = at * height;
    if (top < this.grid.scrollTop) this.grid.scrollTop = top;
    else if (top + height + heads > this.grid.scrollTop + this.grid.clientHeight) this.grid.scrollTop = top + height + heads - this.grid.clientHeight;
    this.draw();
  }
}

function nothing() {
  if (!store.connected) return empty("Not connected yet.");
  if (store.runs.length + store.open.length) return empty("No run is like that.", "Change what you look for.");
  if (store.about?.record === "none") return empty("No runs are kept.", ["The configuration says ", h("code", {}, "trace: {record: none}"), "."]);
  return empty("No runs yet.", "Ask a public name by way of Envoy, and they appear here.");
}
