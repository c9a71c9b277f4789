// What a panel shows: lines or areas over time, bars, or one figure with its course. Whatever is drawn is also told in a table.

import { h, svg } from "./dom.js";
import { clock, shown, ticks } from "./units.js";

const LEAST_WIDTH = 260, HEIGHT = 200, LEFT = 58, RIGHT = 8, TOP = 8, BOTTOM = 22;
const COLOURS = 8;

/** Lines over time, or areas on top of each other. */
export function lines(panel, found, span, room) {
  const width = Math.max(LEAST_WIDTH, room);
  const { unit, max, custom } = panel.fieldConfig.defaults;
  const stacked = custom.stacking.mode === "normal" && found.length > 1;
  const shapes = stacked ? stack(found) : found.map((each) => ({ ...each, floor: null }));
  const highest = Math.max(0, ...shapes.flatMap((each) => each.points.map(([, value]) => value)));
  const marks = ticks(max ?? highest);
  const top = marks.at(-1);
  const x = (at) => LEFT + ((at - span.start) / span.seconds) * (width - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, hidden: true });
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, class: "plot", role: "img", tabindex: 0, "aria-label": `${panel.title}: ${told(found, unit)}` },
    marks.map((mark) => [
      svg("line", { class: "gridline", x1: LEFT, x2: width - RIGHT, y1: y(mark), y2: y(mark) }),
      svg("text", { x: LEFT - 6, y: y(mark) + 4, class: "mark right" }, shown(mark, unit)),
    ]),
    (width < 400 ? [0, 1] : [0, 1 / 3, 2 / 3, 1]).map((share) => {
      const when = span.start + share * span.seconds, place = { 0: "left", 1: "right" }[share] || "middle";
      return svg("text", { x: x(when), y: HEIGHT - 5, class: `mark ${place}` }, clock(when, span.seconds < 600));
    }),
    shapes.map((each, at) => [
      each.floor && svg("path", { class: `area c${at % COLOURS}`, d: area(each, x, y, span.step) }),
      svg("path", { class: `line c${at % COLOURS} ${at >= COLOURS ? "dashed" : ""}`, d: path(each.points, x, y, span.step) }),
    ]),
    cursor);
  const tip = h("div", { class: "tip", hidden: true });
  const frame = h("div", { class: "frame" }, drawing, tip);
  follow(drawing, cursor, tip, { found, span, unit, x, width });
  return [frame, legend(found, unit)];
}

/** Each series with those before it below. */
function stack(found) {
  const below = new Map();
  return found.map((each) => {
    const floor = each.points.map(([at]) => [at, below.get(at) || 0]);
    const points = each.points.map(([at, value]) => [at, value + (below.get(at) || 0)]);
    for (const [at, value] of points) below.set(at, value);
    return { ...each, points, floor };
  });
}

/** A line that is broken where nothing is known. */
function path(points, x, y, step) {
  let last = null;
  return points.map(([at, value]) => {
    const move = last === null || at - last > 1.5 * step;
    last = at;
    const here = `${x(at).toFixed(1)},${y(value).toFixed(1)}`;
    return move ? `M${here}h.1L${here}` : `L${here}`;
  }).join("");
}

function area(each, x, y, step) {
  const up = path(each.points, x, y, Infinity), down = path([...each.floor].reverse(), x, y, Infinity);
  return step && each.points.length > 1 ? `${up}L${down.slice(1).replace(/h\.1L[^L]*/, "")}Z` : "";
}

/** Tell what was at the time that is pointed at, or that the arrow keys have come to. */
function follow(drawing, cursor, tip, { found, span, unit, x, width }) {
  const times = [...new Set(found.flatMap((each) => each.points.map(([at]) => at)))].sort((a, b) => a - b);
  let at = times.length - 1;
  const point = (number) => {
    at = Math.max(0, Math.min(times.length - 1, number));
    const when = times[at];
    if (when === undefined) return;
    const here = found.map((each, number) => ({ number, name: each.name, value: each.points.find(([time]) => time === when)?.[1] }))
      .filter((each) => each.value !== undefined).sort((a, b) => b.value - a.value).slice(0, 12);
    cursor.setAttribute("x1", x(when));
    cursor.setAttribute("x2", x(when));
    cursor.removeAttribute("hidden");
    tip.replaceChildren(h("strong", {}, clock(when, true)), ...here.map((each) => h("div", {}, swatch(each.number), h("span", {}, each.name || "value"), h("b", {}, shown(each.value, unit)))));
    const share = x(when) / width;
    tip.style.setProperty("left", share < 0.5 ? `${100 * share + 2}%` : "auto");
    tip.style.setProperty("right", share < 0.5 ? "auto" : `${100 * (1 - share) + 2}%`);
    tip.hidden = false;
  };
  const leave = () => { tip.hidden = true; cursor.setAttribute("hidden", ""); };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const when = span.start + (((event.clientX - box.left) / box.width) * width - LEFT) / (width - LEFT - RIGHT) * span.seconds;
    point(times.reduce((best, time, number) => (Math.abs(time - when) < Math.abs(times[best] - when) ? number : best), 0));
  });
  drawing.addEventListener("pointerleave", leave);
  drawing.addEventListener("blur", leave);
  drawing.addEventListener("focus", () => { if (drawing.matches(":focus-visible")) point(at); });
  drawing.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (by !== undefined) { event.preventDefault(); point(at + by); }
    if (event.key === "Escape") leave();
  });
}

function swatch(number) {
  return h("i", { class: `swatch c${number % COLOURS} ${number >= COLOURS ? "dashed" : ""}`, "aria-hidden": "true" });
}

/** Names, and what each is now. A single series without a name needs none. */
function legend(found, unit) {
  if (found.length === 1 && !found[0].name) return null;
  const head = h("tr", {}, ["series", "now", "least", "most"].map((name) => h("th", { scope: "col" }, name)));
  const rows = found.map((each, number) => {
    const values = each.points.map(([, value]) => value);
    const cells = [values.at(-1), Math.min(...values), Math.max(...values)];
    return h("tr", {}, h("th", { scope: "row" }, swatch(number), each.name), cells.map((value) => h("td", { class: "number" }, shown(value, unit))));
  });
  return h("div", { class: "key", tabindex: 0, role: "group", "aria-label": "Series" }, h("table", {}, h("thead", {}, head), h("tbody", {}, rows)));
}

/** One sentence for who cannot see the drawing. */
function told(found, unit) {
  return found.slice(0, 8).map((each) => `${each.name || "now"} ${shown(each.points.at(-1)[1], unit)}`).join(", ");
}

/** Bars beside each other's names. */
export function bars(panel, found) {
  const { unit, max } = panel.fieldConfig.defaults;
  const top = max ?? Math.max(...found.map((each) => each.points[0][1]), 1e-9);
  return h("table", { class: "bars" }, h("tbody", {}, found.map((each) => {
    const value = each.points[0][1];
    const filling = h("div", { style: { width: `${Math.min(100, (100 * value) / top)}%` } });
    return h("tr", {}, h("th", { scope: "row" }, each.name), h("td", {}, h("div", { class: "meter" }, filling)), h("td", { class: "number" }, shown(value, unit)));
  })));
}

/** One figure, in the tone of the threshold that it has come to, over its course. */
export function figure(panel, found, span) {
  const { unit, thresholds } = panel.fieldConfig.defaults;
  const points = found[0]?.points || [];
  if (!points.length) return h("strong", { class: "quiet" }, "–");
  const value = points.at(-1)[1];
  const over = (thresholds?.steps || []).filter((step) => step.value !== null && value >= step.value).at(-1);
  const tone = { orange: "fair", red: "bad" }[over?.color] || "";
  const most = Math.max(...points.map(([, each]) => each)) || 1;
  const x = (at) => ((at - span.start) / span.seconds) * 100, y = (each) => 23 - (each / most) * 22;
  return [
    h("strong", { class: tone }, shown(value, unit), tone && h("span", { class: "unseen" }, tone === "bad" ? " far too much" : " too much")),
    svg("svg", { viewBox: "0 0 100 24", class: "spark", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("path", { class: "line c0", d: path(points, x, y, span.step) })),
  ];
}
