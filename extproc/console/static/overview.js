// What the last runs come to, by decision and by model; and which configuration is at work.

import { get } from "/console/api.js";
import { h, show } from "/console/dom.js";
import { clock, count, dollars, percent, plural, seconds } from "/console/format.js";
import { empty, meter, section, table, tile, tone } from "/console/parts.js";
import { listen, store } from "/console/store.js";

const EVERY = 2000;

export function overviewPage(place) {
  const figures = h("div", { class: "stack" });
  const configuration = h("div", {});
  let timer = null, stale = false, closed = false;

  async function read() {
    stale = false;
    timer = setTimeout(() => {
      timer = null;
      if (stale) read();
    }, EVERY);
    try {
      const [seen, load] = await Promise.all([get("/api/overview"), get("/load")]);
      if (!closed) show(figures, drawn(seen, load));
    } catch (error) {
      if (!closed) show(figures, empty(error.message));
    }
  }

  const stop = listen((kind) => {
    if (kind === "configuration") show(configuration, configured());
    else if (timer) stale = true;
    else read();
  });
  show(configuration, configured());
  show(place, h("div", { class: "head" }, h("h1", {}, "Overview")), h("div", { class: "stack" }, figures, configuration));
  read();
  return () => {
    closed = true;
    clearTimeout(timer);
    stop();
  };
}

function drawn(seen, load) {
  if (!seen.runs) return [now(load), empty("No runs yet.", "What they come to appears here.")];
  return [
    h("p", { class: "quiet counted" }, `${plural(seen.runs, "run")} in memory, since ${clock(seen.since)}`),
    sums(seen, load),
    section("Decisions", decisions(seen)),
    section("Models", models(seen)),
  ];
}

function now(load) {
  return h("dl", { class: "tiles" }, tile("Open", count(load.open_runs), load.waiting ? `${count(load.waiting)} waiting` : null));
}

function sums(seen, load) {
  const total = (of) => seen.decisions.reduce((sum, each) => sum + of(each), 0);
  const failed = total((each) => (each.outcomes.failed ?? 0));
  const cost = total((each) => each.cost_microusd * each.runs);
  const saved = seen.decisions.filter((each) => each.savings);
  const alone = saved.reduce((sum, each) => sum + each.savings.alone_microusd, 0);
  const spent = saved.reduce((sum, each) => sum + each.savings.cost_microusd, 0);
  return h("dl", { class: "tiles" },
    tile("Open", count(load.open_runs), load.waiting ? `${count(load.waiting)} waiting` : null),
    tile("Runs", count(seen.runs)),
    tile("Failed", percent(failed / seen.runs, 1)),
    tile("Cost", dollars(cost), `${dollars(cost / seen.runs)} a request`),
    alone > 0 && tile("Against the dearest", difference(spent, alone), `${dollars(spent)} in place of ${dollars(alone)}`));
}

function difference(spent, alone) {
  const part = (alone - spent) / alone;
  return part >= 0 ? `−${percent(part)}` : `+${percent(-part)}`;
}

function decisions(seen) {
  return table("Decisions", ["Decision", "Share", "Outcomes", "p50 / p95", "First token", "Calls", "Cost", "Against the dearest", "Sure"], seen.decisions.map((each) => h("tr", {},
    h("th", { scope: "row" }, each.decision, h("small", {}, `${each.recipe} · ${each.algorithm}`)),
    h("td", {}, h("div", { class: "scored" }, meter(each.share, `${percent(each.share)} of the runs`), h("span", { class: "figure" }, percent(each.share)))),
    h("td", {}, outcomes(each)),
    h("td", { class: "number" }, spread(each.seconds)),
    h("td", { class: "number" }, spread(each.first_token)),
    h("td", { class: "number" }, count(each.calls)),
    h("td", { class: "number" }, dollars(each.cost_microusd)),
    h("td", { class: "number" }, each.savings ? [difference(each.savings.cost_microusd, each.savings.alone_microusd), h("small", {}, `${each.savings.dearest} alone`)] : "–"),
    h("td", {}, each.confidence ? histogram(each.confidence) : "–"))));
}

function spread(found) {
  return found ? `${seconds(found.p50)} / ${seconds(found.p95)}` : "–";
}

function outcomes(each) {
  const entries = Object.entries(each.outcomes).sort((a, b) => b[1] - a[1]);
  return [
    h("div", { class: "stacked", "aria-hidden": "true" }, entries.map(([outcome, runs]) => h("div", { class: tone(outcome), style: { "flex-grow": String(runs) } }))),
    h("small", {}, entries.map(([outcome, runs]) => `${count(runs)} ${outcome}`).join(", ")),
  ];
}

/** How sure teams were, by tenths. */
function histogram(bins) {
  const most = Math.max(...bins);
  const told = bins.map((runs, at) => (runs ? `${plural(runs, "run")} from ${at * 10} to ${at * 10 + 10} %` : null)).filter(Boolean).join("; ");
  return h("div", { class: "histogram", role: "img", "aria-label": told, title: told },
    bins.map((runs) => h("div", { style: { height: `${((runs / most) * 100).toFixed(1)}%` }, class: runs ? "" : "none" })));
}

function models(seen) {
  return table("Models", ["Model", "Calls", "Errors", "p50 / p95", "First token", "Tokens in / out", "Cost"], seen.models.map((each) => h("tr", {},
    h("th", { scope: "row" }, each.model),
    h("td", { class: "number" }, count(each.calls)),
    h("td", { class: "number" }, each.errors ? [h("span", { class: "alarm" }, count(each.errors)), h("small", {}, percent(each.errors / each.calls, 1))] : "0"),
    h("td", { class: "number" }, spread(each.seconds)),
    h("td", { class: "number" }, spread(each.first_token)),
    h("td", { class: "number" }, `${count(each.prompt_tokens)} / ${count(each.completion_tokens)}`),
    h("td", { class: "number" }, dollars(each.cost_microusd)))));
}

function configured() {
  const found = store.configuration;
  if (!found) return section("Configuration", h("p", { class: "quiet" }, "…"));
  const word = (good, yes, no) => h("span", { class: `badge ${good ? "good" : "bad"}` }, good ? yes : no);
  const facts = [
    ["At work", h("code", {}, found.generation), ` since ${clock(found.since)}`],
    ["File", word(found.valid, "valid", "invalid"), found.valid ? "" : " the one before it stays at work"],
    ["Envoy", found.envoy.generation ? [word(!found.envoy.stale, "in step", "stale"), " ", h("code", {}, found.envoy.generation)] : "no request yet"],
    ["Records", store.about ? [store.about.record, `, the last ${count(store.about.keep)} of teams and ${count(store.about.keep_routed)} routed`] : "…"],
    ["Version", store.about?.version ?? "…"],
  ];
  return section("Configuration",
    h("dl", { class: "facts" }, facts.map(([name, ...told]) => h("div", {}, h("dt", {}, name), h("dd", {}, told)))),
    found.problems.length > 0 && h("div", { class: "problems", role: "alert" }, h("h3", {}, plural(found.problems.length, "problem")),
      h("ul", {}, found.problems.map((problem) => h("li", { class: "mono" }, problem)))));
}
