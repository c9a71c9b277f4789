// The frame: which page is shown, how the process is, light or dark.

import { keepToken } from "/console/api.js";
import { h, say, show } from "/console/dom.js";
import { overviewPage } from "/console/overview.js";
import { playgroundPage } from "/console/playground.js";
import { runPage } from "/console/run.js";
import { runsPage } from "/console/runs.js";
import { follow, listen, store } from "/console/store.js";
import { whyPage } from "/console/why.js";

const PAGES = [
  { name: "Runs", path: "#/runs", page: runsPage },
  { name: "Overview", path: "#/overview", page: overviewPage },
  { name: "Why", path: "#/why", page: whyPage },
  { name: "Playground", path: "#/playground", page: playgroundPage, only: () => store.about?.playground },
];

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const status = document.getElementById("status");
let leave = () => {};
let tried = false;
let asking = false;
let hadPlayground = false;

function at() {
  const path = (location.hash || "#/runs").split("?")[0];
  const run = /^#\/runs\/([\w-]+)$/.exec(path);
  if (run) return { name: `Run ${run[1]}`, path: "#/runs", page: (place) => runPage(place, run[1]) };
  const why = /^#\/why\/([\w-]+)$/.exec(path);
  if (why) return { name: `Why ${why[1]}`, path: "#/why", page: (place) => whyPage(place, why[1]) };
  return PAGES.find((each) => each.path === path) ?? PAGES[0];
}

function turn(moved) {
  if (location.hash === "#main") return;
  leave();
  const found = at();
  document.title = `${found.name} · looper`;
  drawNav(found.path);
  main.replaceChildren();
  asking = Boolean(store.refused);
  leave = (asking ? askForToken(main) : found.page(main)) ?? (() => {});
  if (moved) {
    main.focus({ preventScroll: true });
    window.scrollTo(0, 0);
    say(found.name);
  }
}

function drawNav(current) {
  const shown = PAGES.filter((each) => !each.only || each.only());
  show(nav, shown.map(({ name, path }) =>
    h("a", { href: path, "aria-current": path === current ? "page" : null }, name)));
}

function askForToken(place) {
  const field = h("input", { id: "token", type: "password", autocomplete: "off", required: true });
  const take = (event) => {
    event.preventDefault();
    keepToken(field.value.trim());
    store.refused = null;
    tried = true;
    follow();
  };
  show(place, h("form", { class: "card narrow", onsubmit: take },
    h("h1", {}, "Who is there?"),
    h("p", {}, "This process is reached over a network and wants its token, that of ",
      h("code", {}, "--admin-token-file"), "."),
    tried && h("p", { class: "alarm", role: "alert" }, "That was not the token."),
    h("label", { for: "token" }, "Token"), field,
    h("button", { class: "primary", type: "submit" }, "Open")));
  field.focus();
}

// How the process is.

function drawStatus() {
  const { configuration, connected } = store;
  const trouble = configuration && (!configuration.valid || configuration.envoy.stale);
  const word = !configuration ? "…" : !configuration.valid ? "invalid file" : configuration.envoy.stale ? "Envoy stale" : "in step";
  show(status,
    configuration && h("a", { class: `state ${trouble ? "bad" : "good"}`, href: "#/overview" },
      h("span", { class: "dot", "aria-hidden": "true" }), h("span", { class: "generation mono" }, configuration.generation),
      h("span", {}, word)),
    h("span", { class: `state ${connected ? "good" : "bad"}` },
      h("span", { class: `dot ${connected ? "beat" : ""}`, "aria-hidden": "true" }), connected ? "live" : "not connected"),
    themeButton());
}

const THEMES = { auto: "◐", light: "☀", dark: "☾" };

function themeButton() {
  const now = document.documentElement.dataset.theme ?? "auto";
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(now) + 1) % names.length];
  const change = () => {
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    localStorage.setItem("theme", next);
    drawStatus();
    status.querySelector("button").focus();
    say(`Theme: ${next}`);
  };
  return h("button", { class: "theme", type: "button", title: `Theme: ${now}`, "aria-label": `Theme: ${now}. Change to ${next}`, onclick: change },
    THEMES[now]);
}

listen((kind) => {
  if (kind === "connection") {
    if (store.refused || asking) turn(false);
    else offerPlayground();
  }
  if (kind === "connection" || kind === "configuration") drawStatus();
});

/** Only its own page is drawn again for it: whoever reads another would lose what is open and has the focus. */
function offerPlayground() {
  const playground = Boolean(store.about?.playground);
  if (playground === hadPlayground) return;
  hadPlayground = playground;
  const { path } = at();
  if (path === "#/playground") turn(false);
  else drawNav(path);
}

window.addEventListener("hashchange", () => turn(true));
drawStatus();
turn(false);
follow();
