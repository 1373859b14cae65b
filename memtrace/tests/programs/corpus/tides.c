// A leak with the load, which comes and goes within 15 seconds: from none to 80 audit records a second.
// leak: audit
// half: tuned
#include "pace.h"

struct record {
    struct record *older;
    double at;
    char what[600];
};

static struct record *records;

NOINLINE static void audit(unsigned user) {
    struct record *record = malloc(sizeof *record);
    record->older = records;
    record->at = now();
    snprintf(record->what, sizeof record->what, "user %u did it", user);
    records = record;
}

NOINLINE static void request(void) {
    char *page = malloc(2000 + below(2000));
    page[0] = 0;
    if (below(2)) audit(below(1000));
    free(page);
}

int main(void) {
    for (;;) {
        double in_tide = now() / 15 - (int)(now() / 15);
        unsigned load = (unsigned)(32 * (in_tide < 0.5 ? in_tide : 1 - in_tide));
        for (unsigned i = 0; i < load; i++) request();
        rest(100);
    }
}
