// A ranking -> a list whose items glide to their new places.

import { isCalm, make } from "./dom.js";
import { FIRST } from "./gauge.js";
import { mark, spoken } from "./themes.js";
import { lifts, percent, reason, sources } from "./words.js";

const GLIDE = { duration: 300, easing: "cubic-bezier(.2, .8, .2, 1)" };

export function ranking(list, { onPick, onLight, onQuiet, titleOf, kindsOf, by = () => "" }) {
  const rows = new Map();

  function draw(items, canMove) {
    const before = new Map([...rows].map(([id, row]) => [id, { top: row.getBoundingClientRect().top, rank: Number(row.dataset.rank) }]));
    const strongest = Math.max(...items.map(({ score }) => score), Number.EPSILON);
    for (const [id, row] of rows) {
      if (items.some(({ item_id }) => item_id === id)) continue;
      row.remove();
      rows.delete(id);
    }
    items.forEach((item, place) => {
      const row = rows.get(item.item_id) ?? fresh();
      rows.set(item.item_id, row);
      fill(row, item, place + 1, before.get(item.item_id)?.rank, canMove && before.size > 0, strongest);
      if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
    });
    if (canMove && !isCalm()) glide(before);
  }

  function glide(before) {
    for (const [id, row] of rows) {
      const from = before.get(id)?.top;
      const moved = from === undefined ? null : from - row.getBoundingClientRect().top;
      if (moved === 0) continue;
      const frames = moved === null ? [{ opacity: 0 }, { opacity: 1 }] : [{ transform: `translateY(${moved}px)` }, { transform: "none" }];
      row.animate(frames, GLIDE);
    }
  }

  function fresh() {
    const light = () => onLight(row.carried, row.dataset.item);
    const button = make("button", { type: "button", kind: "pick", onclick: () => onPick(row.item) });
    const row = make("li", { kind: "item", onmouseenter: light, onmouseleave: onQuiet, onfocusin: light, onfocusout: onQuiet },
      make("span", { kind: "rank" }),
      make("div", { kind: "what" },
        make("p", { kind: "line" }, mark(null), button, make("span", { kind: "kinds" })),
        make("p", { kind: "why" })),
      make("div", { kind: "how" }));
    return row;
  }

  // A button that has the focus keeps it: it stays in its place in the row.
  function fill(row, item, rank, rankBefore, isMoved, strongest) {
    row.item = { ...item, rank };
    row.carried = item.reasons?.history ?? [];
    Object.assign(row.dataset, { rank, item: item.item_id, theme: item.theme ?? "" });
    row.classList.toggle("first-ten", rank <= FIRST);
    row.querySelector(".rank").replaceChildren(String(rank), ...step(rank, rankBefore, isMoved));
    row.querySelector(".mark").replaceWith(mark(item.theme));
    const button = row.querySelector(".pick");
    button.textContent = button.title = titleOf(item.item_id); // a long one is cut off
    button.setAttribute("aria-label", [`Click ${titleOf(item.item_id)}`, `rank ${rank}`, spoken(item.theme, item.theme_name), by()].filter(Boolean).join(", "));
    row.querySelector(".kinds").textContent = kindsOf(item.item_id) || (item.known ? "" : "not known to the model");
    row.querySelector(".how").replaceChildren(
      make("span", { kind: "gain", "aria-hidden": "true" }, make("i", { place: { width: `${(100 * item.score) / strongest}%` } })),
      make("span", { kind: "chance", title: "Probability of a click" }, percent(item.score)),
      make("span", { kind: "source" }, sources[item.source] ?? ""),
      ...(item.served === undefined ? [] : [versus(rank, item.served)]));
  }

  // The reasons come a moment after the ranking, by item_id.
  function explain(explained, now) {
    const parts = lifts(explained);
    for (const item of explained) {
      const row = rows.get(item.item_id);
      if (!row || !item.reasons) continue;
      row.carried = item.reasons.history;
      row.querySelector(".why").textContent = reason(item, parts.get(item.item_id), titleOf, now);
    }
    const focused = list.querySelector("li:focus-within, li:hover");
    if (focused) onLight(focused.carried, focused.dataset.item);
  }

  return { draw, explain, rows: () => rows, focus: (rank) => list.children[Math.min(rank, list.children.length) - 1]?.querySelector(".pick").focus() };
}

function step(rank, before, isMoved) {
  if (!isMoved || rank === before) return [];
  if (before === undefined) return [make("span", { kind: "step", title: "not in the list before" }, "new")];
  const kind = before > rank ? "step up" : "step down";
  return [make("span", { kind, title: `rank ${before} before` }, `${before > rank ? "▲" : "▼"}${Math.abs(before - rank)}`)];
}

// How an item of another model's list stands beside the served model's: null: not in its list at all.
function versus(rank, served) {
  if (served === null) return make("span", { kind: "versus only" }, "only here");
  if (served === rank) return make("span", { kind: "versus", title: "the same rank in both" }, "=");
  const kind = served > rank ? "versus up" : "versus down";
  return make("span", { kind, title: `rank ${served} of the served model` }, `${served > rank ? "▲" : "▼"}${Math.abs(served - rank)}`);
}
