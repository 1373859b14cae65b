// An open hash table: it is filled for some 17 seconds and doubles four times, then inserts and removals are in balance.
// Bound: 1200 values of 200 bytes and a table of 2048 places.
// innocent
// half: tuned
#include "pace.h"

static char **places;
static unsigned capacity = 128, count;

NOINLINE static char *value_of(unsigned key) {
    char *value = malloc(200);
    snprintf(value, 200, "%u", key);
    return value;
}

static void place(char *value) {
    unsigned at = (unsigned)atoi(value) * 2654435761u % capacity;
    while (places[at]) at = (at + 1) % capacity;
    places[at] = value;
}

NOINLINE static void insert(unsigned key) {
    if (count * 4 > capacity * 3) {
        char **old = places;
        capacity *= 2;
        places = calloc(capacity, sizeof *places);
        for (unsigned i = 0; i < capacity / 2; i++)
            if (old[i]) place(old[i]);
        free(old);
    }
    place(value_of(key));
    count++;
}

// Those behind it move up, as they must where places are searched one by one.
NOINLINE static void remove_near(unsigned at) {
    while (!places[at % capacity]) at++;
    at %= capacity;
    free(places[at]);
    places[at] = NULL;
    count--;
    for (at = (at + 1) % capacity; places[at]; at = (at + 1) % capacity) {
        char *value = places[at];
        places[at] = NULL;
        place(value);
    }
}

int main(void) {
    places = calloc(capacity, sizeof *places);
    for (;;) {
        for (int i = 0; i < 3; i++) insert(below(1000000000));
        while (count > 1200) remove_near(below(capacity));
        rest(40);
    }
}
