// Where a user is now -> the headline of the page.

import { find, isCalm, make } from "./dom.js";
import { mark, tone } from "./themes.js";
import { count, percent, span } from "./words.js";

const TURN = { duration: 300, easing: "ease-out" };

export function now({ user, past, reply, at, clicks, mode }) {
  const current = reply.themes[0];
  const isTried = clicks.length > 0 && (mode === "suppose" || at !== null);
  find("now").className = `now ${tone(current?.theme)}`;
  find("now-over").textContent = isTried ? `${user} would now be in` : at ? `${user} was then in` : `${user} is now in`;
  const isTurn = find("now").dataset.theme !== String(current?.theme) && find("now").dataset.theme !== undefined;
  find("now").dataset.theme = current?.theme;
  if (isTurn && !isCalm()) find("now-title").animate([{ opacity: 0, transform: "translateY(10px)" }, { opacity: 1, transform: "none" }], TURN);
  find("now-title").replaceChildren(...(current ? [mark(current.theme, "large"), current.name] : [reply.cold_start_user ? "no theme yet" : "no theme"]));
  find("now-since").textContent = told(past, reply, at, isTried ? clicks.length : 0);
  find("shares").replaceChildren(...reply.themes.map(({ theme, name, share }) =>
    make("div", { kind: "share" }, mark(theme), make("span", { kind: "name", title: name }, name),
      make("span", { kind: "long", "aria-hidden": "true" }, make("i", { kind: tone(theme), place: { width: percent(share).replace(" ", "") } })),
      make("b", {}, percent(share)))));
}

function told(past, reply, at, numTried) {
  if (reply.cold_start_user) return "Nothing is known of this user: what is ranked is what many click.";
  if (numTried) return `after ${count(numTried, "click")} that you tried. Nothing is stored.`;
  const known = `${count(reply.history.length, "click")} known`;
  const { active, sessions } = past;
  if (at || !active || !sessions.length) return `${known}.`;
  const turns = sessions.findLast(({ hopped }) => hopped);
  const how = turns?.returned ? "came back to" : turns ? "turned to" : "began with";
  const since = `Their sessions ${how} ${active.name} ${span(active.since, reply.at)} ago`;
  return `${since}; ${known} in ${count(sessions.length, "session")}.`;
}
