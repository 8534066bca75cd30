// A theme's number -> its mark: a letter on a tone, with a pattern where tones come round again. Never a colour alone.

import { make } from "./dom.js";

const TONES = 8;
const PATTERNS = 3;

export function letter(theme) {
  if (theme === null || theme === undefined) return "–";
  const again = Math.floor(theme / 26);
  return String.fromCharCode(65 + (theme % 26)) + (again || "");
}

export const tone = (theme) =>
  theme === null || theme === undefined ? "tone-none" : `tone-${theme % TONES} pattern-${Math.floor(theme / TONES) % PATTERNS}`;

export const mark = (theme, kind = "") => make("span", { kind: `mark ${tone(theme)} ${kind}`, "aria-hidden": "true" }, letter(theme));

export const spoken = (theme, name) => (theme === null || theme === undefined ? "no theme" : `theme ${letter(theme)}, ${name}`);
