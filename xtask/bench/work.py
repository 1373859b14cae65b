"""Does so many rounds of work as it is told on standard input, and answers how many it did a second."""

import json
import sys
import time


def work(seed):
    rows = [
        {"id": i, "name": "row %d" % i, "text": "x" * (i * seed % 900), "tags": ["a%d" % (i % 7), "b%d" % (i % 11)]}
        for i in range(2000)
    ]
    rows.sort(key=lambda row: (row["tags"], -row["id"]))
    again = json.loads(json.dumps(rows))
    by_tag = {}
    for row in again:
        by_tag.setdefault(row["tags"][0], []).append(row["text"] + row["name"])
    return sum(len("".join(texts)) for texts in by_tag.values())


for line in sys.stdin:
    rounds = int(line)
    begun = time.monotonic()
    for seed in range(1, rounds + 1):
        work(seed)
    print("= %.3f" % (rounds / (time.monotonic() - begun)), flush=True)
