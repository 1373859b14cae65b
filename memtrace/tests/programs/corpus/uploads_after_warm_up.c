// Ten seconds of warm-up take 20 MiB that stay as they are. After that each upload leaves its record: 60 KiB/s.
// leak: track_upload
// half: measured
#include "pace.h"

enum { PAGES = 5000 };

static char *pages[PAGES];

struct upload {
    struct upload *older;
    char digest[32];
    char headers[2000];
};

static struct upload *uploads;

NOINLINE static void warm_up(void) {
    for (int i = 0; i < PAGES; i++) {
        pages[i] = malloc(4000);
        memset(pages[i], i, 4000);
        if (i % 5 == 4) rest(10);
    }
}

NOINLINE static void track_upload(const char *body) {
    struct upload *upload = malloc(sizeof *upload);
    upload->older = uploads;
    memcpy(upload->digest, body, sizeof upload->digest);
    memset(upload->headers, body[0], sizeof upload->headers);
    uploads = upload;
}

int main(void) {
    warm_up();
    for (;;) {
        size_t size = 500 + below(20000);
        char *body = malloc(size);
        memset(body, pages[below(PAGES)][7], size);
        track_upload(body);
        free(body);
        rest(33);
    }
}
