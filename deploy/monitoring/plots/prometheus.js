// What is asked of Prometheus, which serves this page: the dashboard's queries, with its variables filled in.

const API = "/api/v1/";

/** What an endpoint answers. Throws an Error that says why it does not. */
async function ask(path, parameters = {}) {
  const response = await fetch(`${API}${path}?${new URLSearchParams(parameters)}`);
  const answer = await response.json().catch(() => ({ error: response.statusText }));
  if (answer.status !== "success") throw new Error(answer.error || `status ${response.status}`);
  return answer.data;
}

/** Seconds between two scrapes, by Prometheus' own configuration. */
export async function scrapeInterval() {
  const { yaml } = await ask("status/config");
  const [, number, unit] = /scrape_interval: (\d+)(s|m)/.exec(yaml) || [0, 15, "s"];
  return Number(number) * (unit === "m" ? 60 : 1);
}

/** The values that a label has had. */
export async function labelValues(metric, label) {
  const values = await ask(`label/${label}/values`, { "match[]": metric });
  return values.filter((value) => value !== "");
}

/** Alerts that fire, and those that are about to. */
export async function alerts() {
  return (await ask("alerts")).alerts;
}

/** How the time that is shown is divided. */
export function window_(seconds, scrape) {
  const step = Math.max(scrape, Math.ceil(seconds / 240));
  const end = Math.floor(Date.now() / 1000 / step) * step;
  return { start: end - seconds, end, step, seconds, rate: Math.max(step + scrape, 4 * scrape) };
}

/** A query with the dashboard's variables put in, as Grafana does it: as a literal of a regular expression, or `:pipe`, as it is. */
export function filled(expression, span, chosen) {
  const values = { __rate_interval: `${span.rate}s`, __range: `${span.seconds}s` };
  for (const [name, value] of Object.entries(chosen)) {
    values[name] = value === "" ? ".*" : value.replace(/[.*+?^${}()|[\]\\]/g, "\\\\$&").replaceAll('"', '\\"');
  }
  return expression
    .replace(/\$\{(\w+):pipe\}/g, (_, name) => chosen[name] || ".*")
    .replace(/\$(\w+)/g, (whole, name) => values[name] ?? whole);
}

/** A panel's series: `{name, points}`, a point being `[seconds, value]`, without what is no number. */
export async function series(panel, span, chosen) {
  const instant = panel.type === "bargauge";
  const found = await Promise.all(panel.targets.map(async (target) => {
    const query = filled(target.expr, span, chosen);
    const data = instant
      ? await ask("query", { query, time: span.end })
      : await ask("query_range", { query, start: span.start, end: span.end, step: span.step });
    return data.result.map((each) => ({
      name: named(target.legendFormat, each.metric),
      points: (each.values || [each.value])
        .map(([at, value]) => [at, Number(value)])
        .filter(([, value]) => Number.isFinite(value)),
    }));
  }));
  const order = new Intl.Collator("en", { numeric: true });
  return found.map((each) => each.sort((a, b) => order.compare(a.name, b.name))).flat().filter((each) => each.points.length);
}

/** A legend's text for these labels. What has no name is said to have none. */
function named(format, labels) {
  return format.replace(/\{\{(\w+)\}\}/g, (_, label) => labels[label] || "none").trim();
}
