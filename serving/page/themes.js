// A theme's number -> its mark: a letter on a tone, with a pattern where tones come round again. Never a colour alone.

import { make } from "./dom.js";

const LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"; // no I, no O: they look like numbers
const TONES = 8;
const PATTERNS = 3;
const places = new Map();

// The themes of the user who is looked at come first, so that no two of them share a tone while there are enough.
export function order(themes) {
  places.clear();
  for (const theme of themes) if (theme !== null && !places.has(theme)) places.set(theme, places.size);
}

function place(theme) {
  if (!places.has(theme)) places.set(theme, places.size);
  return places.get(theme);
}

export function letter(theme) {
  if (theme === null || theme === undefined) return "–";
  const again = Math.floor(theme / LETTERS.length);
  return LETTERS[theme % LETTERS.length] + (again || "");
}

export function tone(theme) {
  if (theme === null || theme === undefined) return "tone-none";
  return `tone-${place(theme) % TONES} pattern-${Math.floor(place(theme) / TONES) % PATTERNS}`;
}

export const mark = (theme, kind = "") => make("span", { kind: `mark ${tone(theme)} ${kind}`, "aria-hidden": "true" }, letter(theme));

export const spoken = (theme, name) => (theme === null || theme === undefined ? "no theme" : `theme ${letter(theme)}, ${name}`);
