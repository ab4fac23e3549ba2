import os, sys

sys.path.insert(0, "/work/main/tests/conformance")
from pathlib import Path
import run


def test_one(fresh_spanner_url, tmp_path):
    r = run.run(fresh_spanner_url, os.environ["FILES"].split(), tmp_path)
    print(r.describe())
    print(r.tests("failed"))
    print(r.output[-int(os.environ.get("N", "3000")) :])
