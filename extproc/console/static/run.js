// One run: what it was asked, what it did on one axis of time, what it found, and what became of it.

import { get } from "/console/api.js";
import { h, show } from "/console/dom.js";
import { answersSection, checksSection, judgeSection, votesSection } from "/console/findings.js";
import { clock, count, dollars, percent, seconds } from "/console/format.js";
import { badge, copyable, empty, meter, section, tile } from "/console/parts.js";
import { planSection } from "/console/plan.js";
import { listen, store } from "/console/store.js";
import { waterfall } from "/console/waterfall.js";
import { content, explanation } from "/console/why.js";

export function runPage(place, id) {
  const live = new LiveRun(id, (record) => keepingFocus(place, () => show(place, whole(record))), (error) =>
    show(place, back(), h("h1", {}, "Run"), empty(error.status === 404 ? "This run is not in memory any more." : error.message)));
  return () => live.close();
}

/** What has the focus, and is drawn again, has it again. */
function keepingFocus(place, draw) {
  const key = document.activeElement?.dataset?.key;
  draw();
  if (key) [...place.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key)?.focus({ preventScroll: true });
}

/** A run that is read again whenever it has come forward. */
export class LiveRun {
  constructor(id, shown, failed) {
    this.id = id;
    this.shown = shown;
    this.failed = failed;
    this.over = false;
    this.reading = false;
    this.stop = listen((kind, line) => {
      const ours = kind === "open" || kind === "connection" || (kind === "run" && line.run === id);
      if (ours && !this.over) this.read();
    });
    this.read();
  }

  async read() {
    if (this.reading) return;
    this.reading = true;
    try {
      const record = await get(`/runs/${this.id}`);
      if (this.closed) return;
      this.over = record.outcome !== "running";
      this.shown(record);
    } catch (error) {
      if (!this.closed) this.failed(error);
    } finally {
      this.reading = false;
    }
  }

  close() {
    this.closed = true;
    this.stop();
  }
}

function back() {
  return h("a", { class: "back", href: "#/runs" }, "← Runs");
}

function whole(record) {
  const open = new Set([...document.querySelectorAll("details[open][data-name]")].map((each) => each.dataset.name));
  const parts = [
    back(), head(record), tiles(record),
    record.kind === "routed"
      ? section("Timeline", h("p", { class: "quiet" }, "Envoy routed this request to ", h("strong", {}, record.model ?? "one model"), ": no call of a team's was made. ",
        record.seconds === undefined ? "Its answer went straight to the client, so that nobody here knows how long it took and what it cost; with the profile metered it is read on its way." : null))
      : section("Timeline", waterfall(record)),
    notesSection(record), votesSection(record), judgeSection(record), checksSection(record), planSection(record),
    budgetSection(record), conversationSection(record), answersSection(record),
    record.why && section("Why", h("p", { class: "quiet" }, "How this request came to the decision ", h("strong", {}, record.decision), "."), explanation(record.why)),
    section("Record", h("details", { "data-name": "record" }, h("summary", {}, "The whole record, as JSON"), h("pre", { tabindex: "0" }, JSON.stringify(record, null, 2)))),
  ].filter(Boolean);
  for (const part of parts) for (const each of part.querySelectorAll("details[data-name]")) if (open.has(each.dataset.name)) each.open = true;
  return parts;
}

function head(record) {
  return h("div", { class: "runhead" },
    h("div", { class: "head" }, h("h1", {}, record.decision), badge(record.outcome ?? "routed"), record.code && h("span", { class: "quiet" }, record.code)),
    h("p", { class: "quiet facts" },
      h("span", {}, "recipe ", h("strong", {}, record.recipe)),
      h("span", {}, "algorithm ", h("strong", {}, record.algorithm)),
      record.request && h("span", {}, "asked as ", h("strong", {}, record.request.model), record.request.stream ? ", streamed" : ""),
      record.why && h("span", {}, h("a", { href: `#/why/${record.run}` }, "why this decision")),
      h("span", {}, clock(record.time)),
      h("span", {}, "run ", copyable(record.run, "run id")),
      record.trace_id && h("span", {}, "trace ", copyable(record.trace_id, "trace id")),
      record.request_id && h("span", {}, "request ", copyable(record.request_id, "request id")),
      record.resumes && h("span", {}, "goes on with ", h("a", { href: `#/runs/${record.resumes}` }, record.resumes))));
}

/** What is known of a routed request's tokens: nothing, unless its answer was read. */
function routedUsage({ prompt_tokens, completion_tokens }) {
  return completion_tokens === undefined ? {} : { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens };
}

function tiles(record) {
  const sure = record.confidence_permille;
  const usage = record.usage ?? routedUsage(record);
  return h("dl", { class: "tiles" },
    record.routing !== undefined && tile("On its way after", seconds(record.routing)),
    tile("Took", seconds(record.seconds), record.queued > 0.001 ? `after ${seconds(record.queued)} in the queue` : null),
    record.first_token !== undefined && tile("First token", seconds(record.first_token)),
    tile("Cost", dollars(record.spent?.cost_microusd ?? record.cost_microusd)),
    record.kind !== "routed" && tile("Calls", count(record.spent?.calls ?? record.calls?.length)),
    tile("Tokens", count(usage.total_tokens), `${count(usage.prompt_tokens)} in, ${count(usage.completion_tokens)} out`),
    sure !== undefined && tile("Sure", percent(sure / 1000, 1),
      [record.confidence_method, record.threshold_permille !== undefined && `enough at ${percent(record.threshold_permille / 1000, 1)}`].filter(Boolean).join(", ")));
}

function notesSection(record) {
  const repairs = (record.calls ?? []).filter((call) => call.role === "repair").length;
  const notes = [...(record.notes ?? [])];
  if (repairs) notes.push(`contract repairs: ${repairs}`);
  return notes.length > 0 && section("What happened", h("ul", { class: "notes" }, notes.map((note) => h("li", {}, note))));
}

const LIMITS = [["calls", "Calls", count], ["tokens", "Tokens", count], ["cost_microusd", "Cost", dollars], ["seconds", "Time", seconds]];

function budgetSection(record) {
  if (!record.budget) return null;
  const used = { ...record.spent, seconds: record.seconds };
  const rows = LIMITS.filter(([key]) => record.budget[key] !== undefined).map(([key, name, as]) => {
    const part = record.budget[key] ? (used[key] ?? 0) / record.budget[key] : 0;
    const label = `${name}: ${as(used[key])} of ${as(record.budget[key])}`;
    return h("div", { class: "budget" }, h("span", {}, name), meter(part, label, part > 0.9 ? "bad" : part > 0.7 ? "fair" : ""),
      h("span", { class: "figure" }, `${as(used[key])} of ${as(record.budget[key])}`));
  });
  return rows.length > 0 && section("Budget", rows);
}

function conversationSection(record) {
  if (!record.messages) return section("Conversation", h("p", { class: "quiet" },
    store.about?.record === "full" ? "What was said could not be kept." : ["What was said is not kept: the configuration has no ", h("code", {}, "trace: {record: full}"), "."]));
  return section("Conversation", h("ol", { class: "messages" }, record.messages.map((message) =>
    h("li", {}, h("span", { class: "role" }, message.role), h("pre", { class: "said", tabindex: "0" }, content(message.content))))));
}
