// An LRU at its limit: 500 entries, 100 new ones a second, of which each pushes the oldest out. Bound: 500 x 700 bytes.
// innocent
// half: tuned
#include "pace.h"

enum { LIMIT = 500 };

struct entry {
    struct entry *newer, *older;
    unsigned key;
    char value[680];
};

static struct entry *newest, *oldest;
static unsigned count;

static void unlink_entry(struct entry *entry) {
    *(entry->newer ? &entry->newer->older : &newest) = entry->older;
    *(entry->older ? &entry->older->newer : &oldest) = entry->newer;
}

static void link_newest(struct entry *entry) {
    entry->newer = NULL;
    entry->older = newest;
    *(newest ? &newest->newer : &oldest) = entry;
    newest = entry;
}

NOINLINE static void use(unsigned key) {
    struct entry *entry = newest;
    while (entry && entry->key != key) entry = entry->older;
    if (entry) {
        unlink_entry(entry);
    } else {
        entry = malloc(sizeof *entry);
        entry->key = key;
        count++;
    }
    link_newest(entry);
    if (count > LIMIT) {
        struct entry *last = oldest;
        unlink_entry(last);
        free(last);
        count--;
    }
}

int main(void) {
    for (unsigned key = 0; key < LIMIT; key++) use(key);
    for (;;) {
        use(below(1000000));
        rest(10);
    }
}
