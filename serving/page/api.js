// What the service is asked, in one place: a question -> its answer and how long it took. A refusal is thrown.

import { waiting } from "./waiting.js";

const TOKEN = "leitmotif.token";

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const keepToken = (token) => sessionStorage.setItem(TOKEN, token);

export const info = () => ask("info");

export const users = (prefix, limit = 12) => ask(`users?${new URLSearchParams({ prefix, limit })}`);

export const themes = (user) => ask(`users/${encodeURIComponent(user)}/themes`);

export const items = (ids) => ask(`items?${new URLSearchParams({ ids: ids.join(",") })}`);

export const recommend = (request) => ask("recommend", request);

// Why these items stand where they do, as of the moment that they were ranked at.
export const explain = ({ user_id, at, suppose }, candidates) =>
  ask("rank", { user_id, at, suppose, candidates, explain: true, preview: true });

export const click = (event) => ask("events", { events: [event] });

const MOST_WAITED_S = 3;

// Once more where the service is too busy: it did nothing, and says when.
async function ask(path, body, isAgain = false) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = {
    ...(body && { "content-type": "application/json" }),
    ...(token && { authorization: `Bearer ${token}` }),
  };
  const began = performance.now();
  let answer;
  try {
    answer = await waiting(fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers }));
  } catch {
    throw new Refused(0, "no_service", "The service does not answer. `make serve` starts it.");
  }
  const took = performance.now() - began;
  const wait = Number(answer.headers.get("retry-after"));
  if (answer.status === 429 && !isAgain && wait <= MOST_WAITED_S) {
    await new Promise((resume) => setTimeout(resume, 1000 * wait));
    return ask(path, body, true);
  }
  const value = await answer.json().catch(() => null);
  if (answer.ok && value !== null) return { value, took };
  const told = value?.error ?? {};
  throw new Refused(answer.status, told.code ?? "failed", told.message ?? `The service answered ${answer.status}.`);
}
