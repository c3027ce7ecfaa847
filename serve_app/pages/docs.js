// The API page, drawn from openapi.json: every route, what it does, its parameters and the keys of its body.

import { element, table } from "/static/dom.js";

const schema = await (await fetch("/openapi.json")).json();
document.getElementById("description").textContent = schema.info.description;
document.getElementById("routes").replaceChildren(
  ...Object.entries(schema.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => draw(method, path, route))),
);

function draw(method, path, route) {
  const body = route.requestBody && route.requestBody.content["application/json"].schema;
  const parameters = (route.parameters || []).map((item) =>
    [item.name, `${item.in}${item.required ? ", required" : ""}`, kind(item.schema), item.description || ""]);
  return element("section", {},
    element("h3", {}, `${method.toUpperCase()} ${path}`),
    element("p", {}, route.description || route.summary || ""),
    parameters.length ? fields("Parameters", parameters) : null,
    body ? fields("Body", properties(resolved(body))) : null,
  );
}

function fields(caption, rows) {
  const result = element("table");
  table(result, {
    caption,
    head: ["Name", "", "Type", "Meaning"],
    rows: rows.map(([name, ...rest]) =>
      element("tr", {}, element("th", { scope: "row" }, name), rest.map((text) => element("td", {}, text)))),
  });
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, result);
}

function resolved(node) {
  return node.$ref ? schema.components.schemas[node.$ref.split("/").at(-1)] : node;
}

function properties(model) {
  const required = new Set(model.required || []);
  return Object.entries(model.properties || {}).map(([name, node]) =>
    [name, required.has(name) ? "required" : "", kind(node), node.description || ""]);
}

function kind(node) {
  if (node.$ref) return `{${properties(resolved(node)).map(([name]) => name).join(", ")}}`;
  if (node.anyOf || node.oneOf) return (node.anyOf || node.oneOf).map(kind).filter((text) => text !== "null").join(" or ");
  if (node.const !== undefined) return JSON.stringify(node.const);
  if (node.enum) return node.enum.map((value) => JSON.stringify(value)).join(", ");
  if (node.type === "array") return `list of ${kind(node.items || {})}`;
  return node.type || "anything";
}
