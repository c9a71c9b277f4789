// Why a request goes where it goes: what was read, what that came to, and which rule was the first to hold.

import { get, post } from "/console/api.js";
import { h, show } from "/console/dom.js";
import { count, number } from "/console/format.js";
import { chip, empty, mark, section } from "/console/parts.js";
import { listen, store } from "/console/store.js";

const typed = { text: "", model: "" };

export function whyPage(place, run) {
  const found = h("div", { class: "found", "aria-live": "polite" });
  const text = h("textarea", { id: "why-text", rows: "4", value: typed.text, placeholder: "What a user would write", required: true, oninput: () => (typed.text = text.value) });
  const model = h("select", { id: "why-model", onchange: () => (typed.model = model.value) });
  const names = () => {
    const before = model.value || typed.model;
    show(model, (store.about?.names ?? []).map((name) => h("option", { value: name }, name)));
    if (store.about?.names.includes(before)) model.value = before;
  };
  names();
  const ask = async (event) => {
    event.preventDefault();
    const body = { model: model.value, messages: [{ role: "user", content: text.value }] };
    try {
      const answer = await post("/explain?live=false", body);
      show(found, section("The decision", explanation(await answer.json())));
    } catch (error) {
      show(found, empty(error.message));
    }
  };
  show(place,
    h("div", { class: "head" }, h("h1", {}, "Why")),
    h("form", { class: "card", onsubmit: ask },
      h("p", { class: "quiet" }, "See how a text would be decided. Nobody is asked for it: a signal that asks a model stays unknown."),
      h("div", { class: "ask" },
        h("label", { class: "field grow", for: "why-text" }, h("span", {}, "Text"), text),
        h("label", { class: "field", for: "why-model" }, h("span", {}, "Public name"), model)),
      h("button", { class: "primary", type: "submit" }, "Decide")),
    found);
  if (run) ofRun(run, found, text);
  return listen((kind) => kind === "connection" && names());
}

/** The decision of a run; where it is known what its user wrote, that can be changed and decided again. */
async function ofRun(run, place, text) {
  try {
    const record = await get(`/runs/${run}`);
    const said = (record.messages ?? []).filter((message) => message.role === "user").map((message) => content(message.content));
    if (said.length) text.value = typed.text = said.join("\n");
    show(place, section("The decision",
      h("p", { class: "quiet" }, "Of run ", h("a", { href: `#/runs/${run}` }, run), "."),
      record.why ? explanation(record.why) : h("p", { class: "quiet" }, "How this run was decided is not kept: it goes on with an earlier one.")));
  } catch (error) {
    show(place, empty(error.status === 404 ? "This run is not in memory any more." : error.message));
  }
}

/** What a message says, as text, whatever it is. */
export function content(said) {
  if (typeof said === "string") return said;
  if (Array.isArray(said)) return said.map((part) => (typeof part?.text === "string" ? part.text : JSON.stringify(part))).join("\n");
  return said === null || said === undefined ? "" : JSON.stringify(said);
}

/** An explanation, of a run or of a text. */
export function explanation(why) {
  return h("div", { class: "explanation" },
    action(why),
    part("Signals", why.signals, signal), part("Partitions", why.partitions, partition), part("Scores", why.scores, score),
    part("Decisions, in the order in which they are tried", why.decisions, decision));
}

function part(title, all, one) {
  return all?.length > 0 && h("div", { class: "part" }, h("h3", {}, title), h("ul", { class: "plain" }, all.map((each) => h("li", {}, one(each)))));
}

function action(why) {
  const does = why.action;
  const most = [does.calls !== null && `${count(does.calls)} calls`, does.tokens !== null && `${count(does.tokens)} tokens`, does.cost_usd !== null && `$${does.cost_usd}`].filter(Boolean);
  return h("p", { class: "action" }, h("span", { "aria-hidden": "true" }, "→ "), h("strong", {}, does.decision), ` ${does.algorithm}`,
    does.status !== null ? `, answers ${does.status}: ${does.message}` : ` ${does.routed ? "routed to" : "of"} ${does.models.join(", ")}`,
    h("small", {}, `recipe ${why.recipe}, about ${count(why.prompt_tokens)} tokens`, most.length ? `; at the most ${most.join(", ")}` : ""));
}

function signal(found) {
  const told = [
    found.match === null && "no reading",
    found.score !== null && found.score !== Number(found.match) && `score ${number(found.score)}`,
    found.value !== null && `value ${number(found.value)}`,
    ...Object.entries(found.labels ?? {}).map(([label, score]) => `${label} ${number(score)}`),
    found.milliseconds !== null && found.milliseconds !== undefined && `${number(found.milliseconds)} ms`,
  ].filter(Boolean);
  return [mark(found.match), h("strong", {}, found.name), (found.hits ?? []).map((hit) => chip(hit)), told.length > 0 && h("small", {}, told.join(" · "))];
}

function partition(found) {
  return [h("strong", {}, found.name), " is ", chip(found.winner, "good"), found.unsure && chip("the default, for want of a reading", "fair"),
    h("ul", { class: "plain members" }, Object.entries(found.members).map(([name, held]) =>
      h("li", {}, mark(held), name, found.shares && h("small", {}, `share ${number(found.shares[name])}`))))];
}

function score(found) {
  const bands = Object.entries(found.bands);
  const most = Math.max(bands.at(-1)?.[1] ?? 1, found.value ?? 0), least = Math.min(0, found.value ?? 0);
  const place = (value) => `${(((value - least) / (most - least || 1)) * 100).toFixed(2)}%`;
  let from = least;
  const parts = bands.map(([name, to]) => {
    const piece = h("div", { class: `band ${name === found.band ? "here" : ""}`, style: { left: place(from), right: `calc(100% - ${place(to)})` } }, h("span", {}, name));
    from = to;
    return piece;
  });
  const near = [found.to_lower !== null && `${number(found.to_lower)} above the band below`, found.to_upper !== null && `${number(found.to_upper)} below the next`].filter(Boolean);
  const told = found.value === null ? "unknown" : number(found.value);
  return h("div", { class: "score" },
    h("div", { class: "named" }, h("strong", {}, found.name), `= ${told}`, chip(found.band ?? "no band", found.band ? "good" : "fair"), near.length > 0 && h("small", {}, near.join(", "))),
    h("div", { class: "bands", role: "img", "aria-label": `${found.name}: ${told}; bands ${bands.map(([name, to]) => `${name} to ${number(to)}`).join(", ")}` },
      parts, found.value !== null && h("div", { class: "needle", style: { left: place(found.value) } })),
    h("ul", { class: "plain members" }, Object.entries(found.contributions).map(([name, added]) =>
      h("li", {}, h("span", { class: "figure" }, added === null ? "unknown" : `${added >= 0 ? "+" : ""}${number(added)}`), name))));
}

const VERDICTS = { answers: "good", watches: "busy", unknown: "fair" };

function decision(found) {
  const more = [found.priority && `priority ${found.priority}`, found.percent !== 100 && `${number(found.percent)} percent`, found.shadow && "shadow"].filter(Boolean);
  return h("div", { class: `tried ${found.verdict === "answers" ? "answers" : ""}` },
    h("div", {}, h("strong", {}, found.name), chip(found.verdict, VERDICTS[found.verdict] ?? ""), more.length > 0 && h("small", {}, more.join(" · "))),
    found.when ? h("ul", { class: "plain rule" }, rule(found.when)) : h("p", { class: "quiet" }, "always"));
}

function rule(found) {
  const joined = { all: "all of", any: "any of", not: "not" };
  return h("li", {}, mark(found.held), found.parts.length ? joined[found.rule] ?? found.rule : h("code", {}, found.rule),
    found.parts.length > 0 && h("ul", { class: "plain rule" }, found.parts.map(rule)));
}
