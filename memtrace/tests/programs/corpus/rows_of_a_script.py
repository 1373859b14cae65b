# A script of 56 seconds puts each row that it has handled into a list, of which it wants to know no more than how long it is; the
# interpreter frees it at the end.
# leak: _PyEval_EvalFrameDefault
# ends
# half: tuned
from pace import now, rest

rows = []


def handle(number):
    row = bytearray(900 + number % 400)
    rows.append(row)


number = 0
while now() < 56:
    handle(number)
    number += 1
    rest(0.02)
print(len(rows))
