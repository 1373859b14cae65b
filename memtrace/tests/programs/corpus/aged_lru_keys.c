// A cache that was full before: 40,000 entries of 1 KiB, of which the oldest 60 a second give way to new ones. The name
// of an entry is not freed with it: 15 KiB/s.
// aged
// leak: copy_name
// half: tuned
#include "pace.h"

enum { ENTRIES = 40000, NAME = 256 };

static struct entry {
    char *name;
    char value[1000];
} *entries[ENTRIES];

NOINLINE static char *copy_name(unsigned number) {
    char *name = malloc(NAME);
    snprintf(name, NAME, "entry %u", number);
    return name;
}

NOINLINE static struct entry *make_entry(unsigned number) {
    struct entry *entry = malloc(sizeof *entry);
    entry->name = copy_name(number);
    memset(entry->value, (int)number, sizeof entry->value);
    return entry;
}

int main(void) {
    for (unsigned number = 0; number < ENTRIES; number++) entries[number] = make_entry(number);
    for (unsigned number = 0;; number++) {
        free(entries[number % ENTRIES]);
        entries[number % ENTRIES] = make_entry(number);
        rest(16);
    }
}
