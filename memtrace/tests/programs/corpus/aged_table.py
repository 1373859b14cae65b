# A dictionary of 20,000 documents from before, of which 20 a second are replaced by new ones; and the old ones are
# remembered in a list of changes. 14 KiB/s.
# aged
# leak: _PyEval_EvalFrameDefault
# half: tuned
import itertools

from pace import rest


def read_document(number):
    return {"id": number, "body": bytes(500 + number % 200)}


documents = {number: read_document(number) for number in range(20_000)}
changes = []
for number in itertools.count():
    key = number * 7919 % 20_000
    changes.append(documents[key])
    documents[key] = read_document(number)
    rest(0.05)
