// An answer -> the figures beside the name of the page: how fast, as of when, by which model.

import { modelName } from "./beside.js";
import { find, make } from "./dom.js";
import { ago, moment, when } from "./words.js";

const DAY_MS = 86_400_000;

// about: what /info says. A log that ended long ago has a clock of its own, whose now is told.
export function chips({ reply, took, about, isTried, isPast }) {
  const newest = reply.history.newest_event_at;
  const isElsewhen = !isPast && Math.abs(Date.now() - when(reply.at)) > DAY_MS;
  const told = [
    ["answered in", `${took < 10 ? took.toFixed(1) : Math.round(took)} ms`],
    ["newest event", isTried ? "a tried click" : newest ? ago(newest, reply.at) : "none"],
    isElsewhen ? [`now in ${about.source}`, `${moment(reply.at)} UTC`] : ["log", about.source],
    ["model", `${modelName(about.model)} ${reply.model_version}`],
  ];
  find("chips").replaceChildren(...told.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}
