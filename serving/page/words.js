// Numbers and reasons -> sentences that a person reads.

const SECOND = 1000;
const UNITS = [["day", 86400], ["h", 3600], ["min", 60], ["s", 1]];

// Times of the service have microseconds, which Date drops: good enough to be read.
export const when = (iso) => new Date(iso);

export function span(from, to) {
  const seconds = Math.max(0, (when(to) - when(from)) / SECOND);
  const [unit, size] = UNITS.find(([, each]) => seconds >= each) ?? ["s", 1];
  const number = Math.round(seconds / size);
  return `${number} ${unit === "day" && number !== 1 ? "days" : unit}`;
}

export const ago = (from, to) => ((when(to) - when(from)) / SECOND < 1 ? "just now" : `${span(from, to)} ago`);

export const day = (iso) => when(iso).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

export const month = (iso) => when(iso).toLocaleDateString("en-GB", { month: "short", year: "numeric", timeZone: "UTC" });

export const year = (iso) => when(iso).getUTCFullYear();

export const moment = (iso) =>
  `${day(iso)} ${year(iso)} ${when(iso).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: "UTC" })}`;

export const percent = (share) => `${Math.round(100 * share)} %`;

export const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

const LIKED = {
  theme: (item) => (item.theme_name ? `fits the clicks in ${item.theme_name}` : "fits the clicks of its kind"),
  short: () => "follows the last few clicks",
  global: () => "suits the whole history",
  base: () => "does well lately and matches what is current",
};
const NOTHING = "Nothing in the history speaks for it: it stands here by how often it is clicked.";

// What lifts an item above the others of the list: the parts of its score, less what such a part adds on average.
export function lifts(items) {
  const names = Object.keys(items.find((item) => item.reasons)?.reasons.contributions ?? {});
  const explained = items.filter((item) => item.reasons);
  const mean = Object.fromEntries(
    names.map((name) => [name, explained.reduce((sum, item) => sum + item.reasons.contributions[name], 0) / explained.length]),
  );
  return new Map(
    explained.map((item) => {
      const { contributions } = item.reasons;
      const lift = (name) => (name === "base" ? contributions[name] - mean[name] : contributions[name]);
      const parts = names.map((name) => ({ name, size: lift(name) })).sort((one, other) => other.size - one.size);
      return [item.item_id, parts];
    }),
  );
}

export function reason(item, parts, called, now) {
  const strong = parts.filter(({ size }) => size > 0.05);
  if (!strong.length) return NOTHING;
  const said = strong
    .filter(({ size }, place) => place === 0 || (place === 1 && size > 0.4 * strong[0].size))
    .map(({ name }) => (LIKED[name] ?? (() => name.replaceAll("_", " ")))(item));
  const sentence = said.join(" and ");
  const first = item.reasons.history[0];
  const carried = first ? `, mostly because of the click on ${called(first.item_id)}, ${ago(first.occurred_at, now)}` : "";
  return `${sentence[0].toUpperCase()}${sentence.slice(1)}${carried}.`;
}

export const sources = { theme: "current theme", popular: "popular now", new: "new" };
