// A cache without eviction, whose keys have a time in them and so never come again: 60 a second, 1 KiB each.
// leak: cache_put
// half: measured
#include "pace.h"

enum { BUCKETS = 1024 };

struct entry {
    struct entry *next;
    uint64_t key;
    char value[1000];
};

static struct entry *buckets[BUCKETS];

NOINLINE static struct entry *cache_get(uint64_t key) {
    for (struct entry *entry = buckets[key % BUCKETS]; entry; entry = entry->next)
        if (entry->key == key) return entry;
    return NULL;
}

NOINLINE static struct entry *cache_put(uint64_t key) {
    struct entry *entry = malloc(sizeof *entry);
    entry->key = key;
    entry->next = buckets[key % BUCKETS];
    memset(entry->value, (int)key, sizeof entry->value);
    buckets[key % BUCKETS] = entry;
    return entry;
}

int main(void) {
    unsigned long hits = 0;
    for (;;) {
        uint64_t key = (uint64_t)(now() * 1e6) * 31 + below(31);
        struct entry *entry = cache_get(key);
        if (entry) hits++;
        else entry = cache_put(key);
        hits += (unsigned)entry->value[3] > 255;
        rest(16);
    }
}
