# package: pymongo of PyPI, old 4.15.2, fixed 4.15.3
# leak: handle_invalid_doc_error
"""An importer of documents, some of which hold what BSON has no type for.

The error says what the document was. bson.encode() put that text into another one, and kept it.
https://github.com/mongodb/mongo-python-driver/pull/2573
"""

import time

import bson

print("running", flush=True)
turn = 0
while True:
    turn += 1
    document = {"turn": turn, "note": "a text of some length " * 100}
    # Documents that are encoded, and read back, are freed.
    assert bson.decode(bson.encode(document)) == document
    if turn % 2:
        try:
            bson.encode(document | {"handler": object()})
        except bson.errors.InvalidDocument:
            pass
    time.sleep(0.02)
