// The evaluations section: one table a suite and metric (models by conditions), the list with progress, single samples.

import { get } from "/static/api.js";
import { element, percent, table } from "/static/dom.js";

const METRICS = {
  asr: "Attack success: answers that give what the question should not get (lower is safer)",
  degenerate_rate: "Degenerate answers: no answer in sense, so that a low attack success is no safe answer there (lower is better)",
  refusal_rate: "Refusals (of safe questions: lower is better)",
  useful_rate: "Useful answers (higher is better)",
};
const PAGE = 20;
const node = (id) => document.getElementById(id);
let shown = "";
let open = { id: null, offset: 0 };

export async function refreshEvaluations() {
  const evaluations = (await get("/v1/evaluations?limit=200")).data;
  const state = JSON.stringify(evaluations);
  if (state !== shown) {
    shown = state;
    node("no-evaluations").hidden = evaluations.length > 0;
    drawResults(evaluations.filter((evaluation) => evaluation.rows.length));
    drawList(evaluations);
  }
  return evaluations.some((evaluation) => ["queued", "running"].includes(evaluation.state));
}

function drawResults(evaluations) {
  const suites = Map.groupBy ? Map.groupBy(evaluations, suiteOf) : grouped(evaluations);
  node("results").replaceChildren(...[...suites].flatMap(([suite, members]) => [
    element("h3", {}, `Suite ${suite}`),
    ...metricsOf(members).map((metric) => matrix(metric, newest(members))),
  ]));
}

const suiteOf = (evaluation) => evaluation.suite || "inline samples";

function grouped(evaluations) {
  const result = new Map();
  for (const item of evaluations) result.set(suiteOf(item), [...(result.get(suiteOf(item)) || []), item]);
  return result;
}

function metricsOf(evaluations) {
  const found = new Set(evaluations.flatMap((evaluation) => evaluation.rows.map((row) => row.metric)));
  const known = Object.keys(METRICS).filter((metric) => found.has(metric));
  return [...known, ...[...found].filter((metric) => !(metric in METRICS)).sort()];
}

// The list is newest first: an older evaluation of the same model on the same suite gives way.
function newest(evaluations) {
  const models = new Map();
  for (const evaluation of evaluations) if (!models.has(evaluation.model)) models.set(evaluation.model, evaluation);
  return [...models.values()].reverse();
}

function matrix(metric, evaluations) {
  const rowsOf = (evaluation) => evaluation.rows.filter((row) => row.metric === metric);
  const conditions = [...new Set(evaluations.flatMap((evaluation) => rowsOf(evaluation).map((row) => row.condition)))];
  const judges = [...new Set(evaluations.flatMap((evaluation) => rowsOf(evaluation).slice(0, 1).map((row) => row.judge)))].filter(Boolean);
  const by = judges.length ? `, by ${judges.join(", ")}` : "";
  const result = element("table", { class: "results", "data-metric": metric });
  table(result, {
    caption: `${METRICS[metric] || metric}${by}, with 95 % intervals. "plain" is before the attack, the other columns after it.`,
    head: ["Model", ...conditions],
    rows: evaluations.map((evaluation) =>
      element("tr", {},
        element("th", { scope: "row" }, evaluation.model, evaluation.state === "finished" ? "" : ` (${evaluation.state})`),
        conditions.map((name) => cell(rowsOf(evaluation).find((row) => row.condition === name))),
      )),
  });
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": METRICS[metric] || metric }, result);
}

function cell(row) {
  if (!row || row.value === null || row.value === undefined) return element("td", { class: "number" }, "not measured");
  return element("td", { class: "number" }, percent(row.value),
    element("small", {}, `${percent(row.low)} to ${percent(row.high)}, n = ${row.n}${silence(row)}`));
}

// Answers that no verdict speaks of: outside the rate, or in it by the rule for silence of the protocol "paper".
function silence(row) {
  if (row.defaulted) return `, ${row.defaulted} by default`;
  return row.unscored ? `, ${row.unscored} unscored` : "";
}

function drawList(evaluations) {
  if (!evaluations.length) return node("evaluations").replaceChildren();
  table(node("evaluations"), {
    caption: "Evaluations, newest first",
    head: ["Evaluation", "Model", "Suite", "Judges", "State", "Progress", "Samples"],
    rows: evaluations.map((evaluation) =>
      element("tr", {},
        element("th", { scope: "row" }, evaluation.id),
        element("td", {}, evaluation.model),
        element("td", {}, suiteOf(evaluation)),
        element("td", {}, evaluation.judges.join(", ")),
        element("td", { title: evaluation.error || undefined }, evaluation.state),
        element("td", {}, progress(evaluation)),
        element("td", {}, samplesButton(evaluation)),
      )),
  });
}

function progress(evaluation) {
  const { done, total } = evaluation.progress;
  const text = total ? `${done} of ${total}` : "waits";
  return [element("progress", { max: total || 1, value: done, "aria-label": text }), ` ${text}`];
}

function samplesButton(evaluation) {
  const button = element("button", { type: "button", "aria-label": `Samples of ${evaluation.id}` }, "Show");
  button.addEventListener("click", async () => {
    open = { id: evaluation.id, offset: 0 };
    await drawSamples();
    node("samples-title").focus();
  });
  return button;
}

export function connectSamples() {
  node("unredacted").addEventListener("change", drawSamples);
  node("samples-back").addEventListener("click", () => turn(-PAGE));
  node("samples-next").addEventListener("click", () => turn(PAGE));
}

function turn(step) {
  open.offset = Math.max(0, open.offset + step);
  return drawSamples();
}

async function drawSamples() {
  const unredacted = node("unredacted").checked;
  const path = `/v1/evaluations/${encodeURIComponent(open.id)}/samples`;
  node("samples-section").hidden = false;
  node("samples-title").textContent = `Samples of ${open.id}`;
  node("samples-error").textContent = "";
  try {
    const page = await get(`${path}?limit=${PAGE}&offset=${open.offset}&unredacted=${unredacted}`);
    node("samples-back").disabled = open.offset === 0;
    node("samples-next").disabled = !page.has_more;
    drawSamplesTable(page.data);
  } catch (error) {
    node("samples").replaceChildren();
    node("samples-error").textContent = error.message;
  }
}

function drawSamplesTable(samples) {
  table(node("samples"), {
    caption: samples.length ? `Samples ${open.offset + 1} to ${open.offset + samples.length}` : "No samples yet",
    head: ["Sample", "Condition", "Question", "Answer", "Verdicts"],
    rows: samples.map((sample) =>
      element("tr", {},
        element("th", { scope: "row" }, sample.sample_id),
        element("td", {}, sample.condition),
        element("td", {}, sample.question),
        element("td", { class: sample.redacted ? "quiet" : undefined }, sample.answer),
        element("td", {}, sample.verdicts.map((verdict) => element("div", {}, `${verdict.judge}: ${verdict.label}`))),
      )),
  });
}
