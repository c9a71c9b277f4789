// Stages and calls on one axis of time: what waited, when the first token came, when and why it ended.

import { h, unseen } from "/console/dom.js";
import { count, dollars, number, seconds } from "/console/format.js";
import { badge, chip, scrolling, tone } from "/console/parts.js";

const STEPS = [1, 2, 5];

/** Calls whose facts are open: they stay so while their run is drawn again and again. */
const opened = new Set();

export function waterfall(record) {
  const calls = record.calls ?? [];
  const end = Math.max(record.seconds ?? 0, ...calls.map((call) => call.at + (call.seconds ?? 0)), 0.001);
  const scale = (at) => `${((at / end) * 100).toFixed(3)}%`;
  const rows = [];
  const stages = [...(record.stages ?? [])];
  calls.map((call, number) => ({ call, number })).sort((a, b) => a.call.at - b.call.at).forEach(({ call, number }) => {
    while (stages.length && stages[0].at <= call.at + 0.0005) rows.push(stageRow(stages.shift(), scale));
    rows.push(...callRow(call, number, `${record.run}/${number}`, end, scale));
  });
  for (const stage of stages) rows.push(stageRow(stage, scale));
  return scrolling("Timeline of calls", h("table", { class: "waterfall" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Call"), h("th", { scope: "col", class: "axis" }, axis(end, scale)), h("th", { scope: "col" }, "End"))),
    h("tbody", {}, rows)), legend());
}

function axis(end, scale) {
  const rough = end / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = STEPS.map((each) => each * power).find((each) => each >= rough) ?? 10 * power;
  const ticks = [];
  for (let at = 0; at <= end * 0.97; at += step) ticks.push(h("span", { class: "tick", style: { left: scale(at) } }, at === 0 ? "0" : seconds(at)));
  return [unseen("Time"), h("div", { class: "ticks", "aria-hidden": "true" }, ticks)];
}

function stageRow(stage, scale) {
  return h("tr", { class: "stage" },
    h("th", { scope: "row" }, stage.stage),
    h("td", { class: "track" }, h("div", { class: "stagemark", style: { left: scale(stage.at) } })),
    h("td", { class: "quiet" }, `from ${seconds(stage.at)}`));
}

function callRow(call, at, key, end, scale) {
  const ended = call.at + (call.seconds ?? Math.max(0, end - call.at));
  const first = call.first_token === undefined ? null : call.at + call.first_token;
  const waited = call.queued === undefined ? null : Math.max(0, call.at - call.queued);
  const details = h("tr", { class: "more", hidden: !opened.has(key) }, h("td", { colspan: "3" }, facts(call)));
  const open = h("button", {
    type: "button", class: "call", "aria-expanded": String(opened.has(key)), "data-key": key,
    onclick: () => {
      details.hidden = !details.hidden;
      if (details.hidden) opened.delete(key);
      else opened.add(key);
      open.setAttribute("aria-expanded", String(!details.hidden));
    },
  }, h("span", { class: "mono quiet" }, `#${at}`), h("span", { class: "name" }, call.model), h("small", {}, call.agent ?? call.role));
  const bar = (from, to, kind) => h("div", { class: `bar ${kind}`, style: { left: scale(from), width: scale(Math.max(to - from, end * 0.003)) } });
  const row = h("tr", {},
    h("th", { scope: "row" }, open),
    h("td", { class: "track" },
      unseen(`from ${seconds(call.at)} to ${seconds(ended)}`, first === null ? "" : `, first token at ${seconds(first)}`),
      waited === null ? null : bar(waited, call.at, "waited"),
      bar(call.at, first ?? ended, `${first === null ? "" : "before"} ${tone(call.state)}`),
      first === null ? null : bar(first, ended, tone(call.state)),
      first === null ? null : h("div", { class: "firsttoken", style: { left: scale(first) }, title: `first token ${seconds(call.first_token)}` })),
    h("td", { class: "end" }, ending(call)));
  return [row, details];
}

const WHY_MADE = { hedge: "hedge", substitute: "substitute" };

function ending(call) {
  return [
    badge(call.state),
    call.stands_in && chip(WHY_MADE[call.stands_in] ?? call.stands_in, "busy"),
    call.score !== undefined && chip(`score ${number(call.score)}`),
    h("small", {}, [seconds(call.seconds), reason(call), call.status, call.verdict].filter((each) => each !== undefined).join(" · ")),
  ];
}

const LIMITS = ["calls", "tokens", "cost_usd", "process"];

function reason(call) {
  const short = call.state === "not_started" && LIMITS.includes(call.reason);
  return short ? `no room in the budget: ${call.reason}` : call.reason;
}

const SAYS = {
  hedge: "made a second time, because the first call took long",
  substitute: "made in place of a call that failed",
};

function facts(call) {
  const usage = call.usage;
  const told = [
    ["Why", SAYS[call.stands_in]],
    ["Began", `${seconds(call.at)}${call.queued === undefined ? "" : `, after it had waited ${seconds(call.queued)} for its turn`}`],
    ["Took", call.seconds !== undefined && seconds(call.seconds)],
    ["First token", call.first_token !== undefined && `${seconds(call.first_token)} after it began`],
    ["Tokens", usage && `${count(usage.prompt_tokens)} in, ${count(usage.completion_tokens)} out${call.estimated ? ", estimated" : ""}`],
    ["Cost", call.cost_microusd !== undefined && dollars(call.cost_microusd)],
    ["Verdict", call.verdict],
    ["Measured", call.measured && Object.entries(call.measured).map(([method, score]) => `${method} ${number(score)}`).join(", ")],
    ["Left out", call.dropped && call.dropped.join(", ")],
    ["Counts as", call.answer],
    ["Span", call.span],
  ].filter(([, value]) => value !== undefined && value !== false && value !== null);
  return [
    h("dl", { class: "facts" }, told.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    call.text && h("pre", { class: "said", tabindex: "0" }, call.text),
  ];
}

function legend() {
  const entry = (kind, text) => h("span", {}, h("i", { class: `swatch ${kind}`, "aria-hidden": "true" }), text);
  return h("p", { class: "legend quiet" }, entry("waited", "waited for its turn"), entry("before good", "until the first token"),
    entry("good", "answered"), entry("calm", "cancelled"), entry("bad", "failed"));
}
