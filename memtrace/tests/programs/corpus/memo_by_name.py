# A dictionary of results by name, of which there are 300: nearly all are there after 20 seconds. Bound: 300 x 1.6 KiB.
# innocent
# half: measured
import random

from pace import rest

results = {}


def result(name):
    if name not in results:
        results[name] = bytes(1600)
    return results[name]


while True:
    result("name %d" % random.randrange(300))
    rest(0.016)
