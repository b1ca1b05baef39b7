"""The page at ``/docs``: the OpenAPI document as plain HTML, without a script or a file from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}
code,pre{font:14px/1.4 ui-monospace,monospace;background:#8882;border-radius:4px;padding:.1em .3em}
pre{padding:.8em;overflow-x:auto}h2{margin-top:2.2rem;border-top:1px solid #8886;padding-top:1rem}
td,th{text-align:left;padding:.15em 1em .15em 0;vertical-align:top}:root{color-scheme:light dark}"""


def docs_page(openapi: Mapping[str, Any]) -> str:
    """The document as one HTML page."""
    return "\n".join(_page(openapi))


def _page(openapi: Mapping[str, Any]) -> Iterator[str]:
    info = openapi["info"]
    title = escape(info["title"])
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    yield f"<h1>{title} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
    yield '<p>For programs: <a href="/openapi.json">/openapi.json</a>.</p>'
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            yield from _operation(method.upper(), path, operation)
    yield "<h2>Objects</h2>"
    for name, schema in openapi.get("components", {}).get("schemas", {}).items():
        if name not in ("HTTPValidationError", "ValidationError"):
            yield f"<h3 id={escape(name)}>{escape(name)}</h3><p>{escape(schema.get('description', ''))}</p>"
            yield from _fields(schema)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{method} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"
    for parameter in operation.get("parameters", ()):
        yield f"<p>Parameter <code>{escape(parameter['name'])}</code>: {_kind(parameter['schema'])}</p>"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    for schema in body.get("schema", {}).get("oneOf", ()):
        yield f"<h3>Body: {escape(schema.get('description', ''))}</h3>"
        yield from _fields(schema)
    for example in body.get("examples", {}).values():
        command = f"curl -s http://localhost:8080{path} -d '{json.dumps(example['value'])}'"
        yield f"<p>{escape(example['summary'])}:</p><pre>{escape(command)}</pre>"
    yield "<table>"
    for status, response in operation.get("responses", {}).items():
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        yield f"<tr><td>{escape(status)}<td>{escape(response.get('description', ''))}<td>{_kind(schema)}</tr>"
    yield "</table>"


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "<table>"
    for name, field in schema.get("properties", {}).items():
        text = escape(field.get("description", ""))
        default = f" (default {escape(json.dumps(field['default']))})" if field.get("default") is not None else ""
        yield f"<tr><td><code>{escape(name)}</code><td>{_kind(field)}<td>{text}{default}</tr>"
    yield "</table>"


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f"<a href='#{name}'>{name}</a>"
    if "enum" in schema:
        return " | ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " | ".join(_kind(one) for one in schema[several])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(str(schema.get("format") or schema.get("type", "")))
