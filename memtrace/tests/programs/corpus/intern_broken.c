// Interning that compares pointers in place of strings, so that every name is new: 80 strdups a second, some 8 KiB/s.
// leak: intern
// half: measured
#include "pace.h"

struct name {
    char *text;
    struct name *next;
};

static struct name *names[64];

NOINLINE static const char *intern(const char *text) {
    struct name **bucket = &names[(unsigned char)text[5] % 64];
    for (struct name *name = *bucket; name; name = name->next)
        if (name->text == text) return name->text;
    struct name *name = malloc(sizeof *name);
    name->text = strdup(text);
    name->next = *bucket;
    *bucket = name;
    return name->text;
}

int main(void) {
    char text[120];
    unsigned long sum = 0;
    for (;;) {
        for (int i = 0; i < 8; i++) {
            unsigned which = below(50);
            memset(text, 'a' + (int)(which % 26), sizeof text - 1);
            snprintf(text, sizeof text, "name %u of some length, %0*u", which, 10 + (int)which, which);
            sum += (unsigned char)intern(text)[5];
        }
        rest(100);
    }
}
