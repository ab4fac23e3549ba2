"""What replicas say to each other through the state: who is there, who prunes and when, and which workers are alive.

Each method is run like any call.
"""

from __future__ import annotations

from typing import Any

from luigi import scheduler as luigi_scheduler

from luigi_spanner.graph.rows import Resources

LAST_PRUNE = ("last_prune",)

PRUNED_AT_ONCE = 5000
"""Most tasks that one prune changes, about 0.2 s of work (measured). What is left makes the next prune due."""

PRUNE_SECONDS = 60.0
"""Stock luigid prunes once a minute."""


class RulesMismatch(Exception):
    """A live replica of the namespace schedules by other rules (I12)."""


class Coordination(luigi_scheduler.Scheduler):
    """The rules for replicas. `Graph` brings state, clock and the rest."""

    _state: Any
    _resources: Resources
    _more: bool
    _at_once: int
    limits: dict[str, Any]

    def configure(self) -> None:
        """Let the configuration's resource limits take effect where the API has not overridden them."""
        self._resources.configure(self.limits)

    def join(self, replica: str, rules: str, release: str, process: str, grace: float, refuse: bool) -> None:
        """Enter a replica with the hash of its rules. Raises RulesMismatch when a replica seen within `grace` seconds has
        other rules and `refuse` is set; else the newcomer's limits hold, unless such a replica lives."""
        now = self.now()
        others = [(key, row) for key, row in self._state.replicas.items() if key != (replica,)]
        foreign = [str(key[0]) for key, row in others if abs(now - row["seen_at"]) <= grace and row["rules"] != rules]
        if foreign and refuse:
            raise RulesMismatch(
                f"replica {foreign[0]} of this namespace runs with other [scheduler] or [resources] rules; give all replicas the "
                "same luigi.cfg, or set rules_mismatch = warn in [luigi_spanner]"
            )
        for key, row in others:
            if abs(now - row["seen_at"]) > grace:
                self._state.replicas.remove(key)
        if not foreign:
            self.configure()
        self._state.replicas.put(
            (replica,), {"rules": rules, "release": release, "process": process, "started_at": now, "seen_at": now}
        )

    def is_present(self, replica: str) -> bool:
        """Whether the replica is entered in the namespace."""
        return (replica,) in self._state.replicas

    def beat(self, replica: str) -> None:
        """The replica is still there."""
        row = self._state.replicas.get((replica,))
        if row is not None:
            self._state.replicas.put((replica,), {**row, "seen_at": self.now()})

    def leave(self, replica: str) -> None:
        """The replica is going."""
        self._state.replicas.remove((replica,))

    def unpruned(self) -> bool:
        """Whether the last prune left something to the next. Of tasks only the replica knows that pruned: others come to it when
        they are due."""
        return self._more or any(worker.leaving for worker in self._state.get_active_workers())

    def prune_due(self) -> bool:
        """Whether nobody has pruned for a minute, or the last prune left something."""
        if self.unpruned():
            return True
        row = self._state.settings.get(LAST_PRUNE)
        # A time to come was written by a clock that was ahead.
        return row is None or not 0 <= self.now() - row["value"] < PRUNE_SECONDS

    def prune_less(self) -> None:
        """The last prune changed more than an entry holds: the next one changes half as many tasks."""
        self._at_once = max(1, self._at_once // 2)

    def prune_more(self) -> None:
        """The last prune went well."""
        self._at_once = min(PRUNED_AT_ONCE, 2 * self._at_once)

    def prune_if_due(self) -> None:
        """Prune unless another replica has meanwhile."""
        if self.prune_due():
            self._state.settings.put(LAST_PRUNE, {"value": self.now()})
            self.prune()

    def flush_liveness(self) -> None:
        """Replicate the liveness of every worker that others would know too little of (I7)."""
        self._state.fold_liveness(self._state.grain / 4)

    def liveness_due(self) -> bool:
        """Whether a worker's liveness is more than half a grain younger than what is replicated."""
        return any(worker.last_active - worker.saved[0] > self._state.grain / 2 for worker in self._state.soft.values())
