"""The page of the HTTP interface, made from the OpenAPI schema that a service gives at /openapi.json."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from docs.generate.text import code, escape, page, paragraphs, table
from serve_app.http.api import ApiSettings, create_api

HEAD = """# HTTP

Every endpoint of the service, made from its OpenAPI schema. A running service gives the same at `/openapi.json`, and as
a page to try calls on at `/docs`. [Serve and evaluate over HTTP](../guides/serve.md) is the guide.

- Endpoints under `/v1` need the header `Authorization: Bearer TOKEN`, unless the service runs with `auth: none`.
- Errors have OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.
- In the bodies below, a key without a text means what it means in OpenAI's API."""


def http_page() -> str:
    # The schema follows from the routes alone: nothing behind them is asked for it.
    schema = create_api(cast(Any, None), ApiSettings()).openapi()
    calls = [
        (method.upper(), path, call)
        for path, methods in schema["paths"].items()
        for method, call in methods.items()
    ]
    overview = table(
        ["call", "what it does"],
        [
            [f"[`{method} {path}`](#{_anchor(method, path)})", _text(call).split("\n\n")[0]]
            for method, path, call in calls
        ],
    )
    bodies = [
        (name, body)
        for name, body in schema["components"]["schemas"].items()
        if not name.endswith("ValidationError")
    ]
    return page(
        HEAD,
        overview,
        "## Statuses",
        table(["status", "what it means"], statuses(call for *_, call in calls)),
        *(_call_section(*call) for call in calls),
        "## Bodies",
        *(_body_section(name, body) for name, body in bodies),
    )


def _text(call: Mapping[str, Any]) -> str:
    return paragraphs(call.get("description") or call.get("summary"))


def _anchor(method: str, path: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in path).split()
    return "-".join([method.lower(), *words])


def _call_section(method: str, path: str, call: Mapping[str, Any]) -> str:
    body = call.get("requestBody", {}).get("content", {}).get("application/json", {})
    done = next(said for status, said in call["responses"].items() if status.startswith("2"))
    answer = done.get("content", {}).get("application/json", {})
    return page(
        f"## {method} {path} {{#{_anchor(method, path)}}}",
        _text(call),
        f"Body: {_kind(body['schema'])}." if body else "",
        f"Answer: {_kind(answer['schema'])}." if answer.get("schema") else "",
        table(
            ["parameter", "where", "type", "default", "what it is"],
            [_parameter_row(one) for one in call.get("parameters", ())],
        ),
        f"Statuses: {', '.join(call['responses'])}.",
    ).rstrip()


def _parameter_row(one: Mapping[str, Any]) -> list[str]:
    schema = one["schema"]
    default = "required" if one.get("required") else _default(schema)
    text = escape(one.get("description") or "")
    return [code(one["name"]), one["in"], _kind(schema), default, text]


def statuses(calls: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Every status that any call may end with; each means the same for all of them."""
    found: dict[str, str] = {}
    for call in calls:
        for status, said in call["responses"].items():
            found.setdefault(status, said["description"])
    return [[status, escape(found[status])] for status in sorted(found)]


def _body_section(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        [
            code(key),
            _kind(value),
            "required" if key in required else _default(value),
            escape(" ".join(value.get("description", "").split())),
        ]
        for key, value in schema.get("properties", {}).items()
    ]
    return page(
        f"### {name} {{#{name.lower()}}}",
        paragraphs(schema.get("description")),
        table(["key", "type", "default", "what it is"], rows),
    ).rstrip()


def _default(schema: Mapping[str, Any]) -> str:
    value = schema.get("default")
    if value is None or value == {}:
        return ""
    return code(
        {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    )


def _kind(schema: Mapping[str, Any]) -> str:
    """The type of a value in words; OpenAPI writes unions, bounds and references in many ways."""
    if ref := schema.get("$ref"):
        name = ref.rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if several := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(_kind(one) for one in several))
    if "const" in schema:
        return code(_json(schema["const"]))
    if "enum" in schema:
        return " or ".join(code(_json(one)) for one in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of {_kind(schema.get('items', {}))}"
        case "object":
            inner = schema.get("additionalProperties")
            return (
                f"mapping to {_kind(inner)}" if isinstance(inner, Mapping) and inner else "mapping"
            )
        case "null":
            return "`null`"
        case kind:
            words = {"string": "text", "integer": "whole number", "boolean": "`true` or `false`"}
            return words.get(str(kind), str(kind or "anything")) + _bounds(schema)


def _json(value: Any) -> Any:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {
        "minimum": "&ge;",
        "exclusiveMinimum": "&gt;",
        "maximum": "&le;",
        "exclusiveMaximum": "&lt;",
    }
    parts = [f"{sign} {schema[name]}" for name, sign in signs.items() if name in schema]
    return f" ({', '.join(parts)})" if parts else ""
