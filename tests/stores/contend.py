"""One contending process: appends entries to the SQLite file given first, under the name given second, and prints their ids."""

from __future__ import annotations

import asyncio
import sys

from exercise import NAMESPACE, contend

from luigi_spanner.stores import sqlite


async def main(path: str, name: str) -> None:
    store = await sqlite.open(path, NAMESPACE)
    try:
        await store.load()
        print(*await contend(store, name), sep="\n")
    finally:
        await store.close()


asyncio.run(main(*sys.argv[1:]))
