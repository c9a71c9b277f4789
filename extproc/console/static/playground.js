// A request through Envoy to one public name, or to two beside each other: answers as they are written, and their runs.

import { events, post } from "/console/api.js";
import { h, say, show } from "/console/dom.js";
import { dollars, percent, seconds } from "/console/format.js";
import { badge, empty } from "/console/parts.js";
import { LiveRun } from "/console/run.js";
import { store } from "/console/store.js";
import { waterfall } from "/console/waterfall.js";

const typed = { text: "", names: ["", ""] };

export function playgroundPage(place) {
  if (!store.about?.playground) {
    show(place, h("div", { class: "head" }, h("h1", {}, "Playground")), empty("The playground is off.", "`looper serve --playground` turns it on: it spends money."));
    return undefined; // the frame draws the page again once it is known that it is on
  }
  let sides = [];
  const columns = h("div", { class: "columns" });
  const text = h("textarea", { id: "prompt", rows: "5", required: true, value: typed.text, placeholder: "Ask something", oninput: () => (typed.text = text.value) });
  const first = choice(0, "Public name", store.about.names);
  const second = choice(1, "Beside it", ["", ...store.about.names]);
  const stop = h("button", { type: "button", hidden: true, onclick: () => close() }, "Stop");
  const close = () => sides.forEach((side) => side.close());
  const send = async (event) => {
    event.preventDefault();
    close();
    sides = [first, second].map(({ field }) => field.value).filter(Boolean).map((name) => new Side(name));
    columns.classList.toggle("two", sides.length === 2);
    show(columns, sides.map((side) => side.element));
    stop.hidden = false;
    await Promise.all(sides.map((side) => side.send(text.value)));
    stop.hidden = true;
    say("The answer is complete.");
  };
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form.requestSubmit();
  });
  show(place,
    h("div", { class: "head" }, h("h1", {}, "Playground")),
    h("form", { class: "card", onsubmit: send },
      h("label", { class: "field", for: "prompt" }, h("span", {}, "Prompt"), text),
      h("div", { class: "ask" }, first.element, second.element, h("div", { class: "buttons" }, h("button", { class: "primary", type: "submit" }, "Send"), stop)),
      h("p", { class: "quiet" }, "Requests go through Envoy like any client's, and cost what they cost. Ctrl+Enter sends.")),
    columns);
  return close;
}

function choice(at, label, names) {
  const field = h("select", { onchange: () => (typed.names[at] = field.value) }, names.map((name) => h("option", { value: name }, name || "nobody")));
  if (names.includes(typed.names[at])) field.value = typed.names[at];
  return { field, element: h("label", { class: "field" }, h("span", {}, label), field) };
}

/** One request, its answer and its run. */
class Side {
  constructor(name) {
    this.name = name;
    this.cancel = new AbortController();
    this.answer = h("pre", { class: "said answer", tabindex: "0", "aria-label": `Answer of ${name}` });
    this.facts = h("p", { class: "quiet facts" }, "…");
    this.run = h("div", {});
    this.element = h("section", { class: "card side", "aria-label": name },
      h("div", { class: "said-side" }, h("h2", {}, name), this.facts, this.answer), this.run);
  }

  async send(text) {
    const began = performance.now();
    const passed = () => (performance.now() - began) / 1000;
    let first = null;
    try {
      const body = { model: this.name, messages: [{ role: "user", content: text }], stream: true };
      const answer = await post("/api/playground", body, { signal: this.cancel.signal });
      const run = answer.headers.get("x-looper-run");
      const decision = answer.headers.get("x-looper-decision");
      if (run) this.follow(run);
      for await (const { data } of events(answer)) {
        const piece = data === "[DONE]" ? "" : said(JSON.parse(data));
        if (piece && first === null) first = passed();
        this.answer.append(document.createTextNode(piece));
        show(this.facts, facts(decision, first, passed()));
      }
      show(this.facts, facts(decision, first, passed()));
    } catch (error) {
      if (error.name !== "AbortError") show(this.facts, badge("failed"), " ", error.message);
      else show(this.facts, badge("abandoned"));
    }
  }

  follow(run) {
    this.live = new LiveRun(run, (record) => show(this.run,
      h("p", { class: "facts" }, badge(record.outcome ?? "routed"), h("span", {}, dollars(record.spent?.cost_microusd)),
        record.confidence_permille !== undefined && h("span", {}, `sure ${percent(record.confidence_permille / 1000)}`),
        h("a", { href: `#/runs/${run}` }, "open run")),
      waterfall(record)), () => show(this.run, h("p", { class: "quiet" }, "This request left no run: one model answered it.")));
  }

  close() {
    this.cancel.abort();
    this.live?.close();
  }
}

function said(chunk) {
  if (chunk.error) return `\n[${chunk.error.code ?? "error"}] ${chunk.error.message ?? ""}`;
  return (chunk.choices ?? []).map((choice) => choice.delta?.content ?? "").join("");
}

function facts(decision, first, total) {
  return [decision && h("span", {}, "decision ", h("strong", {}, decision)), first !== null && h("span", {}, `first token ${seconds(first)}`), h("span", {}, seconds(total))];
}
