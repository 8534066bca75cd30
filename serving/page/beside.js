// Another model's answer to the same clicks -> a second list beside the first, threads between equal items, what differs.

import { drawing, find, make } from "./dom.js";
import { FIRST, gauge, shareOf } from "./gauge.js";
import { ranking } from "./ranking.js";
import { mark, tone } from "./themes.js";
import { count, percent } from "./words.js";

const MODELS = { mos: "MoS", din: "DIN" };
const WHICH = { runner_up: "of the same run", previous: "the champion before", newest: "the newest, not promoted" };
const ALONE = "";

export const modelName = (model) => MODELS[model] ?? model;

export function beside({ onChosen, onPick, onLight, onQuiet, titleOf, kindsOf }) {
  let offered = [];
  let own = [];
  const choice = find("beside");
  const list = ranking(find("other-items"), { onPick, onLight, onQuiet, titleOf, kindsOf, by: () => `by ${modelName(chosen().model)}` });
  const chosen = () => offered.find(({ name }) => name === choice.value) ?? null;
  choice.addEventListener("change", () => onChosen(chosen()?.name ?? null));
  new ResizeObserver(() => threads()).observe(find("columns"));

  // What the service has loaded beside the model that it serves; wanted: of these, the one to begin with.
  function offer(info, wanted) {
    offered = info.beside ?? [];
    const options = offered.map(({ name, model }) => make("option", { value: name }, `${modelName(model)}, ${WHICH[name] ?? name}`));
    choice.replaceChildren(make("option", { value: ALONE }, "no other model"), ...options);
    choice.value = offered.some(({ name }) => name === wanted) ? wanted : ALONE;
    find("beside-tool").hidden = offered.length === 0;
    find("own-model").textContent = modelName(info.model);
    return chosen()?.name ?? null;
  }

  // steps: of both, click by click; each has `items` of the served model's list and `other` of the other's.
  function draw(items, reply, other, watched, steps, canMove) {
    find("both").classList.toggle("is-beside", other !== null);
    for (const id of ["own-head", "other-head", "threads", "other-list"]) find(id).hidden = other === null;
    find("common").textContent = "";
    if (other === null) return;
    own = items;
    const { model, name } = chosen();
    find("other-model").textContent = modelName(model);
    find("other-which").textContent = WHICH[name] ?? name;
    find("own-mood").replaceChildren(...mood(reply.themes[0], true));
    find("other-mood").replaceChildren(...mood(other.themes[0], other.isThemed));
    gauge(find("own-gauge"), items, watched, steps);
    gauge(find("other-gauge"), other.items, watched, othersOf(steps, watched));
    list.draw(other.items.map((item) => versus(item, reply.items)), canMove);
    const key = `▲▼: how many ranks above or below its place with ${find("own-model").textContent}.`;
    find("common").replaceChildren(inCommon(items, other.items), make("span", {}, key));
    threads();
  }

  function threads() {
    const root = find("threads");
    if (root.hidden) return;
    const width = root.clientWidth;
    const from = new Map([...find("items").children].map((row) => [row.dataset.item, row]));
    const paths = [...list.rows()].filter(([id]) => from.has(id)).map(([id, row]) => {
      const [left, right] = [from.get(id), row].map((each) => each.offsetTop - each.parentElement.offsetTop + each.offsetHeight / 2);
      const theme = row.dataset.theme === "" ? null : Number(row.dataset.theme);
      return drawing("path", { d: `M0 ${left}C${width / 2} ${left} ${width / 2} ${right} ${width} ${right}`, class: `thread ${tone(theme)}`, "data-item": id });
    });
    root.replaceChildren(drawing("svg", { width, height: root.clientHeight }, ...paths));
  }

  // The same item in both lists, while it is pointed at or has the focus.
  function light(id) {
    quiet();
    find("columns").querySelectorAll(`[data-item="${CSS.escape(id)}"]`).forEach((each) => each.classList.add("same"));
  }

  const quiet = () => find("columns").querySelectorAll(".same").forEach((each) => each.classList.remove("same"));

  const said = (other, watched) => `${modelName(chosen().model)} has ${shareOf(other.items, watched.theme)} of that theme. ${inCommon(own, other.items)}`;

  return { offer, draw, light, quiet, said, focus: list.focus, chosen: () => chosen()?.name ?? null };
}

// Where the served model has the item: of its whole answer, of which a list shows the first.
function versus(item, among) {
  const at = among.findIndex(({ item_id }) => item_id === item.item_id);
  return { ...item, served: at < 0 ? null : at + 1 };
}

const othersOf = (steps, watched) =>
  steps.filter(({ other }) => other).map(({ label, other }) => ({ label, number: shareOf(other, watched.theme) }));

function inCommon(items, others) {
  const first = new Set(items.slice(0, FIRST).map(({ item_id }) => item_id));
  const both = others.slice(0, FIRST).filter(({ item_id }) => first.has(item_id)).length;
  return `${both ? count(both, "item") : "No item"} of the top ${FIRST} ${both > 1 ? "are" : "is"} in both lists.`;
}

// A theme of another bundle has a number of its own: its name is told without a mark.
function mood(current, isMarked) {
  if (!current) return ["sees no theme"];
  return ["sees ", isMarked && mark(current.theme), ` ${current.name}, ${percent(current.share)}`];
}
