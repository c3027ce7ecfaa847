// The dashboard: asks for a token where one is needed, then looks often while something runs, seldom otherwise.

import { Refused, token } from "/static/api.js";
import { connectSamples, refreshEvaluations } from "/static/evaluations.js";
import { refreshStudies } from "/static/studies.js";

const BUSY_MS = 1000, IDLE_MS = 5000;
const node = (id) => document.getElementById(id);
let timer = 0;

async function refresh() {
  clearTimeout(timer);
  let busy = true;
  try {
    const running = await Promise.all([refreshStudies(), refreshEvaluations()]);
    busy = running.some(Boolean);
    show("content");
    say(busy ? "Something runs; the page follows it" : "Up to date");
  } catch (error) {
    if (error instanceof Refused && [401, 403].includes(error.status)) {
      askForToken(token.get() ? error.message : "");
      return;
    }
    say(`No answer from the service: ${error.message}`);
  }
  timer = setTimeout(refresh, busy ? BUSY_MS : IDLE_MS);
}

function show(name) {
  for (const id of ["login", "content"]) node(id).hidden = id !== name;
  node("forget").hidden = !token.get();
}

function askForToken(problem) {
  token.forget();
  show("login");
  node("login-error").textContent = problem;
  say("A token is needed");
  node("token").focus();
}

// Only a change is announced, or a screen reader would read it out at each look.
function say(text) {
  if (node("status").textContent !== text) node("status").textContent = text;
}

node("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(node("token").value.trim());
  node("token").value = "";
  refresh();
});
node("forget").addEventListener("click", () => {
  clearTimeout(timer);
  askForToken("");
});
for (const id of ["study-choice", "axis-x", "axis-y"]) node(id).addEventListener("change", refresh);
connectSamples();
refresh();
