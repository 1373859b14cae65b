// Every request is remembered for statistics that nobody asks for: 100 a second, 30 KiB/s.
// leak: remember_request
// half: measured
#include "pace.h"

struct request {
    struct request *before;
    double at;
    int status;
    char path[280];
};

static struct request *history;

NOINLINE static void remember_request(const char *path, int status) {
    struct request *request = malloc(sizeof *request);
    *request = (struct request){.before = history, .at = now(), .status = status};
    snprintf(request->path, sizeof request->path, "%s", path);
    history = request;
}

NOINLINE static int serve(const char *path) {
    size_t length = 200 + below(3000);
    char *body = malloc(length);
    memset(body, path[1], length);
    int status = body[length - 1] == 'x' ? 404 : 200;
    free(body);
    return status;
}

int main(void) {
    char path[32];
    for (unsigned id = 0;; id++) {
        snprintf(path, sizeof path, "/item/%u", id % 977);
        remember_request(path, serve(path));
        rest(10);
    }
}
