# A batch every three seconds, for a third of a second (10 %): its documents go when it has been written, but each tenth
# has been put into a list of what to look at again, for ever. 6 KiB/s.
# leak: _PyEval_EvalFrameDefault
# half: measured
from pace import rest

again = []


def read_batch(number):
    batch = []
    for index in range(200):
        batch.append({"id": number * 200 + index, "text": bytearray(600 + index % 300)})
        if index % 20 == 19:
            rest(0.03)
    return batch


number = 0
while True:
    batch = read_batch(number)
    again.extend(batch[::10])
    del batch
    number += 1
    rest(2.7)
