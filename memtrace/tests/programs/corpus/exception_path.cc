// A record is made by new and given to a check that throws for one in twelve; nothing deletes it then. 120 a second.
// leak: decode
// half: measured
#include "pace.h"
#include <stdexcept>

struct Record {
    unsigned version;
    char fields[900];
};

// A variable that a debugger would look at; with it, the compiler cannot do without the allocation.
const Record *current;

NOINLINE static void check(const Record &record) {
    if (record.version == 0) throw std::runtime_error("version 0 is not known");
}

NOINLINE static unsigned decode(const char *wire) {
    auto *record = new Record;
    current = record;
    memcpy(record->fields, wire, sizeof record->fields);
    record->version = below(12);
    check(*record);
    unsigned sum = record->version + static_cast<unsigned char>(record->fields[below(900)]);
    delete record;
    return sum;
}

int main() {
    char wire[900] = "fields";
    unsigned long sum = 0, refused = 0;
    for (;;) {
        try {
            sum += decode(wire);
        } catch (const std::exception &) {
            refused++;
        }
        rest(8);
    }
}
