// Figures as people read them.

export function seconds(value) {
  if (value === undefined || value === null) return "–";
  if (value < 0.0995) return `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(2)} s`;
  return `${Math.floor(value / 60)} min ${String(Math.round(value % 60)).padStart(2, "0")} s`;
}

/** Micro-USD as dollars. Whole ones have no digit behind the sixth. */
export function dollars(micro) {
  if (micro === undefined || micro === null) return "–";
  const usd = micro / 1e6;
  if (usd === 0) return "$0";
  if (Math.abs(usd) >= 100) return `$${usd.toFixed(0)}`;
  if (Math.abs(usd) >= 0.1) return `$${usd.toFixed(2)}`;
  return `$${plain(usd, 2, Number.isInteger(micro) ? 6 : 20)}`;
}

/** So many digits that count, at most so many behind the point, and never with an exponent. */
function plain(value, digits, most) {
  const size = Math.floor(Math.log10(Math.abs(value)));
  return value.toFixed(Math.min(most, Math.max(0, digits - 1 - size)));
}

export function percent(part, digits = 0) {
  return part === undefined || part === null ? "–" : `${(part * 100).toFixed(digits)} %`;
}

export function count(value) {
  return value === undefined || value === null ? "–" : value.toLocaleString("en");
}

export function number(value) {
  return value === undefined || value === null ? "–" : String(+value.toFixed(3));
}

export function clock(iso) {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return "–";
  const today = new Date().toDateString() === time.toDateString();
  const hours = time.toLocaleTimeString("en-GB");
  return today ? hours : `${time.toLocaleDateString("en-CA")} ${hours}`;
}

export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}
