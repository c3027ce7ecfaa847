// Two objectives of a study as a scatter: a circle a trial, a diamond for those on the Pareto front.

import { number, svg } from "/static/dom.js";

const WIDTH = 640, HEIGHT = 400, LEFT = 64, RIGHT = 20, TOP = 20, BOTTOM = 52, TICKS = 5;

export function scatter(trials, x, y, directions) {
  const shown = trials.filter((trial) => [x, y].every((name) => typeof trial.objectives[name] === "number"));
  const across = scale(shown.map((trial) => trial.objectives[x]), LEFT, WIDTH - RIGHT);
  const up = scale(shown.map((trial) => trial.objectives[y]), HEIGHT - BOTTOM, TOP);
  const front = shown.filter((trial) => trial.front);
  const label = `${shown.length} trials by ${x} and ${y}; ${front.length} on the Pareto front. The table below has every value.`;
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "group", "aria-label": label },
    axes(across, up, x, y, directions),
    // With more objectives the front is no line in two of them.
    Object.keys(directions).length === 2 ? frontLine(front, x, y, across, up) : null,
    shown.map((trial) => point(trial, x, y, across, up)),
  );
}

function scale(values, from, to) {
  let low = Math.min(...values), high = Math.max(...values);
  if (!Number.isFinite(low)) [low, high] = [0, 1];
  const margin = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.1;
  [low, high] = [low - margin, high + margin];
  const map = (value) => from + ((value - low) / (high - low)) * (to - from);
  return Object.assign(map, { ticks: ticks(low, high) });
}

function ticks(low, high) {
  const raw = (high - low) / TICKS, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const found = [];
  for (let index = Math.ceil(low / step); index * step <= high; index += 1) found.push(index * step);
  return found;
}

function axes(across, up, x, y, directions) {
  const bottom = HEIGHT - BOTTOM;
  const title = (name) => `${name} (${directions[name] === "max" ? "larger" : "smaller"} is better)`;
  return [
    across.ticks.map((value) => [
      svg("line", { class: "grid", x1: across(value), x2: across(value), y1: TOP, y2: bottom }),
      svg("text", { x: across(value), y: bottom + 18, "text-anchor": "middle" }, number(value, 3)),
    ]),
    up.ticks.map((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: up(value), y2: up(value) }),
      svg("text", { x: LEFT - 8, y: up(value) + 4, "text-anchor": "end" }, number(value, 3)),
    ]),
    svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: bottom, y2: bottom }),
    svg("line", { class: "axis", x1: LEFT, x2: LEFT, y1: TOP, y2: bottom }),
    svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 12, "text-anchor": "middle" }, title(x)),
    svg("text", { transform: `translate(16 ${(TOP + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, title(y)),
  ].flat(2);
}

function frontLine(front, x, y, across, up) {
  const points = front.map((trial) => [across(trial.objectives[x]), up(trial.objectives[y])]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  return svg("polyline", { class: "front-line", points: points.map((pair) => pair.join(",")).join(" ") });
}

function point(trial, x, y, across, up) {
  const [left, top] = [across(trial.objectives[x]), up(trial.objectives[y])];
  const settings = Object.entries(trial.parameters).map(([key, value]) => `${key} = ${number(value)}`).join(", ");
  const text = `${trial.front ? "On the front: " : ""}${settings}; ${x} ${number(trial.objectives[x])}, ${y} ${number(trial.objectives[y])}`;
  const attributes = { class: trial.front ? "trial front" : "trial", tabindex: 0, role: "img", "aria-label": text };
  const title = svg("title", {}, text);
  if (!trial.front) return svg("circle", { ...attributes, cx: left, cy: top, r: 6 }, title);
  return svg("path", { ...attributes, d: `M${left} ${top - 9}L${left + 9} ${top}L${left} ${top + 9}L${left - 9} ${top}Z` }, title);
}
