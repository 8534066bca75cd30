// Sessions -> a score: a lane for each theme, a block for each session, a line that hops between them, a slider below.

import { drawing, make } from "./dom.js";
import { shown, stops } from "./stops.js";
import { letter, mark, spoken, tone } from "./themes.js";
import { micros } from "./times.js";
import { count, day, moment, month, percent, year } from "./words.js";

const MANY_LANES = 12;
const SIGNS = { returned: "↩", hopped: "◆" };

export function score(root, onStop) {
  let now = { sessions: [], stops: [], lanes: [] };
  let place = 0;

  // tried: clicks that are only supposed, at the time where the slider is left standing.
  function draw(reply, tried, at = null) {
    const sessions = shown(reply);
    const lanes = lanesOf(sessions, tried);
    now = { sessions, lanes, stops: stops(sessions), num: sessions.length + 1 };
    place = now.stops.findIndex((stop) => stop.at === at);
    const field = make("div", { kind: "field", role: "img", "aria-label": summary(reply, sessions) });
    field.style.setProperty("--lanes", lanes.length);
    field.append(melody(now), ...sessions.map((session, at) => block(session, at)), ...tries(tried));
    field.append(make("i", { kind: "head-line" }));
    field.addEventListener("click", (event) => stopAt(nearest(fraction(field, event) * now.num), true));
    const labels = lanes.map(({ theme, name }) =>
      make("span", { kind: "lane", title: name }, mark(theme), make("span", { kind: "name" }, name ?? "no theme")));
    root.classList.toggle("is-dense", lanes.length > MANY_LANES);
    root.replaceChildren(make("div", { kind: "lanes" }, labels), make("div", { kind: "stage" }, field, dates(), slider()));
    put();
  }

  function block(session, at) {
    const sign = session.returned ? SIGNS.returned : session.hopped ? SIGNS.hopped : "";
    const said = `${moment(session.started_at)}: ${count(session.num_events, "click")}, ${percent(session.share)} in ${session.name ?? "no theme"}`;
    return make("i", { kind: `block ${tone(session.theme)}`, title: said, place: spot(at, session.theme) }, sign);
  }

  const spot = (at, theme) => ({
    left: `${(100 * at) / now.num}%`,
    width: `${100 / now.num}%`,
    "--lane": now.lanes.findIndex((lane) => lane.theme === theme),
  });

  function tries(tried) {
    const { at, x } = now.stops[place];
    const [from, step] = at === null ? [now.sessions.length, 1 / (tried.length + 1)] : [x, 0.35];
    return tried.map(({ item_id, theme }, number) =>
      make("i", { kind: `note tried ${tone(theme)}`, "data-item": item_id, place: { ...spot(0, theme), left: within(from + step * (number + 1)) } }));
  }

  const within = (x) => `${(100 * x) / now.num}%`;

  function dates() {
    const [first, newest] = [now.sessions[0], now.sessions.at(-1)];
    const named = first && year(first.started_at) !== year(newest.started_at) ? month : day;
    const days = now.sessions.map(({ started_at }) => named(started_at));
    const least = Math.ceil(now.sessions.length / 8);
    let last = -least;
    const labels = days.map((text, at) => {
      if (text === days[at - 1] || at - last < least || at > Math.max(now.sessions.length - 2, 0)) return null;
      last = at;
      return make("span", { place: { left: within(at) } }, text);
    });
    return make("div", { kind: "dates", "aria-hidden": "true" }, labels, make("span", { kind: "today" }, "now"));
  }

  function slider() {
    const input = make("input", {
      type: "range", min: 0, max: now.num, step: "any", value: now.num, "aria-label": "Rank as of", id: "as-of",
      oninput: () => stopAt(nearest(Number(input.value)), true),
      onkeydown: (event) => {
        const step = keyed(event.key);
        if (step === null) return;
        event.preventDefault();
        stopAt(step, true);
      },
    });
    return input;
  }

  function keyed(key) {
    const last = now.stops.length - 1;
    const session = now.stops[place].session;
    const before = now.stops.findLastIndex((stop) => stop.session < session);
    const after = now.stops.findIndex((stop) => stop.session > session);
    const endOfNext = after < 0 ? last : now.stops.findLastIndex((stop) => stop.session === now.stops[after].session);
    const wanted = {
      ArrowLeft: place - 1, ArrowDown: place - 1, ArrowRight: place + 1, ArrowUp: place + 1,
      PageDown: Math.max(before, 0), PageUp: endOfNext, Home: 0, End: last,
    }[key];
    return wanted === undefined ? null : Math.min(Math.max(wanted, 0), last);
  }

  function nearest(x) {
    const distance = (stop) => Math.abs(stop.x - x);
    if (x > now.sessions.length + 0.3) return now.stops.length - 1;
    return now.stops.reduce((best, stop, at) => (distance(stop) < distance(now.stops[best]) ? at : best), 0);
  }

  function stopAt(wanted, isTold) {
    if (!now.stops.length || (wanted === place && isTold)) return put();
    place = wanted;
    put();
    if (isTold) onStop(now.stops[place], describe());
  }

  function describe() {
    const stop = now.stops[place];
    const session = now.sessions[stop.session];
    if (!session) return "now";
    return `after click ${stop.event} of ${session.num_events} in the session of ${moment(session.started_at)}, ${spoken(session.theme, session.name)}`;
  }

  function put() {
    const stop = now.stops[place];
    const input = root.querySelector("input");
    if (!stop || !input) return;
    input.value = stop.at === null ? now.num : stop.x;
    input.setAttribute("aria-valuetext", describe());
    root.style.setProperty("--at", stop.x / now.num);
    root.querySelectorAll(".block").forEach((each, at) => each.classList.toggle("later", at >= stop.x));
  }

  // The events that carried an item: notes on the score, all else steps back.
  function light(history) {
    quiet();
    const field = root.querySelector(".field");
    const blocks = root.querySelectorAll(".block");
    const supposed = [...root.querySelectorAll(".tried")];
    for (const { item_id, occurred_at, share } of history) {
      supposed.find(({ dataset }) => dataset.item === item_id)?.classList.add("carries");
      const us = micros(occurred_at);
      const at = now.sessions.findIndex(({ from, upto }) => us >= from && us <= upto);
      if (at < 0) continue;
      blocks[at].classList.add("carries");
      const { events, isWhole, from, upto, theme } = now.sessions[at];
      const part = isWhole ? (events.findIndex((event) => event.us === us) + 0.5) / events.length : (us - from) / (upto - from || 1);
      field.append(make("i", { kind: "note lit", place: { ...spot(at, theme), left: within(at + part), "--size": Math.sqrt(share / history[0].share) } }));
    }
    field?.classList.toggle("is-lit", root.querySelector(".carries") !== null);
  }

  function quiet() {
    root.querySelector(".field")?.classList.remove("is-lit");
    root.querySelectorAll(".lit").forEach((each) => each.remove());
    root.querySelectorAll(".carries").forEach((each) => each.classList.remove("carries"));
  }

  const untry = () => root.querySelectorAll(".tried").forEach((each) => each.remove());

  return { draw, untry, light, quiet, stopAt, sessions: () => now.sessions, stops: () => now.stops, isNow: () => place === now.stops.length - 1, describe };
}

// Commonest first; a theme that is only tried comes last.
export function lanesOf(sessions, tried) {
  const lanes = new Map();
  for (const { theme, name, num_events } of sessions)
    lanes.set(theme, { theme, name, size: (lanes.get(theme)?.size ?? 0) + num_events });
  const ordered = [...lanes.values()].sort((one, other) => other.size - one.size);
  for (const { theme, name } of tried) if (!ordered.some((lane) => lane.theme === theme)) ordered.push({ theme, name, size: 0 });
  return ordered;
}

function melody({ sessions, lanes, num }) {
  const points = sessions.map(({ theme }, at) => `${at + 0.5},${lanes.findIndex((lane) => lane.theme === theme) + 0.5}`);
  const line = drawing("polyline", { points: points.join(" "), "vector-effect": "non-scaling-stroke" });
  return drawing("svg", { viewBox: `0 0 ${num} ${lanes.length}`, preserveAspectRatio: "none", "aria-hidden": "true" }, line);
}

function summary(reply, sessions) {
  const hops = sessions.filter(({ hopped }) => hopped).length;
  const returns = sessions.filter(({ returned }) => returned).length;
  const named = [...new Map(sessions.map(({ theme, name }) => [theme, name]))].map(([theme, name]) => `${letter(theme)} ${name ?? ""}`);
  return `${count(sessions.length, "session")} of ${reply.user_id}, oldest first, in the themes ${named.join("; ")}. The theme turned ${count(hops, "time")}, ${returns} of them back to an earlier theme.`;
}

function fraction(element, event) {
  const { left, width } = element.getBoundingClientRect();
  return (event.clientX - left) / width;
}
