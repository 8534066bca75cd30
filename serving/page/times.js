// Times of the service <-> microseconds. Date keeps milliseconds alone, and two clicks may be nearer than that.

export function micros(iso) {
  const [, second, fraction = "", zone] = /^(.{19})(?:\.(\d+))?(.*)$/.exec(iso);
  return Date.parse(second + zone) * 1000 + Number(fraction.padEnd(6, "0").slice(0, 6));
}

export function iso(micros) {
  const fraction = String(micros % 1_000_000).padStart(6, "0");
  return `${new Date(Math.floor(micros / 1_000_000) * 1000).toISOString().slice(0, 19)}.${fraction}Z`;
}
