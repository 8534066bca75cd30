// The page: who is looked at, as of when, with which clicks; every change asks the service again and shows what turned.

import * as api from "./api.js";
import { beside } from "./beside.js";
import { chips } from "./chips.js";
import { find, isCalm, make } from "./dom.js";
import { finder } from "./finder.js";
import { FIRST, gauge, shareOf } from "./gauge.js";
import { now as showNow } from "./now.js";
import { ranking } from "./ranking.js";
import { lanesOf, score } from "./score.js";
import { lastTurn, shown } from "./stops.js";
import { table } from "./table.js";
import { mark, order, spoken } from "./themes.js";
import { count, moment } from "./words.js";

const NUM_ASKED = 100; // so that an item of another theme is at hand; the first NUM_SHOWN are the list
const NUM_SHOWN = 20;
const MOST_TRIES = 6;
const MOST_DRAWN = 8;
const FEW_SESSIONS = 8;
const REPLAYED = 5; // clicks of a turn
const PACE_MS = 1400;

const given = (name) => new URLSearchParams(location.search).get(name);
const state = { user: null, at: null, atShort: "", past: null, clicks: [], steps: [], watched: null, reply: null, mode: "suppose", model: given("beside") };
const catalogue = new Map();
let most = 0; // what the service recommends at once, of NUM_ASKED at most
let about = null; // what the service serves, as /info says
let isThemed = true; // whether the served model knows themes
let turn = 0; // of what is asked: an answer that comes after a newer question is not shown
let playing = 0;

const titleOf = (id) => catalogue.get(id)?.title || id;
const kindsOf = (id) => catalogue.get(id)?.categories?.join(", ") ?? "";
const timeline = score(find("score"), (stop, words) => { stopPlaying(); goTo(stop, words); });
const lit = {
  onLight: (carried, id) => { timeline.light(carried); side.light(id); },
  onQuiet: () => { timeline.quiet(); side.quiet(); },
};
const list = ranking(find("items"), { onPick: pick, ...lit, titleOf, kindsOf });
const side = beside({ onChosen: compare, onPick: (item) => pick(item, true), ...lit, titleOf, kindsOf });
finder(find("user"), find("users"), (prefix) => told(async () => (await api.users(prefix)).value.users, []), open);

async function told(work, otherwise = null) {
  try {
    const value = await work();
    find("trouble").hidden = true;
    return value;
  } catch (error) {
    if (!(error instanceof api.Refused)) throw error;
    const isBarred = [401, 403].includes(error.status);
    find("token").hidden = !isBarred;
    find("again").hidden = isBarred;
    find("trouble-text").textContent = error.message;
    find("trouble").hidden = false;
    return otherwise;
  }
}

async function open(user) {
  stopPlaying();
  Object.assign(state, { user, at: null, atShort: "", clicks: [], steps: [], watched: null });
  find("user").value = user;
  keepAddress();
  await told(async () => {
    if (await loadPast()) await rank({ isNew: true });
  });
}

// After a failure: the same user, moment and clicks.
async function again() {
  if (!state.user) return begin();
  await told(async () => {
    if (await loadPast()) await rank({ isNew: !state.reply, isSeen: false, label: state.clicks.length ? `click ${state.clicks.length}` : "before" });
  });
  find("items").querySelector(".pick")?.focus();
}

const keepAddress = () =>
  history.replaceState(null, "", `?${new URLSearchParams({ user: state.user, ...(state.model && { beside: state.model }) })}`);

// False where somebody else is looked at by the time that it comes.
async function loadPast() {
  const { user } = state;
  const past = (await api.themes(user)).value;
  if (user !== state.user) return false;
  state.past = past;
  order([...state.past.current.map(({ theme }) => theme), ...lanesOf(shown(state.past), []).map(({ theme }) => theme)]);
  await learn(past.events.slice(-40).map(({ item_id }) => item_id));
  if (user !== state.user) return false;
  drawPast();
  return true;
}

function drawPast() {
  find("past").hidden = state.past.sessions.length === 0;
  timeline.draw(state.past, state.mode === "suppose" || state.at !== null ? state.clicks : [], state.at);
  find("replay").hidden = lastTurn(timeline.sessions()) < 0;
  table(find("table").querySelector(".scroll"), state.past.sessions);
}

// Titles and categories of items, asked for once.
async function learn(ids) {
  const unknown = [...new Set(ids)].filter((id) => !catalogue.has(id) && !id.includes(","));
  if (!unknown.length) return;
  for (const item of (await api.items(unknown)).value.items) catalogue.set(item.item_id, item);
}

const supposed = () => (state.mode === "suppose" || state.at !== null ? state.clicks.map(({ item_id }) => item_id) : []);

async function numAsked() {
  if (most) return most;
  about = (await api.info()).value;
  isThemed = about.theme_names.length > 0;
  state.model = side.offer(about, state.model);
  keepAddress();
  return (most = Math.min(NUM_ASKED, about.limits.retrieval.num_candidates));
}

// Of another model, on the same clicks: its items by the served model's themes, so that both lists are told alike.
async function askOther(request) {
  if (!state.model) return null;
  return (await api.recommend({ ...request, preview: true, model: state.model })).value;
}

async function alike(reply, served) {
  if (!reply) return null;
  const items = reply.items.slice(0, NUM_SHOWN);
  await learn(items.map(({ item_id }) => item_id));
  if (!isThemed) return { ...reply, items, isThemed: true };
  const ranked = new Map(served.items.map((item) => [item.item_id, item]));
  const themed = items.map((item) => {
    const { theme = null, theme_name = null } = ranked.get(item.item_id) ?? catalogue.get(item.item_id) ?? {};
    return { ...item, theme, theme_name };
  });
  return { ...reply, items: themed, isThemed: false };
}

async function compare(model) {
  stopPlaying();
  Object.assign(state, { model, steps: [] });
  keepAddress();
  await told(() => rank({ isSeen: false, what: model ? "Another model is shown beside." : "One model is shown.", label: "before" }));
}

async function rank({ isNew = false, isSeen = true, what = "", label = "" }) {
  const own = ++turn;
  const k = await numAsked();
  if (own !== turn) return;
  const request = { user_id: state.user, k, ...(state.at && { at: state.at }), suppose: supposed(), preview: state.mode !== "keep" };
  const [{ value, took }, answered] = await Promise.all([api.recommend(request), askOther(request)]);
  if (own !== turn) return;
  const items = value.items.slice(0, NUM_SHOWN);
  await learn(items.map(({ item_id }) => item_id));
  const other = await alike(answered, value);
  if (own !== turn) return;
  const before = isNew ? null : state.reply;
  state.reply = value;
  const current = value.themes[0];
  state.watched ??= current ? { theme: current.theme, name: current.name } : { theme: null, name: null };
  note(items, other, label || (isNew ? "before" : ""));
  show(items, other, !isNew && isSeen);
  chips({ reply: value, took, about, isTried: supposed().length > 0, isPast: state.at !== null });
  say(before, value, other, what);
  if (!items.length) return; // there is nothing to give reasons for
  const reasons = (await api.explain({ ...request, at: value.at }, items.map(({ item_id }) => item_id))).value.items;
  if (own === turn) list.explain(reasons, value.at);
}

// How many of the first ten are of the watched theme, click by click.
function note(items, other, label) {
  if (!label) return;
  state.steps.push({ label, items, other: other?.items ?? null, number: 0 });
  state.steps = state.steps.slice(-(REPLAYED + 1));
  for (const step of state.steps) step.number = shareOf(step.items, state.watched.theme);
}

function show(items, other, canMove) {
  find("now").hidden = find("both").hidden = false;
  showNow(state);
  gauge(find("gauge"), items, state.watched, state.steps);
  list.draw(items, canMove);
  side.draw(items, state.reply, other, state.watched, state.steps, canMove);
  find("empty").hidden = items.length > 0;
  find("empty").textContent = "The service has nothing to recommend here.";
  find("as").textContent = state.at ? `for ${state.user} as of ${moment(state.at)} UTC, ${state.atShort}` : `for ${state.user}, now`;
  find("back").hidden = state.at === null;
  drawTries();
}

function say(before, after, other, what) {
  const { theme, name } = state.watched;
  const current = after.themes[0];
  const has = shareOf(after.items, theme);
  const share = before ? `Top ${FIRST} in ${spoken(theme, name)}: ${shareOf(before.items, theme)} before, ${has} now.` : `${has} of the top ${FIRST} are of ${spoken(theme, name)}.`;
  const words = [
    what,
    theme !== null && share,
    other && side.said(other, state.watched),
    after.items[0] && `First is ${titleOf(after.items[0].item_id)}.`,
    current && `${state.user} is in ${spoken(current.theme, current.name)}.`,
  ];
  find("live").textContent = words.filter(Boolean).join(" ");
}

// isOther: of the other model's list, which nobody is recorded to have been shown.
async function pick(item, isOther = false) {
  stopPlaying();
  const held = document.activeElement?.closest?.(".item") ? item.rank : null;
  const cited = isOther ? {} : { position: item.rank - 1, ...(state.reply.impression_id && { impression_id: state.reply.impression_id }) };
  const isKept = state.mode === "keep" && state.at === null;
  state.watched = { theme: item.theme, name: item.theme_name };
  const { user } = state;
  await told(async () => {
    if (isKept) await api.click({ user_id: user, item_id: item.item_id, ...cited });
    if (user !== state.user) return; // somebody else is looked at by now
    state.clicks = [...state.clicks, { item_id: item.item_id, theme: item.theme, name: item.theme_name }];
    const past = isKept ? (await api.themes(user)).value : state.past;
    if (user !== state.user) return;
    state.past = past;
    drawPast();
    await rank({ what: `${titleOf(item.item_id)} clicked, ${isKept ? "kept" : "not kept"}.`, label: `click ${state.clicks.length}` });
  });
  if (held) (isOther ? side : list).focus(held);
}

// A click on the best item of each theme that the ranking holds.
function drawTries() {
  const best = new Map();
  state.reply.items.forEach((item, place) => {
    if (item.theme !== null && !best.has(item.theme)) best.set(item.theme, { ...item, rank: place + 1 });
  });
  const again = (theme) => find("tries").querySelector(`[data-theme="${theme}"]`)?.focus();
  const buttons = [...best.values()].slice(0, MOST_TRIES).sort((one, other) => one.theme - other.theme).map((item) =>
    make("button", { type: "button", kind: "try", title: `${item.theme_name}: ${titleOf(item.item_id)}`, "data-theme": item.theme, onclick: () => pick(item).then(() => again(item.theme)) },
      mark(item.theme), make("span", { kind: "name" }, item.theme_name), make("span", { kind: "at" }, `rank ${item.rank}, ${titleOf(item.item_id)}`)));
  const words = state.mode === "keep" && state.at === null ? "Count anew" : `Undo ${count(state.clicks.length, "click")}`;
  const undo = state.clicks.length ? [make("button", { type: "button", id: "undo", onclick: forget }, words)] : [];
  find("tries").replaceChildren(make("h2", {}, "Click the best of a theme"), ...buttons, ...undo);
}

async function forget() {
  stopPlaying();
  Object.assign(state, { clicks: [], steps: [], watched: null });
  drawPast();
  await told(() => rank({ what: "The tried clicks are forgotten.", label: "before" }));
  find("items").querySelector(".pick")?.focus();
}

async function goTo(stop, words, more = {}) {
  Object.assign(state, { at: stop.at, atShort: stop.at && `click ${stop.event} of ${stop.num}` });
  if (!playing) Object.assign(state, { clicks: [], steps: [], watched: null });
  timeline.untry();
  await told(() => rank({ what: `As of ${words}.`, label: playing ? "" : "before", ...more }));
}

async function replay() {
  if (playing) return stopPlaying();
  const sessions = timeline.sessions();
  const place = lastTurn(sessions);
  const own = (playing = performance.now());
  find("replay").textContent = "Stop";
  Object.assign(state, { clicks: [], steps: [], watched: { theme: sessions[place].theme, name: sessions[place].name } });
  const all = timeline.stops();
  const first = all.findLastIndex(({ session }) => session < place);
  const last = Math.min(first + REPLAYED, all.findLastIndex(({ session }) => session === place));
  for (let at = first; at <= last && playing === own; at++) {
    timeline.stopAt(at, false);
    const began = performance.now();
    await goTo(all[at], timeline.describe(), { label: at === first ? "before" : `click ${at - first}` });
    await new Promise((resume) => setTimeout(resume, Math.max(0, PACE_MS - (performance.now() - began))));
  }
  if (playing === own) stopPlaying();
}

function stopPlaying() {
  playing = 0;
  find("replay").textContent = "Replay the last turn";
}

// Of a few users, drawn from many, the first with a past to look at; where none has one, the last of them.
async function someoneElse() {
  const names = (await told(async () => (await api.users("", 1000)).value.users, [])).filter((name) => name !== state.user);
  for (let tries = MOST_DRAWN; names.length && tries > 0; tries--) {
    const [name] = names.splice(Math.floor(Math.random() * names.length), 1);
    const sessions = await told(async () => (await api.themes(name)).value.sessions.length, 0);
    if (sessions >= FEW_SESSIONS || tries === 1 || !names.length) return open(name);
  }
}

async function begin() {
  const wanted = given("user");
  await (wanted ? open(wanted) : someoneElse());
}

find("another").addEventListener("click", someoneElse);
find("again").addEventListener("click", again);
find("replay").addEventListener("click", () => told(replay));
find("back").addEventListener("click", () => { stopPlaying(); timeline.stopAt(timeline.stops().length - 1, true); find("as-of").focus(); });
find("token").addEventListener("submit", (event) => { event.preventDefault(); api.keepToken(find("secret").value); find("token").hidden = true; begin(); });
document.querySelectorAll("[name=mode]").forEach((radio) => radio.addEventListener("change", () => {
  state.mode = radio.value;
  if (state.user) open(state.user);
}));
document.documentElement.dataset.calm = isCalm();
find("key").replaceChildren(make("span", {}, "◆ a new theme"), make("span", {}, "↩ a theme comes back"));
begin();
