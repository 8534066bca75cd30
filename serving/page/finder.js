// Typing -> suggestions of users, by mouse or keyboard: the combobox of the ARIA practices.

import { make } from "./dom.js";

const PAUSE_MS = 120;

export function finder(input, list, suggest, onChosen) {
  let active = -1;
  let waiting = 0;
  let asked = 0;

  const options = () => [...list.children];
  const close = () => {
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };

  async function open() {
    const turn = ++asked;
    const names = await suggest(input.value.trim());
    if (turn !== asked || document.activeElement !== input) return;
    list.replaceChildren(...names.map((name, at) =>
      make("li", { role: "option", id: `user-${at}`, "aria-selected": "false", onmousedown: (event) => { event.preventDefault(); choose(name); } }, name)));
    if (!names.length) list.replaceChildren(make("li", { kind: "none", role: "option", "aria-disabled": "true", "aria-selected": "false" }, "No user begins like this. Enter takes it as a new one."));
    list.hidden = false;
    active = -1;
    input.setAttribute("aria-expanded", "true");
  }

  function move(by) {
    const all = options().filter((option) => !option.hasAttribute("aria-disabled"));
    if (!all.length) return;
    active = (active + by + all.length + (active < 0 && by < 0 ? 1 : 0)) % all.length;
    all.forEach((option, at) => option.setAttribute("aria-selected", String(at === active)));
    all[active].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", all[active].id);
  }

  function choose(name) {
    clearTimeout(waiting);
    asked++;
    input.value = name;
    close();
    onChosen(name);
  }

  const keys = {
    ArrowDown: () => (list.hidden ? open() : move(1)),
    ArrowUp: () => (list.hidden ? open() : move(-1)),
    Escape: close,
    Enter: () => {
      const chosen = list.hidden || active < 0 ? input.value.trim() : options()[active].textContent;
      if (chosen) choose(chosen);
    },
  };
  input.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(open, PAUSE_MS);
  });
  input.addEventListener("focus", () => input.select());
  input.addEventListener("blur", close);
}
