// A record is made by new and given to a check that throws for one in twelve; nothing deletes it then. 120 a second.
// leak: decode
// half: measured
#include "pace.h"
#include <stdexcept>

struct Record {
    unsigned version;
    char fields[900];
};

// Not for the compiler to look into: it would hand over the version alone, and make no record.
__attribute__((noipa)) static void check(const Record &record) {
    if (record.version == 0) throw std::runtime_error("version 0 is not known");
}

NOINLINE static unsigned decode(const char *wire) {
    auto *record = new Record;
    memcpy(record->fields, wire, sizeof record->fields);
    record->version = below(12);
    check(*record);
    unsigned version = record->version;
    delete record;
    return version;
}

int main() {
    char wire[900] = "fields";
    unsigned long versions = 0, refused = 0;
    for (;;) {
        try {
            versions += decode(wire);
        } catch (const std::exception &) {
            refused++;
        }
        rest(8);
    }
}
