"""Wrong clocks: libfaketime, preloaded into a replica, adds to the system's time what a file says, which may change."""

from __future__ import annotations

from pathlib import Path

LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")


def find() -> str | None:
    """The path of libfaketime."""
    places = (place for root in LIBRARIES for place in sorted(Path(root).glob("**/faketime/libfaketime.so.1")))
    return next((str(place) for place in places), None)


class Skew:
    """The clock of one process, `seconds` ahead of the system's."""

    def __init__(self, file: Path, seconds: float = 0.0) -> None:
        self._file = file
        self.set(seconds)

    def set(self, seconds: float) -> None:
        """Step the clock; the process notices within a second."""
        self.seconds = seconds
        # Renamed into place: a file that is being written would read as no time at all.
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+.3f}\n")
        fresh.rename(self._file)

    def environment(self) -> dict[str, str]:
        """What the process is to be started with. Its monotonic clock stays right, as on a machine whose clock is set."""
        library = find()
        assert library, "there is no libfaketime"
        return {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
