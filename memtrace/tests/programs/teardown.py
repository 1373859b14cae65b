"""Ends in one of several ways: `teardown.py WAY SECONDS`. It begins once its standard input says something, or is closed.

list   grows a list, and ends: the interpreter frees it
exit   the same by sys.exit
tests  runs small tests for a third of the time, collects their results, and tells how many there were at the end
"""
import sys
import time


def keep_objects(kept, until):
    while time.monotonic() < until:
        kept.append(bytearray(1000))
        time.sleep(0.01)


def run_tests(until):
    results = []
    while time.monotonic() < until:
        scratch = [bytearray(2000) for _ in range(50)]
        results.append(("passed", bytearray(700), sum(map(len, scratch))))
        time.sleep(0.02)
    return results


way, seconds = sys.argv[1], float(sys.argv[2])
sys.stdin.readline()
begun = time.monotonic()
if way == "tests":
    results = run_tests(begun + seconds / 3)
    print(len(results), flush=True)
    time.sleep(seconds * 2 / 3)
else:
    kept = []
    keep_objects(kept, begun + seconds)
    print(len(kept), flush=True)
if way == "exit":
    sys.exit(0)
