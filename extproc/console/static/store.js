// What is known of the process: it is asked once, and then told of everything that happens.

import { ask, events, get } from "/console/api.js";

export const store = {
  about: null,
  runs: [],
  open: [],
  configuration: null,
  connected: false,
  refused: null,
};

const listeners = new Set();

/** Call `listener` with the kind of what has changed; returns what stops that. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell(kind, data) {
  for (const listener of [...listeners]) listener(kind, data);
}

/** Lines of each kind: routed requests, of which there are many, push no team's run out. */
const MOST = 5000;
const WAITS = [500, 1000, 2000, 5000, 10000];

/** Follow the process for as long as the page is there. */
export async function follow() {
  for (let failures = 0; ; failures += 1) {
    try {
      await connect(() => (failures = 0));
    } catch (error) {
      store.refused = error.status === 401 ? error.message : null;
      store.connected = false;
      tell("connection");
      if (error.status === 401) return;
    }
    await new Promise((resolve) => setTimeout(resolve, WAITS[Math.min(failures, WAITS.length - 1)]));
  }
}

async function connect(connected) {
  store.about = await get("/api/about");
  const last = await load();
  const answer = await ask(`/api/events?after=${last}`);
  store.connected = true;
  store.refused = null;
  connected();
  tell("connection");
  for await (const { event, data } of events(answer)) hear(event, JSON.parse(data));
  store.connected = false;
  tell("connection");
}

async function load() {
  const { last, runs, open } = await get(`/api/runs?limit=${MOST}`);
  store.runs = runs;
  store.open = open;
  tell("runs");
  return last;
}

function hear(event, data) {
  if (event === "run") {
    store.runs.unshift(data);
    if (store.runs.length > 2 * MOST) store.runs.splice(store.runs.findLastIndex((each) => each.kind === data.kind), 1);
    store.open = store.open.filter((each) => each.run !== data.run);
    tell("run", data);
  } else if (event === "open") {
    store.open = data;
    tell("open");
  } else if (event === "configuration") {
    store.configuration = data;
    tell("configuration");
  } else if (event === "missed") {
    load();
  }
}
