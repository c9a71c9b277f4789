// A workflow's plan: steps from left to right, each behind those that it needs, and how its agents fare.

import { h, svg } from "/console/dom.js";
import { badge, scrolling, section, table } from "/console/parts.js";

const WIDTH = 172, HEIGHT = 58, GAP = 56, BETWEEN = 18;

export function planSection(record) {
  if (!record.plan?.length) return null;
  const prompts = record.plan.filter((step) => step.prompt);
  return section("Plan",
    scrolling("The plan's steps", drawing(record)),
    agents(record),
    prompts.length > 0 && h("details", { "data-name": "prompts" }, h("summary", {}, "What the steps were told"),
      prompts.map((step) => h("div", {}, h("h3", {}, step.step), h("pre", { class: "said", tabindex: "0" }, step.prompt)))));
}

function drawing(record) {
  const places = laidOut(record.plan);
  const columns = Math.max(...[...places.values()].map((place) => place.column)) + 1;
  const rows = Math.max(...[...places.values()].map((place) => place.row)) + 1;
  const width = columns * (WIDTH + GAP) - GAP + 4, height = rows * (HEIGHT + BETWEEN) - BETWEEN + 4;
  const told = record.plan.map((step) => `${step.step} (${step.role}: ${step.models.join(", ")})${step.needs.length ? ` needs ${step.needs.join(", ")}` : ""}`).join("; ");
  return svg("svg", { class: "plan", width, height, viewBox: `-2 -2 ${width} ${height}`, role: "img", "aria-label": told },
    record.plan.flatMap((step) => step.needs.filter((need) => places.has(need)).map((need) => edge(places.get(need), places.get(step.step)))),
    record.plan.map((step) => node(step, places.get(step.step), record)));
}

/** Each step one column to the right of the last that it needs. */
function laidOut(plan) {
  const places = new Map();
  const filled = [];
  for (const step of plan) {
    const before = step.needs.map((need) => places.get(need)?.column ?? -1);
    const column = Math.max(-1, ...before) + 1;
    filled[column] = (filled[column] ?? -1) + 1;
    places.set(step.step, { column, row: filled[column] });
  }
  return places;
}

function corner({ column, row }) {
  return [column * (WIDTH + GAP), row * (HEIGHT + BETWEEN)];
}

function edge(from, to) {
  const [x, y] = corner(from), [u, v] = corner(to);
  const x1 = x + WIDTH, y1 = y + HEIGHT / 2, y2 = v + HEIGHT / 2, middle = (x1 + u) / 2;
  return svg("path", { class: "edge", d: `M${x1},${y1} C${middle},${y1} ${middle},${y2} ${u},${y2}` });
}

const FARES = { done: "good", failed: "bad", waiting: "fair", working: "busy" };

function node(step, place, record) {
  const [x, y] = corner(place);
  const states = (record.agents ?? []).filter((agent) => agent.agent.split(".")[0] === step.step).map((agent) => agent.state);
  const state = step.skipped ? "calm" : FARES[["failed", "working", "waiting", "done"].find((each) => states.includes(each))] ?? "calm";
  const line = (dy, text, kind) => svg("text", { x: 14, y: dy, class: kind }, cut(text));
  return svg("g", { class: `node ${state}`, transform: `translate(${x},${y})` },
    svg("rect", { width: WIDTH, height: HEIGHT, rx: 9 }), svg("rect", { class: "edgemark", width: 4, height: HEIGHT - 18, x: 0, y: 9, rx: 2 }),
    line(24, step.step, "title"), line(43, `${step.role} · ${step.models.join(", ")}`, "below"));
}

function cut(text) {
  return text.length > 26 ? `${text.slice(0, 25)}…` : text;
}

function agents(record) {
  if (!record.agents?.length) return null;
  return table("Agents", ["Agent", "Model", "State", "Turns", "Verdict"], record.agents.map((agent) => h("tr", {},
    h("th", { scope: "row" }, agent.agent), h("td", {}, agent.model), h("td", {}, badge(agent.state)),
    h("td", { class: "number" }, agent.turns), h("td", {}, [agent.verdict, agent.revised && "revised"].filter(Boolean).join(", ")))));
}
