// asprintf makes a label for each sample. The samples are aggregated and freed, their labels are not: 150 a second.
// leak: format_label
// half: tuned
#include "pace.h"

struct sample {
    char *label;
    unsigned value;
};

NOINLINE static char *format_label(unsigned host, unsigned code) {
    char *label = NULL;
    if (asprintf(&label, "http_requests{host=\"web-%04u\",code=\"%u\",region=\"north\"}", host, code) < 0) return NULL;
    label[0] = 'H';
    return label;
}

NOINLINE static struct sample *take(void) {
    struct sample *sample = malloc(sizeof *sample);
    sample->label = format_label(below(40), 200 + below(5));
    sample->value = below(1000);
    return sample;
}

int main(void) {
    unsigned totals[1000] = {0};
    struct sample *samples[15];
    for (;;) {
        for (int i = 0; i < 15; i++) samples[i] = take();
        rest(100);
        for (int i = 0; i < 15; i++) {
            totals[samples[i]->value]++;
            free(samples[i]);
        }
    }
}
