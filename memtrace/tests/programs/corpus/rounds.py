# Rows are collected for seven seconds, joined, and let go of. Bound: 350 rows of a kilobyte.
# innocent
# half: tuned
from pace import rest


def collect():
    rows = []
    for number in range(350):
        rows.append(bytearray(1000 + number))
        rest(0.02)
    return rows


total = 0
while True:
    total += len(b"".join(collect()))
