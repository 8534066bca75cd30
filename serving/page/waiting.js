// Requests that are under way -> a line that says so, once somebody would begin to wonder.

import { find } from "./dom.js";

const SLOW_MS = 600;
let flying = 0;
let timer = 0;

const say = (words) => { find("waiting").textContent = words; };

export async function waiting(work) {
  if (!flying++) timer = setTimeout(() => say("Waiting for the service …"), SLOW_MS);
  try {
    return await work;
  } finally {
    if (!--flying) {
      clearTimeout(timer);
      say("");
    }
  }
}
