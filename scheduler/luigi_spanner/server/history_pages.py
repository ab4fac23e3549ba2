"""The history over HTTP: Luigi's routes, as pages for people and as JSON for programs (`Accept` or `?format=json`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlencode

import tornado.web

from luigi_spanner.calls import CallError
from luigi_spanner.history import Change, History, Page, Wanted
from luigi_spanner.server.api import JSON_TYPE, Service
from luigi_spanner.server.page import PageHandler
from luigi_spanner.stores import StoreError

LIMIT = 100
MOST = 1000
"""Runs on a page, unless asked for more, and at most."""

DAY_SECONDS = 86_400.0
"""What is latest, as stock has it: of the last 24 hours."""

OTHERS = 20
"""How many other runs of the task a run's page names."""

UNAVAILABLE = "The history cannot be read at the moment: the store does not answer. Try again."


class HistoryPage(PageHandler):
    """What the pages share: without a history they say so."""

    def get_template_namespace(self) -> dict[str, Any]:
        return {**super().get_template_namespace(), "moment": moment, "length": length, "round": round}

    async def get(self, *path: str) -> None:
        history = self._service.scheduling.history
        if history is None:
            self._show("history_off.html", {"runs": [], "history": False}, title="Task history is off")
            return
        try:
            await self.answer(history, *path)
        except (asyncio.TimeoutError, CallError, StoreError):
            self._fail(503, UNAVAILABLE)

    head = get

    async def answer(self, history: History, *path: str) -> None:
        """Answer from the history. Raises CallError, TimeoutError where the store is away."""
        raise NotImplementedError  # pragma: no cover

    @property
    def wants_json(self) -> bool:
        """Whether a program asks."""
        asked = self.get_query_argument("format", "")
        return asked == "json" or (not asked and "application/json" in self.request.headers.get("Accept", ""))

    def wanted(self, **more: Any) -> Wanted:
        """Which runs the query asks for. Raises HTTPError 400."""
        before, limit = self._number("before", 0, 2**63 - 1), self._number("limit", 1, MOST)
        return Wanted(before=before, limit=LIMIT if limit is None else limit, **more)

    def _number(self, name: str, low: int, high: int) -> int | None:
        text = self.get_query_argument(name, "")
        if not text:
            return None
        if not (text.isdecimal() and text.isascii() and len(text) < 20 and low <= int(text) <= high):
            raise tornado.web.HTTPError(400, reason=f"{name} is no number from {low} to {high}")
        return int(text)

    def show_runs(self, page: Page, template: str, *, title: str, **more: Any) -> None:
        """A page of runs."""
        value = {"runs": [asdict(change) for change in page.changes], "next": page.next}
        self._show(template, value, title=title, runs=page.changes, following=self._following(page), **{"note": "", **more})

    def _following(self, page: Page) -> str | None:
        if page.next is None:
            return None
        query = {name: self.get_query_argument(name) for name in self.request.query_arguments if name != "before"}
        return "?" + urlencode({**query, "before": page.next}, errors="replace")

    def _show(self, template: str, value: Mapping[str, Any], **names: Any) -> None:
        if self.wants_json:
            self.set_header("Content-Type", JSON_TYPE)
            self.finish(json.dumps(value))
        else:
            self.render(template, **names)

    def _fail(self, status: int, sentence: str) -> None:
        self.set_status(status)
        codes = {400: "bad_request", 404: "not_found", 503: "store_down"}
        self._show(
            "history_missing.html",
            {"error": {"code": codes[status], "message": sentence}},
            title="Task history",
            sentence=sentence,
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if status_code == 400:
            self._fail(400, f"{self._reason}.")
        else:
            super().write_error(status_code, **kwargs)


class LatestRuns(HistoryPage):
    """`/history`: the runs of the last 24 hours."""

    async def answer(self, history: History, *path: str) -> None:
        page = await history.latest(self.wanted(), history.now() - DAY_SECONDS)
        self.show_runs(page, "history_runs.html", title="Runs of the last 24 hours")


class RunsOfFamily(HistoryPage):
    """`/history/by_name/FAMILY`."""

    async def answer(self, history: History, *path: str) -> None:
        page = await history.latest(self.wanted(family=path[0]))
        self.show_runs(page, "history_runs.html", title=f"Runs of {path[0]}")


class RunsWithParams(HistoryPage):
    """`/history/by_params/FAMILY?data={"name": "value"}`."""

    async def answer(self, history: History, *path: str) -> None:
        params = self._params()
        page, whole = await history.by_params(path[0], params, self.wanted())
        shown = ", ".join(f"{name}={value}" for name, value in params.items())
        note = "" if whole or page.next is None else "Not all runs have been looked through: go on with Older."
        self.show_runs(page, "history_runs.html", title=f"Runs of {path[0]} with {shown or 'any parameters'}", note=note)

    def _params(self) -> dict[str, Any]:
        try:
            params = json.loads(self.get_query_argument("data", "{}"))
        except (ValueError, RecursionError):
            params = None
        if not isinstance(params, dict):
            raise tornado.web.HTTPError(400, reason="data is no JSON object of parameters")
        return params


class OneRun(HistoryPage):
    """`/history/by_id/NUMBER`: what happened in one run."""

    async def answer(self, history: History, *path: str) -> None:
        number = int(path[0]) if path[0].isdecimal() and path[0].isascii() and len(path[0]) < 20 else None
        changes = await history.run(number) if number is not None and number < 2**63 else []
        if changes:
            await self.show_run(history, changes)
        else:
            self._fail(404, f"There is no run {path[0]}, or it is older than runs are kept.")

    async def show_run(self, history: History, changes: Sequence[Change]) -> None:
        """The page of a run."""
        last = changes[-1]
        more = await history.latest(Wanted(task_id=last.task_id, limit=OTHERS + 1))
        others = [change for change in more.changes if change.run != last.run]
        value = {"changes": [asdict(change) for change in changes], "others": [asdict(change) for change in others]}
        self._show("history_run.html", value, title=last.task_id, last=last, changes=changes, others=others)


class LastRunOfTask(OneRun):
    """`/history/by_task_id/TASK`: the last run of the task, with links to the others."""

    async def answer(self, history: History, *path: str) -> None:
        page = await history.latest(Wanted(task_id=path[0], limit=1))
        changes = await history.run(page.changes[0].id) if page.changes else []
        if changes:
            await self.show_run(history, changes)
        else:
            self._fail(404, f"Task {path[0]} has no run, or none as young as runs are kept.")


class Families(HistoryPage):
    """`/tasklist`: every family that has runs."""

    async def answer(self, history: History, *path: str) -> None:
        families = await history.families()
        self._show("history_families.html", {"families": families}, title="Families", families=families)


class DurationsOfFamily(HistoryPage):
    """`/tasklist/FAMILY`: how long its runs took."""

    async def answer(self, history: History, *path: str) -> None:
        page = await history.latest(self.wanted(family=path[0]))
        ended = replace(page, changes=tuple(change for change in page.changes if change.duration is not None))
        longest = max((change.duration or 0.0 for change in ended.changes), default=0.0)
        self.show_runs(ended, "history_durations.html", title=f"How long {path[0]} takes", family=path[0], longest=longest)


def moment(seconds: float) -> str:
    """Seconds since the epoch, for people."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def length(seconds: float | None) -> str:
    """A duration, for people."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def routes(service: Service) -> list[tuple[str, type[HistoryPage], dict[str, Any]]]:
    """The pages by their paths."""
    pages: tuple[tuple[str, type[HistoryPage]], ...] = (
        (r"/history/?", LatestRuns),
        (r"/history/by_name/(.+?)/?", RunsOfFamily),
        (r"/history/by_params/(.+?)/?", RunsWithParams),
        (r"/history/by_task_id/(.+?)/?", LastRunOfTask),
        (r"/history/by_id/(.+?)/?", OneRun),
        (r"/tasklist/?", Families),
        (r"/tasklist/(.+?)/?", DurationsOfFamily),
    )
    return [(path, page, {"service": service}) for path, page in pages]
