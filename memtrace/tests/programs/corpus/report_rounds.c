// Rounds of five to eight seconds, never the same: a tree grows under random keys, is walked, and is freed as a whole.
// Bound: a few thousand nodes.
// innocent
// half: measured
#include "pace.h"

struct node {
    struct node *less, *more;
    unsigned key, count;
    char label[100];
};

static struct node *root;

NOINLINE static void count(unsigned key) {
    struct node **at = &root;
    while (*at && (*at)->key != key) at = key < (*at)->key ? &(*at)->less : &(*at)->more;
    if (!*at) {
        *at = calloc(1, sizeof **at);
        (*at)->key = key;
        snprintf((*at)->label, sizeof (*at)->label, "key %u", key);
    }
    (*at)->count++;
}

NOINLINE static unsigned release(struct node *node) {
    if (!node) return 0;
    unsigned most = node->count, less = release(node->less), more = release(node->more);
    free(node);
    return most > less ? (most > more ? most : more) : (less > more ? less : more);
}

int main(void) {
    for (;;) {
        unsigned ticks = 250 + below(150);
        for (unsigned i = 0; i < ticks; i++) {
            for (int n = 0; n < 8; n++) count(below(20000));
            rest(20);
        }
        if (release(root) > 1000) return 1;
        root = NULL;
    }
}
