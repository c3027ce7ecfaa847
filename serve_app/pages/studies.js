// The studies section: a search, its trials as a table, two objectives as a scatter.

import { get } from "/static/api.js";
import { element, number, options, table } from "/static/dom.js";
import { scatter } from "/static/scatter.js";

const node = (id) => document.getElementById(id);
let shown = "";

export async function refreshStudies() {
  const studies = (await get("/v1/studies")).data;
  node("no-studies").hidden = studies.length > 0;
  node("study").hidden = studies.length === 0;
  if (studies.length) {
    options(node("study-choice"), studies.map((study) => [study.id, `${study.name} (${study.state})`]));
    draw(await get(`/v1/studies/${encodeURIComponent(node("study-choice").value)}`));
  }
  return studies.some((study) => study.is_live || study.state === "queued");
}

function draw(study) {
  const objectives = Object.keys(study.directions);
  const [x, y] = [node("axis-x"), node("axis-y")];
  const isNew = x.dataset.entries !== JSON.stringify(objectives.map((name) => [name, name]));
  for (const select of [x, y]) options(select, objectives.map((name) => [name, name]));
  if (isNew && objectives.length) [x.value, y.value] = [objectives[0], objectives.at(-1)];
  const state = JSON.stringify([study, x.value, y.value]);
  if (state === shown) return;
  shown = state;
  node("study-state").textContent = summary(study);
  node("scatter").replaceChildren(scatter(study.trials, x.value, y.value, study.directions));
  node("scatter-caption").textContent =
    "A circle is a trial; a diamond is on the Pareto front: it keeps every bound, and no other such trial is as good in every objective and better in one.";
  drawTrials(study, objectives);
}

function summary(study) {
  const states = Object.entries(study.trial_states).map(([state, count]) => `${count} ${state}`).join(", ");
  const error = study.error ? ` Error: ${study.error.split("\n")[0]}` : "";
  return `${study.name}: ${study.state}${study.is_live ? ", at work now" : ""}. Trials: ${states || "none yet"}.${error}`;
}

function drawTrials(study, objectives) {
  const parameters = [...new Set(study.trials.flatMap((trial) => Object.keys(trial.parameters)))].sort();
  const bounds = Object.keys(study.bounds);
  const arrow = (name) => `${name} ${study.directions[name] === "max" ? "↑" : "↓"}`;
  table(node("trials"), {
    caption: "Trials. ◆ marks the Pareto front; ↓ shall be small, ↑ large.",
    head: ["Trial", "State", "On the front", ...parameters, ...objectives.map(arrow), ...bounds.map((name) => `${name} ${study.bounds[name]}`)],
    rows: study.trials.map((trial) =>
      element("tr", { class: trial.front ? "front" : undefined },
        element("th", { scope: "row" }, trial.id),
        element("td", { title: trial.error ? trial.error.split("\n")[0] : undefined }, trial.state),
        element("td", {}, trial.front ? "yes" : ""),
        parameters.map((name) => element("td", { class: "number" }, number(trial.parameters[name]))),
        objectives.map((name) => element("td", { class: "number" }, number(trial.objectives[name]))),
        bounds.map((name) => element("td", { class: "number" }, number(trial.constraints[name]))),
      )),
  });
}
