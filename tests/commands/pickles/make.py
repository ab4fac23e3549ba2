"""Makes the pickles beside it: `python make.py LUIGI_DIRECTORY NAME`, with the Python that a luigi of that age runs on.

It starts that luigi's own luigid, makes the calls below, as workers do, and ends it by SIGTERM, when it saves its state. It runs
on Python 2.7 and 3. The names say which luigi and which Python it was.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

try:
    from urllib import urlencode

    from urllib2 import urlopen
except ImportError:
    from urllib.parse import urlencode
    from urllib.request import urlopen

PORT = 9390

ACCENT = json.loads('"\\u00e9"')

CALLS = [
    ("add_worker", {"worker": "one", "info": [["workers", 2], ["host", "here"], ["first_task", "Top"]]}),
    ("add_worker", {"worker": "two", "info": [["workers", 1]]}),
    ("add_task_batcher", {"worker": "two", "task_family": "Part", "batched_args": ["day"], "max_batch_size": 10}),
    ("add_task", {"worker": "one", "task_id": "Done", "family": "Leaf", "module": "m", "params": {"day": ACCENT}}),
    ("add_task", {"worker": "one", "task_id": "Failed", "family": "Leaf", "module": "m", "params": {"day": "2"}}),
    (
        "add_task",
        {"worker": "one", "task_id": "Runs", "family": "Leaf", "params": {"day": "3"}, "resources": {"db": 2}, "priority": 5},
    ),
    ("get_work", {"worker": "one", "host": "here"}),
    ("add_task", {"worker": "one", "task_id": "Failed", "status": "FAILED", "expl": '"no \\u00e9"', "runnable": True}),
    (
        "add_task",
        {"worker": "one", "task_id": "Done", "status": "DONE", "family": "Leaf", "module": "m", "params": {"day": ACCENT}},
    ),
    ("add_task", {"worker": "two", "task_id": "Off", "family": "Leaf", "status": "DISABLED"}),
    (
        "add_task",
        {"worker": "two", "task_id": "Part1", "family": "Part", "params": {"day": "1"}, "batchable": True, "priority": 9},
    ),
    (
        "add_task",
        {"worker": "two", "task_id": "Part2", "family": "Part", "params": {"day": "2"}, "batchable": True, "priority": 9},
    ),
    ("get_work", {"worker": "two", "host": "there"}),
    (
        "add_task",
        {
            "worker": "one",
            "task_id": "Top",
            "family": "Top",
            "module": "m",
            "deps": ["Done", "Failed", "Runs", "Absent"],
            "params": {},
        },
    ),
    (
        "add_task",
        {
            "worker": "two",
            "task_id": "Top",
            "family": "Top",
            "module": "m",
            "deps": ["Done", "Failed", "Runs", "Absent"],
            "params": {},
        },
    ),
]


def main(luigi, name):
    directory = tempfile.mkdtemp()
    state = os.path.join(directory, "state.pickle")
    environment = dict(os.environ, PYTHONPATH=luigi, LUIGI_CONFIG_PATH=os.path.join(directory, "luigi.cfg"))
    with open(environment["LUIGI_CONFIG_PATH"], "w") as config:
        config.write("[resources]\ndb = 2\n")
    start = "from luigi.cmdline import luigid; luigid()"
    arguments = ["--port", str(PORT), "--address", "127.0.0.1", "--state-path", state]
    command = [sys.executable, "-c", start]
    command.extend(arguments)
    server = subprocess.Popen(command, cwd=directory, env=environment)
    url = "http://127.0.0.1:{}/api/".format(PORT)  # noqa: UP032
    try:
        for _ in range(100):
            time.sleep(0.1)
            try:
                urlopen(url + "ping?" + urlencode({"data": '{"worker": "one"}'}))
                break
            except Exception:  # its errors are of other kinds in Python 2
                continue
        for method, arguments in CALLS:
            urlopen(url + method, urlencode({"data": json.dumps(arguments)}).encode()).read()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    shutil.move(state, os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".pickle"))
    shutil.rmtree(directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
