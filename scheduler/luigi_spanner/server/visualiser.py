"""The visualiser's page, out of the installed luigi package, with a link from each task to why it is not running.

The page is Luigi's own, so it changes with Luigi. The script that is added looks for the template of what a row of the task
list offers, and does nothing where there is none.
"""

from __future__ import annotations

PAGE = "visualiser/index.html"
"""Where it is among the static files."""

_BEFORE = b"</body>"

_SCRIPT = b"""<script>
(function () {
    // Before the document is ready: then the visualiser reads its templates.
    var actions = document.querySelector('script[name="actionsTemplate"]');
    if (actions) {
        actions.textContent += '<a href="../../why/{{encodedTaskId}}" class="btn btn-default btn-xs" '
            + 'title="Why is it not running?" data-toggle="tooltip">Why?</a>';
    }
}());
</script>
"""


def with_links(page: bytes) -> bytes:
    """The page with the script."""
    begin, end, rest = page.rpartition(_BEFORE)
    return begin + _SCRIPT + end + rest if end else page + _SCRIPT
