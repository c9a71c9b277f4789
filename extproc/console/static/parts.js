// Small things that several pages show.

import { h, say, unseen } from "/console/dom.js";

const TONES = {
  ok: "good", routed: "good", running: "busy",
  degraded: "fair", fallback: "fair", overload: "fair", bypass: "calm",
  failed: "bad", abandoned: "calm", refused: "bad",
  done: "good", working: "busy", waiting: "fair",
  timed_out: "bad", unusable: "bad", cancelled: "calm", not_started: "calm",
};

/** The tone of an outcome or of a call's state; its word always stands beside it. */
export function tone(word) {
  return Object.hasOwn(TONES, word) ? TONES[word] : "calm";
}

export function badge(word) {
  return h("span", { class: `badge ${tone(word)}` }, String(word).replaceAll("_", " "));
}

export function chip(text, kind = "") {
  return h("span", { class: `chip ${kind}` }, text);
}

export function tile(name, value, more) {
  return h("div", { class: "tile" },
    h("dt", {}, name),
    h("dd", {}, h("strong", {}, value), more ? h("small", {}, more) : null));
}

export function section(title, ...children) {
  const id = `s-${title.toLowerCase().replace(/[^a-z]+/g, "-")}-${(section.count += 1)}`;
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}
section.count = 0;

/** A mark for true, false and unknown. */
export function mark(held) {
  const [sign, word, kind] =
    held === true ? ["✓", "true", "yes"] : held === false ? ["✗", "false", "no"] : ["?", "unknown", "maybe"];
  return h("span", { class: `mark ${kind}` }, h("span", { "aria-hidden": "true" }, sign), unseen(word));
}

/** A bar that is filled to a part of its width. */
export function meter(part, label, kind = "") {
  const width = `${(Math.max(0, Math.min(1, part)) * 100).toFixed(2)}%`;
  return h("div", { class: `meter ${kind}`, role: "img", "aria-label": label },
    h("div", { style: { width } }));
}

export function copyable(text, name) {
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    say(`${name} copied`);
  };
  return h("button", { class: "copy mono", type: "button", title: `Copy ${name}`, onclick: copy }, text);
}

export function empty(text, more) {
  return h("div", { class: "empty" }, h("p", {}, text), more ? h("p", { class: "quiet" }, more) : null);
}

export function table(label, heads, rows) {
  return scrolling(`Table: ${label}`, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows)));
}

/** What may be wider than the page, and can then be scrolled with the keyboard as well. */
export function scrolling(label, ...children) {
  return h("div", { class: "scrolling", tabindex: "0", role: "region", "aria-label": label }, ...children);
}
