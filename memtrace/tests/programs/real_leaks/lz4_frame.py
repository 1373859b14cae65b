# package: lz4 of PyPI, old 4.0.1, fixed 4.0.2
# leak: __decompress
"""A consumer of compressed messages, every fourth of which was damaged on its way.

Where a frame could not be decompressed, lz4.frame.decompress() kept the buffer that the message was to fill.
https://github.com/python-lz4/python-lz4/issues/247
"""

import time

import lz4.frame

message = b"".join(b"%d is the square of %d; " % (number * number, number) for number in range(1000))
whole = lz4.frame.compress(message)
damaged = whole[:50] + bytes(200) + whole[250:]

print("running", flush=True)
turn = 0
while True:
    turn += 1
    try:
        assert lz4.frame.decompress(whole if turn % 4 else damaged) == message
    except RuntimeError:
        pass
    time.sleep(0.05)
