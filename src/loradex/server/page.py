"""`/docs`: the routes on one page, from the OpenAPI description. It loads nothing, so that it works without network."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 16px/1.5 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em }}
td {{ padding: .2em 1em .2em 0; vertical-align: top }} code {{ white-space: nowrap }}</style>
<h1>{title} {version}</h1>
<p>{about}</p>
<p>Bodies and replies are in the <a href="/openapi.json">OpenAPI description</a>.</p>
{parts}
</html>
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Show every route with what it does."""
    return HTMLResponse(page(request.app.openapi()))


def page(schema: dict[str, Any]) -> str:
    """Return the page for an OpenAPI description."""
    parts: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            what = escape(route.get("description") or route.get("summary", ""))
            row = f"<tr><td><code>{method.upper()} {escape(path)}</code></td><td>{what}</td></tr>"
            parts.setdefault((route.get("tags") or ["Other"])[0], []).append(row)
    tables = [f"<h2>{escape(name)}</h2>\n<table>\n{chr(10).join(rows)}\n</table>" for name, rows in parts.items()]
    info = schema["info"]
    about = escape(info.get("description", ""))
    return _PAGE.format(title=escape(info["title"]), version=info["version"], about=about, parts="\n".join(tables))
