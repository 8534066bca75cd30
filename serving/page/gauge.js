// The first ten of a ranking -> how many are of the theme that is watched, and how that went click by click.

import { make } from "./dom.js";
import { letter, mark, tone } from "./themes.js";

export const FIRST = 10;

export const shareOf = (items, theme) => items.slice(0, FIRST).filter((item) => item.theme === theme).length;

export function gauge(root, items, watched, steps) {
  const first = items.slice(0, FIRST);
  if (watched.theme === null) return plain(root, first);
  const number = shareOf(items, watched.theme);
  const cells = first.map((item) =>
    make("i", { kind: `cell ${item.theme === watched.theme ? tone(item.theme) : "other"}` }, letter(item.theme)));
  root.replaceChildren(
    make("div", { kind: "title" },
      make("h2", {}, `Top ${FIRST} in`, mark(watched.theme), make("span", {}, watched.name ?? "no theme")),
      make("p", { kind: "number" }, make("strong", {}, String(number)), ` of ${first.length}`)),
    make("div", {
      kind: "cells", role: "meter", "aria-valuemin": 0, "aria-valuemax": first.length || FIRST, "aria-valuenow": number,
      "aria-label": `Of the first ${first.length}, those of theme ${letter(watched.theme)}`,
    }, cells),
    history(steps, watched),
  );
}

// Of someone who is in no theme, or of a model that knows none: what the first ten are of.
function plain(root, first) {
  const cells = first.map(({ theme }) => make("i", { kind: `cell ${tone(theme)}` }, letter(theme)));
  root.replaceChildren(make("h2", {}, `Themes of the top ${FIRST}`), make("div", { kind: "cells" }, cells));
}

function history(steps, watched) {
  if (steps.length < 2) return make("p", { kind: "hint" }, "Click an item: each click may turn the ranking.");
  const bars = steps.map(({ label, number }) =>
    make("li", {},
      make("span", { kind: "bar", place: { "--full": number / FIRST } }, make("i", { kind: tone(watched.theme) })),
      make("b", {}, String(number)),
      make("span", { kind: "when" }, label)));
  return make("ol", { kind: "steps", "aria-label": "After each click" }, bars);
}
