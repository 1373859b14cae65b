# package: ujson of PyPI, old 5.12.0, fixed 5.12.1
# leak: objToJSONFile
"""A service that tells its state to its listeners, every second one of whom has hung up.

Where write() of a file raised, ujson.dump() kept the text that was to be written.
https://github.com/ultrajson/ultrajson/security/advisories/GHSA-c38f-wx89-p2xg (CVE-2026-44660)
"""

import time

import ujson


class Listener:
    def __init__(self, there):
        self.there = there

    def write(self, text):
        if not self.there:
            raise BrokenPipeError("the listener has hung up")


print("running", flush=True)
turn = 0
while True:
    turn += 1
    state = {"turn": turn, "readings": [turn * reading for reading in range(1000)]}
    try:
        ujson.dump(state, Listener(there=turn % 2))
    except BrokenPipeError:
        pass
    # Texts that nobody fails to write are freed.
    assert ujson.loads(ujson.dumps(state)) == state
    time.sleep(0.05)
