// Spikes: every two seconds 400 requests come within a tenth of a second (5 %), and are answered by its end. Those that
// were cancelled, one in twenty, are taken off the list, and not freed: 10 KiB/s.
// leak: read_request
// half: measured
#include "pace.h"

enum { OF_SPIKE = 400 };

struct request {
    unsigned id;
    char body[1000];
};

NOINLINE static struct request *read_request(unsigned id) {
    struct request *request = malloc(sizeof *request);
    request->id = id;
    memset(request->body, (int)id, sizeof request->body);
    return request;
}

NOINLINE static int is_cancelled(const struct request *request) {
    return below(20) == 0 && request->id != 0;
}

int main(void) {
    for (unsigned id = 0;;) {
        struct request *waiting[OF_SPIKE];
        unsigned count = 0;
        for (int i = 0; i < OF_SPIKE; i++) {
            struct request *request = read_request(id++);
            if (!is_cancelled(request)) waiting[count++] = request;
            if (i % 40 == 39) rest(10);
        }
        while (count > 0) free(waiting[--count]);
        rest(1900);
    }
}
