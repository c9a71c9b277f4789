// The dashboard as a page: its panels, in its order, asked anew every few seconds.

import { bars, figure, lines } from "./charts.js";
import { h, say, show } from "./dom.js";
import { alerts, labelValues, scrapeInterval, series, window_ } from "./prometheus.js";

const RANGES = { "5 minutes": 300, "15 minutes": 900, "1 hour": 3600, "6 hours": 21600, "1 day": 86400, "7 days": 604800 };
const EVERY = 5000;

const main = document.getElementById("main");
const status = document.getElementById("status");
const state = { range: 300, chosen: { namespace: "", decision: "", model: "" }, cards: [], asking: false };

/** A select with a name beside it. */
function choice(name, options, value, chosen) {
  const select = h("select", { onchange: () => { chosen(select.value); refresh(); } },
    options.map(([text, each]) => h("option", { value: each, selected: String(each) === value }, text)));
  return h("label", { class: "field" }, h("span", {}, name), select);
}

/** One panel, empty until it has been asked for. */
function card(panel) {
  const body = h("div", { class: "body" }, h("p", { class: "quiet" }, "…"));
  const small = panel.type === "stat";
  const about = panel.description && h("small", { class: "about" }, panel.description);
  const element = small
    ? h("section", { class: "tile figure", "aria-label": panel.title, title: panel.description }, h("h3", {}, panel.title), body)
    : h("section", { class: `card panel w${panel.gridPos.w}`, "aria-label": panel.title }, h("h3", {}, panel.title), about, body);
  state.cards.push({ panel, body, element });
  return element;
}

const DRAWN = { timeseries: lines, bargauge: bars, stat: figure };

/** Ask for one panel, and draw it; say so if nothing is known, or Prometheus will not answer. */
async function draw({ panel, body }, span) {
  if (body.contains(document.activeElement) || body.matches(":hover")) return; // somebody reads it
  try {
    const found = await series(panel, span, state.chosen);
    const empty = found.length === 0 && panel.type !== "stat";
    show(body, empty ? h("p", { class: "nothing" }, "Nothing yet") : DRAWN[panel.type](panel, found, span, body.clientWidth));
  } catch (error) {
    show(body, h("p", { class: "alarm" }, error.message));
  }
}

/** Alerts that fire, with what to do. */
async function drawAlerts(place) {
  const found = (await alerts()).filter((each) => each.labels.alertname.startsWith("Looper"));
  const firing = found.filter((each) => each.state === "firing");
  place.hidden = found.length === 0;
  show(place, h("section", { class: "card", "aria-label": "What to do" },
    h("h2", {}, `Alerts: ${firing.length} of ${found.length} fire`),
    h("ul", { class: "alerts plain" }, found.map((each) => h("li", {},
      h("span", { class: `badge ${each.state === "firing" ? "bad" : "fair"}` }, each.state),
      h("strong", {}, each.labels.alertname), " ", each.annotations.summary,
      h("small", {}, each.annotations.action))))));
}

async function refresh() {
  if (state.asking) { state.again = true; return; }
  state.asking = true;
  const span = window_(state.range, state.scrape);
  try {
    await drawAlerts(state.alerts);
    for (const each of state.choosers) await each.update();
    for (const each of state.cards.filter(inSight)) await draw(each, span);
    status.replaceChildren(live(true), theme());
  } catch (error) {
    status.replaceChildren(live(false), theme());
  }
  state.asking = false;
  if (state.again) { state.again = false; await refresh(); }
}

/** Whether a panel can be seen, or soon. */
function inSight({ element }) {
  const box = element.getBoundingClientRect();
  return box.bottom > -300 && box.top < innerHeight + 300;
}

function live(well) {
  return h("span", { class: well ? "state" : "state bad" }, h("i", { class: well ? "dot beat" : "dot" }), well ? "live" : "Prometheus does not answer");
}

/** The button that goes from the machine's theme to light, dark, and back. */
function theme() {
  const order = ["auto", "light", "dark"], signs = { auto: "◐", light: "☀", dark: "☾" };
  const now = document.documentElement.dataset.theme || "auto", next = order[(order.indexOf(now) + 1) % 3];
  const change = () => {
    localStorage.setItem("theme", next);
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    const again = theme();
    button.replaceWith(again);
    again.focus();
    say(`Theme: ${next}`);
  };
  const button = h("button", { class: "theme", type: "button", "aria-label": `Theme: ${now}. Change to ${next}`, title: `Theme: ${now}`, onclick: change }, signs[now]);
  return button;
}

/** The rows of the dashboard: a heading, and what belongs to it. */
function rows(panels) {
  const found = [];
  for (const panel of panels) panel.type === "row" ? found.push({ title: panel.title, panels: [] }) : found.at(-1).panels.push(panel);
  return found;
}

/** A choice among the values that a label has had so far; none as long as there are none. */
function chooser(name, metric, label) {
  const element = choice(name, [["all", ""]], "", (value) => { state.chosen[label] = value; });
  const select = element.querySelector("select");
  element.hidden = true;
  const update = async () => {
    const known = [...select.options].map((each) => each.value);
    const fresh = (await labelValues(metric, label)).filter((each) => !known.includes(each));
    select.append(...fresh.map((each) => h("option", { value: each }, each)));
    element.hidden = select.options.length === 1;
  };
  return { element, update };
}

async function start() {
  const dashboard = await (await fetch("dashboard.json")).json();
  state.scrape = await scrapeInterval();
  state.alerts = h("div", {});
  const requests = "envoy_looper_requests_total", calls = "envoy_looper_egress_calls_total";
  state.choosers = [
    chooser("Namespace", requests, "namespace"), chooser("Decision", requests, "decision"), chooser("Model", calls, "model"),
  ];
  const head = h("div", { class: "filters card" },
    choice("Time", Object.entries(RANGES), String(state.range), (value) => { state.range = Number(value); }),
    state.choosers.map((each) => each.element));
  show(main, h("h1", {}, dashboard.title), head, state.alerts, rows(dashboard.panels).map((row) => {
    const kind = row.panels.every((each) => each.type === "stat") ? "tiles" : "panels";
    return h("section", { class: "group", "aria-label": row.title }, h("h2", {}, row.title), h("div", { class: kind }, row.panels.map(card)));
  }));
  await refresh();
  setInterval(refresh, EVERY);
  let soon = 0;
  for (const event of ["scroll", "resize"]) {
    addEventListener(event, () => { clearTimeout(soon); soon = setTimeout(refresh, 150); }, { passive: true });
  }
}

start().catch((error) => show(main, h("p", { class: "card alarm" }, error.message)));
