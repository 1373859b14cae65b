// A compiler of one unit: the tree of the source is built in twelve seconds, passes go over it for half a minute, each with notes
// of its own, and main frees all before it returns. Bound: the source, of 3,000 nodes.
// innocent
// ends
// half: measured
#include "pace.h"

struct node {
    struct node *next;
    unsigned uses;
    char name[200];
};

static struct node *unit;

NOINLINE static void parse(unsigned number) {
    struct node *node = calloc(1, sizeof *node);
    snprintf(node->name, sizeof node->name, "symbol %u", number);
    node->next = unit;
    unit = node;
}

NOINLINE static unsigned pass(unsigned salt) {
    unsigned *notes = malloc(3000 * sizeof *notes), count = 0, sum = 0;
    for (struct node *node = unit; node; node = node->next) notes[count++] = node->uses += salt % 7;
    rest(100);
    while (count > 0) sum += notes[--count];
    free(notes);
    return sum;
}

int main(void) {
    unsigned sum = 0;
    for (unsigned number = 0; number < 3000; number++) {
        parse(number);
        if (number % 5 == 0) rest(20);
    }
    while (now() < 45) sum += pass(sum + 1);
    while (unit) {
        struct node *next = unit->next;
        free(unit);
        unit = next;
    }
    return sum == 1;
}
