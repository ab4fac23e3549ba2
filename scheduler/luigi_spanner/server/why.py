"""`/why`: the page for people that says why a task is not running. It holds all that it needs, and links to no other host."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from luigi_spanner.calls import Call, CallError, StoreDown
from luigi_spanner.server.page import PageHandler, part

QUESTION = "Why is it not running?"


class WhyHandler(PageHandler):
    """`/why/<task id>`, or `/why?task_id=...` from the form at `/why`; `worker=...` asks about one worker."""

    _call: Call | None = None

    async def get(self, task_id: str | None = None) -> None:
        wanted = task_id or self.get_query_argument("task_id", "")
        worker = self.get_query_argument("worker", "")
        if not wanted:
            self._show(QUESTION, wanted, worker)
            return
        try:
            answer = await self._answer(wanted, worker)
        except CallError as error:
            self.set_status(error.status)
            if isinstance(error, StoreDown):
                self.set_header("Retry-After", str(error.retry_after))
            self._show(HTTPStatus(error.status).phrase, wanted, worker, refusal=str(error))
            return
        self._show(f"Why is {wanted} not running{f' on {worker}' if worker else ''}?", wanted, worker, answer=answer)

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

    def _show(self, title: str, task_id: str, worker: str, *, answer: Mapping[str, Any] | None = None, refusal: str = "") -> None:
        def link(task_id: str) -> str:
            # A path of dots alone is none.
            return f"{self.up}/why/{part(task_id)}" if task_id.strip(".") else f"{self.up}/why?task_id={part(task_id)}"

        given = {"answer": answer, "refusal": refusal, "task_id": task_id, "worker": worker}
        self.render("why.html", title=title, link=link, named=_named, **given)


def _named(reason: Mapping[str, Any]) -> list[str]:
    """Ids of the tasks that a reason names, each once."""
    return list(dict.fromkeys(_tasks_of(reason)))


def _tasks_of(reason: Mapping[str, Any]) -> Iterator[str]:
    for name in ("task_id", "first", "runs_as"):
        if reason.get(name):
            yield str(reason[name])
    for name in ("path", "cycle", "batch"):
        yield from map(str, reason.get(name) or ())
    for name in ("held_by", "reserved_for"):
        yield from (str(each["task_id"]) for each in reason.get(name) or ())
    for inner in reason.get("reasons") or ():
        yield from _tasks_of(inner)
