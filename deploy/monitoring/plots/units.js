// Numbers as they are read.

const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

const UNITS = {
  short: (value) => short.format(value),
  reqps: (value) => `${short.format(value)}/s`,
  ops: (value) => `${short.format(value)}/s`,
  percentunit: (value) => `${plain.format(100 * value)}%`,
  currencyUSD: (value) => `$${value !== 0 && Math.abs(value) < 1000 ? plain.format(value) : short.format(value)}`,
  ms: (value) => (value < 1000 ? `${plain.format(value)} ms` : `${plain.format(value / 1000)} s`),
  s: (value) => (value < 1 ? `${plain.format(1000 * value)} ms` : `${plain.format(value)} s`),
  bytes: (value) => `${short.format(value)}B`,
};

/** A value in a unit of Grafana's. */
export function shown(value, unit) {
  return (UNITS[unit] || UNITS.short)(value);
}

/** The time of day, with its seconds. */
export function clock(seconds, long = false) {
  return new Date(1000 * seconds).toLocaleTimeString("en-GB", long ? {} : { hour: "2-digit", minute: "2-digit" });
}

/** Round values for an axis from 0, no more than `most`. */
export function ticks(top, most = 4) {
  const rough = (top || 1) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough);
  return Array.from({ length: Math.ceil((top || 1) / step) + 1 }, (_, at) => at * step);
}
