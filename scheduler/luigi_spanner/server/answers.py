"""What Luigi's methods are for and what they answer, as JSON Schema. Luigi says neither: signatures name only what goes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luigi_spanner.server.checks import STATUSES, Schema


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One line on a method, and the schema of its reply."""

    summary: str
    schema: Schema


UNKNOWN = Answer(summary="A method of a later Luigi", schema={})
"""What is said of a method that is not in the table."""


def _object(required: Mapping[str, Any] | None = None, **optional: Any) -> Schema:
    """An object with these properties; it may have others."""
    required = required or {}
    return {"type": "object", "required": sorted(required), "properties": {**required, **optional}}


def _by_name(schema: Any) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def _list(schema: Any) -> Schema:
    return {"type": "array", "items": schema}


_NULL: Schema = {"type": "null"}
_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_NUMBER: Schema = {"type": "number"}
_TIME: Schema = {"type": "number", "description": "Seconds since the epoch."}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_YES_OR_NO: Schema = {"type": "boolean"}
_SCALAR: Schema = {"type": ["string", "number", "boolean", "null"]}
_RECORD: Schema = {"type": "object"}
_AMOUNTS = _by_name(_NUMBER)
_STATUS: Schema = {"enum": sorted(STATUSES)}

_TASK = _object(
    {
        "status": _STATUS,
        "workers": _list(_TEXT),
        "start_time": {"anyOf": [_TIME, {"const": "UNKNOWN"}]},
        "params": _RECORD,
        "name": _TEXT_OR_NULL,
        "priority": {"type": ["number", "boolean"]},
    },
    display_name=_TEXT,
    worker_running=_TEXT_OR_NULL,
    time_running={"anyOf": [_TIME, _NULL]},
    last_updated=_TIME,
    resources=_AMOUNTS,
    resources_running={"anyOf": [_AMOUNTS, _NULL]},
    tracking_url=_TEXT_OR_NULL,
    status_message={},
    progress_percentage=_SCALAR,
    re_enable_able=_YES_OR_NO,
    accepts_messages=_SCALAR,
    deps=_list(_TEXT),
)
_TASKS = _by_name(_TASK)
_TASKS_OR_HOW_MANY: Schema = {
    "anyOf": [_TASKS, {**_object({"num_tasks": {"type": "integer"}}), "additionalProperties": False}],
    "description": "Where they are too many to show: only how many, -1 if that was not counted.",
}
_PENDING = {
    "n_pending_tasks": _COUNT,
    "n_unique_pending": _COUNT,
    "worker_state": {"enum": ["active", "disabled"]},
    "running_tasks": _list(_object(task_id={}, worker={})),
}
_WORK = _object(
    {**_PENDING, "task_id": _TEXT_OR_NULL},
    n_pending_last_scheduled=_COUNT,
    task_family=_TEXT_OR_NULL,
    task_module=_TEXT_OR_NULL,
    task_params=_RECORD,
    batch_id=_TEXT,
    batch_task_ids=_list(_TEXT),
)
_WORKER = _object(
    {
        "name": _TEXT,
        "last_active": _TIME,
        "started": _TIME,
        "state": _TEXT,
        "first_task_display_name": _TEXT_OR_NULL,
        "num_unread_rpc_messages": _COUNT,
    }
)
_RESOURCE = _object({"name": _TEXT, "num_total": _NUMBER, "num_used": _NUMBER}, num_consumer=_COUNT, running=_TASKS)
_REASONS = _list(_object({"code": _TEXT, "sentence": _TEXT}))
_TASK_STATUS = _object({"task_id": _TEXT_OR_NULL, "status": {"enum": [*sorted(STATUSES), None]}})

_OUTCOME: Mapping[str, Any] = {
    "task_id": _TEXT,
    "before": {"enum": [*sorted(STATUSES), None], "description": "Its status before, null if there is no such task."},
    "status": {"enum": [*sorted(STATUSES), None]},
}
_NEIGHBOURS = _object({"total": _COUNT, "by_status": _by_name(_COUNT), "unfinished": _list(_TASK_STATUS)})
_TIME_OR_NULL: Schema = {"anyOf": [_TIME, _NULL]}
_LIMIT: Mapping[str, Any] = {
    "resource": _TEXT,
    "total": {"type": ["number", "null"]},
    "origin": {"enum": ["api", "config", "default", None]},
}

ANSWERS: Mapping[str, Answer] = {
    "add_scheduler_message_response": Answer(summary="Answer a message to a running task", schema=_NULL),
    "add_task": Answer(summary="Add a task, or say how it fares", schema=_NULL),
    "add_task_batcher": Answer(summary="Let tasks of a family run as a batch", schema=_NULL),
    "add_worker": Answer(summary="Introduce a worker", schema=_NULL),
    "announce_scheduling_failure": Answer(summary="Report a task that could not be scheduled", schema=_NULL),
    "cancel_task": Answer(
        summary="Let no worker have a task; tell one that runs, if it takes messages",
        schema=_object({**_OUTCOME, "worker": _TEXT_OR_NULL, "message_id": _TEXT_OR_NULL}),
    ),
    "count_pending": Answer(
        summary="Count what a worker has yet to do", schema=_object({**_PENDING, "n_pending_last_scheduled": _COUNT})
    ),
    "decrease_running_task_resources": Answer(summary="Give back resources of a running task", schema=_NULL),
    "dep_graph": Answer(summary="A task and all that it depends on", schema=_TASKS),
    "disable_worker": Answer(summary="Give a worker no more work", schema=_NULL),
    "evict_worker": Answer(
        summary="Take a worker for dead", schema=_object({"worker": _TEXT, "known": _YES_OR_NO, "running": _list(_TEXT)})
    ),
    "fail_task": Answer(summary="Take a task that waits or runs for failed", schema=_object(_OUTCOME)),
    "fetch_error": Answer(
        summary="Why a task failed",
        schema=_object(
            {"taskId": _TEXT, "error": {}},
            displayName=_TEXT,
            taskParams=_RECORD,
            taskModule=_TEXT_OR_NULL,
            taskFamily=_TEXT_OR_NULL,
        ),
    ),
    "find_tasks": Answer(
        summary="Tasks by status, family, worker and words, a page at a time",
        schema=_object({"tasks": _list(_object({"task_id": _TEXT})), "next": {"type": ["integer", "null"]}}),
    ),
    "forgive_failures": Answer(summary="Let a failed task run again", schema=_TASK_STATUS),
    "get_running_task_resources": Answer(
        summary="What a running task holds", schema=_object({"taskId": _TEXT, "resources": {"anyOf": [_AMOUNTS, _NULL]}})
    ),
    "get_scheduler_message_response": Answer(
        summary="Take the answer to a message to a running task", schema=_object({"response": {}})
    ),
    "get_task_progress_percentage": Answer(
        summary="How far a task is", schema=_object({"taskId": _TEXT, "progressPercentage": _SCALAR})
    ),
    "get_task_status_message": Answer(
        summary="What a task says of itself", schema=_object({"taskId": _TEXT, "statusMessage": {}})
    ),
    "get_work": Answer(summary="Ask for a task to run", schema=_WORK),
    "graph": Answer(summary="All tasks and what they depend on", schema=_TASKS),
    "has_task_history": Answer(summary="Whether a history of runs is kept", schema=_YES_OR_NO),
    "inverse_dep_graph": Answer(summary="A task and all that depends on it", schema=_TASKS),
    "is_pause_enabled": Answer(summary="Whether the scheduler can be paused", schema=_object({"enabled": _YES_OR_NO})),
    "is_paused": Answer(summary="Whether the scheduler is paused", schema=_object({"paused": _YES_OR_NO})),
    "mark_as_done": Answer(summary="Take a task for done", schema=_TASK_STATUS),
    "overview": Answer(
        summary="Journal, replicas, tasks by status, workers by state, resources",
        schema=_object(
            {
                "release": _TEXT,
                "time": _TIME,
                "head": _COUNT,
                "watermark": _COUNT,
                "paused": _YES_OR_NO,
                "importing": _YES_OR_NO,
                "replicas": _list(_object({"replica": _TEXT})),
                "tasks": _by_name(_COUNT),
                "workers": _by_name(_COUNT),
                "resources": _list(_object({**_LIMIT, "used": _NUMBER})),
            }
        ),
    ),
    "pause": Answer(summary="Give nobody any work", schema=_NULL),
    "ping": Answer(
        summary="A worker is alive; it takes the messages to it",
        schema=_object({"rpc_messages": _list(_object({"name": _TEXT, "kwargs": _RECORD}))}),
    ),
    "prune": Answer(summary="Let go of dead workers and of what nobody needs", schema=_NULL),
    "re_enable_task": Answer(summary="Let a task run that the scheduler has disabled", schema={"anyOf": [_TASK, {"const": {}}]}),
    "report_task_statistics": Answer(summary="Numbers of a task for the metrics collector", schema=_NULL),
    "reset_resource": Answer(
        summary="Let the configured limit of a resource hold again", schema=_object({**_LIMIT, "known": _YES_OR_NO})
    ),
    "resource_list": Answer(summary="Resources, their limits and their users", schema=_list(_RESOURCE)),
    "retry_task": Answer(
        summary="Let a failed, disabled or cancelled task run again at once",
        schema=_object({**_OUTCOME, "workers": {**_COUNT, "description": "How many workers may run it."}}),
    ),
    "send_scheduler_message": Answer(summary="Send a message to a running task", schema=_object({"message_id": _TEXT_OR_NULL})),
    "set_task_progress_percentage": Answer(summary="Say how far a task is", schema=_NULL),
    "set_task_status_message": Answer(summary="Say something of a task", schema=_NULL),
    "set_worker_processes": Answer(summary="Tell a worker how many tasks to run at once", schema=_NULL),
    "show_task": Answer(
        summary="All that is known of one task, null if there is none",
        schema={
            "anyOf": [
                _NULL,
                _object(
                    {
                        "task_id": _TEXT,
                        "status": _STATUS,
                        "failures": _COUNT,
                        "retry_at": _TIME_OR_NULL,
                        "disabled_at": _TIME_OR_NULL,
                        "enabled_again_at": _TIME_OR_NULL,
                        "remove_at": _TIME_OR_NULL,
                        "dependencies": _NEIGHBOURS,
                        "dependents": _NEIGHBOURS,
                    }
                ),
            ]
        },
    ),
    "task_list": Answer(summary="Tasks by status and text", schema=_TASKS_OR_HOW_MANY),
    "task_search": Answer(summary="Tasks by a part of their ids, under their statuses", schema=_by_name(_TASKS)),
    "unpause": Answer(summary="Give work again", schema=_NULL),
    "update_resource": Answer(summary="Limit a resource; false if the amount is none", schema=_YES_OR_NO),
    "update_resources": Answer(summary="Limit resources", schema=_NULL),
    "why": Answer(
        summary="Why a task is not running, or why a worker does not get it",
        schema=_object(
            {"task_id": _TEXT, "status": _STATUS, "summary": _TEXT, "runnable": _YES_OR_NO, "reasons": _REASONS}, worker_id=_TEXT
        ),
    ),
    "worker_list": Answer(summary="Workers and what they run", schema=_list(_WORKER)),
}
