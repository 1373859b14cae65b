// Interning of a bounded set: 400 words, 60 looked up a second. Nine in ten are there after 16 seconds. Bound: 400.
// innocent
// half: measured
#include "pace.h"

struct word {
    struct word *next;
    char text[];
};

static struct word *buckets[97];

NOINLINE static const char *intern(const char *text) {
    unsigned hash = 5381;
    for (const char *at = text; *at; at++) hash = hash * 33 + (unsigned char)*at;
    struct word **bucket = &buckets[hash % 97];
    for (struct word *word = *bucket; word; word = word->next)
        if (strcmp(word->text, text) == 0) return word->text;
    struct word *word = malloc(sizeof *word + strlen(text) + 1);
    strcpy(word->text, text);
    word->next = *bucket;
    *bucket = word;
    return word->text;
}

int main(void) {
    char text[300];
    unsigned long sum = 0;
    for (;;) {
        for (int i = 0; i < 6; i++) {
            unsigned which = below(400);
            snprintf(text, sizeof text, "word-%0*u", 20 + (int)which % 200, which);
            sum += (unsigned char)intern(text)[30];
        }
        rest(100);
    }
}
