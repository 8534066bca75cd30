// Sessions -> a table, newest first: the timeline for those who would rather read.

import { make } from "./dom.js";
import { mark } from "./themes.js";
import { moment, percent } from "./words.js";

export function table(root, sessions) {
  const rows = sessions.map((session) => {
    const hop = session.returned ? "comes back" : session.hopped ? "first time" : "stays";
    return make("tr", {}, make("td", {}, moment(session.started_at)), make("td", {}, String(session.num_events)),
      make("td", {}, mark(session.theme), ` ${session.name ?? "no theme"}`), make("td", {}, percent(session.share)), make("td", {}, hop));
  });
  const head = ["Began (UTC)", "Clicks", "Theme", "Share of clicks", "Turn"].map((name) => make("th", { scope: "col" }, name));
  root.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows.reverse())));
}
