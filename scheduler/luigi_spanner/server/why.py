"""`/why`: the page for people that says why a task is not running. It holds all that it needs, and links to no other host."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import tornado.web
from tornado.escape import xhtml_escape

from luigi_spanner.calls import Call, CallError, StoreDown
from luigi_spanner.server.api import Service

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"
"""Of the page nothing is loaded and nothing is run, whatever a task is called."""

_STYLE = """\
body { font: 16px/1.5 sans-serif; max-width: 44em; margin: 1em auto; padding: 0 1em; overflow-wrap: anywhere; }
h1 { font-size: 1.3em; }
li { margin: .6em 0; }
input { font: inherit; width: 100%; box-sizing: border-box; padding: .3em; }
button { font: inherit; margin-top: .5em; padding: .3em 1em; }
code, .links { font-size: .85em; color: #555; }
"""


class WhyHandler(tornado.web.RequestHandler):
    """`/why/<task id>`, or `/why?task_id=...` from the form at `/why`; `worker=...` asks about one worker."""

    _call: Call | None = None

    def initialize(self, service: Service) -> None:
        self._service = service

    async def get(self, task_id: str | None = None) -> None:
        # All links are relative, so that they hold behind a path prefix.
        page = _Page("/".join([".."] * (self.request.path.count("/") - 1)) or ".")
        wanted = task_id or self.get_query_argument("task_id", "")
        worker = self.get_query_argument("worker", "")
        self.set_header("Content-Security-Policy", POLICY)
        if not wanted:
            self.finish(page.form())
            return
        try:
            self.finish(page.answer(await self._answer(wanted, worker), worker))
        except CallError as error:
            self.set_status(error.status)
            if isinstance(error, StoreDown):
                self.set_header("Retry-After", str(error.retry_after))
            self.finish(page.refusal(error, wanted, worker))

    head = get

    def on_connection_close(self) -> None:
        if self._call is not None:
            self._call.abandoned = True

    async def _answer(self, task_id: str, worker: str) -> dict[str, Any]:
        arguments = {"task_id": task_id, **({"worker": worker} if worker else {})}
        self._service.methods["why"].check(arguments)
        self._call = Call(request_id=self._service.ids(), method="why", arguments=arguments)
        answer: dict[str, Any] = json.loads(await self._service.scheduling.call(self._call))
        return answer


class _Page:
    """HTML. `up` leads from the page to the root of what is served."""

    def __init__(self, up: str) -> None:
        self._up = up

    def form(self, task_id: str = "", worker: str = "") -> str:
        return self._page("Why is it not running?", self._fields(task_id, worker))

    def refusal(self, error: CallError, task_id: str, worker: str) -> str:
        said = f"<p>{xhtml_escape(str(error))}</p>\n"
        return self._page(HTTPStatus(error.status).phrase, said + self._fields(task_id, worker))

    def answer(self, answer: Mapping[str, Any], worker: str) -> str:
        task_id = str(answer["task_id"])
        about = f" on {xhtml_escape(worker)}" if worker else ""
        may = "It may run." if answer["runnable"] else ""
        graph = f"{self._up}/static/visualiser/index.html#tab=graph&amp;taskId={_part(task_id)}"
        body = (
            f"<p><strong>{xhtml_escape(str(answer['status']))}</strong> {may}</p>\n"
            f"{self._reasons(answer['reasons'])}"
            f'<p class="links"><a href="{graph}">graph</a> &middot; '
            f'<a href="{self._up}/api/why?task_id={_part(task_id)}">JSON</a></p>\n'
            f"{self._fields(task_id, worker)}"
        )
        return self._page(f"Why is {xhtml_escape(task_id)} not running{about}?", body)

    def _reasons(self, reasons: list[dict[str, Any]]) -> str:
        return f"<ul>\n{''.join(map(self._reason, reasons))}</ul>\n"

    def _reason(self, reason: dict[str, Any]) -> str:
        links = " &middot; ".join(dict.fromkeys(self._link(task_id) for task_id in _tasks_of(reason)))
        more = f'<div class="links">{links}</div>' if links else ""
        inner = reason.get("reasons") or []
        return (
            f"<li>{xhtml_escape(reason['sentence'])} <code>{xhtml_escape(reason['code'])}</code>{more}"
            f"{self._reasons(inner[1:]) if inner[1:] else ''}</li>\n"
        )

    def _link(self, task_id: str) -> str:
        # A path of dots alone is none.
        where = f"why/{_part(task_id)}" if task_id.strip(".") else f"why?task_id={task_id}"
        return f'<a href="{self._up}/{where}">{xhtml_escape(task_id)}</a>'

    def _fields(self, task_id: str, worker: str) -> str:
        return (
            f'<form action="{self._up}/why" method="get">\n'
            f'<p><label>Task id <input name="task_id" value="{xhtml_escape(task_id)}" required></label></p>\n'
            f'<p><label>Worker, if it is about one <input name="worker" value="{xhtml_escape(worker)}"></label></p>\n'
            "<p><button>Why is it not running?</button></p>\n</form>\n"
        )

    def _page(self, title: str, body: str) -> str:
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>\n{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
        )


def _part(text: str) -> str:
    """Text as a part of a path or of a query; also within an attribute."""
    return quote(text, safe="")


def _tasks_of(reason: Mapping[str, Any]) -> Iterator[str]:
    """Ids of the tasks that a reason names."""
    for name in ("task_id", "first", "runs_as"):
        if reason.get(name):
            yield str(reason[name])
    for name in ("path", "cycle", "batch"):
        yield from map(str, reason.get(name) or ())
    for name in ("held_by", "reserved_for"):
        yield from (str(each["task_id"]) for each in reason.get(name) or ())
    for inner in reason.get("reasons") or ():
        yield from _tasks_of(inner)
