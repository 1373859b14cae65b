// A program in C whose structures begin with the address of a table of functions, as files and streams do. It prints how many it has
// of each, and stays until its standard input closes.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct file;

struct operations {
    int (*open)(struct file *);
    int (*read)(struct file *, char *, int);
    void (*close)(struct file *);
};

// It begins with its name.
struct driver {
    const char *name;
    int (*probe)(struct file *);
    int (*remove)(struct file *);
};

struct file {
    const struct operations *operations;
    long position;
};

struct device {
    const struct driver *driver;
    long number[5];
};

static int disk_open(struct file *file) { return file->position > 0; }
static int disk_read(struct file *file, char *to, int length) { return to[length] + (int)file->position; }
static void disk_close(struct file *file) { file->position = -1; }
static int pipe_open(struct file *file) { return file->position > 1; }
static int pipe_read(struct file *file, char *to, int length) { return to[length] - (int)file->position; }
static void pipe_close(struct file *file) { file->position = -2; }

const struct operations disk_operations = {disk_open, disk_read, disk_close};
static const struct operations pipe_operations = {pipe_open, pipe_read, pipe_close};
// It can be changed, so it lies among writable data.
struct driver serial_driver = {"serial", disk_open, pipe_open};
// No table, though it has the address of a function.
static const struct {
    long version;
    long length;
    void (*close)(struct file *);
} header = {3, 4, disk_close};

enum { DISKS = 700, PIPES = 800, SERIALS = 900, OTHERS = 600 };

int main(void) {
    static void *all[DISKS + PIPES + SERIALS + OTHERS];
    static char out[BUFSIZ];
    int count = 0;
    setvbuf(stdout, out, _IOLBF, sizeof out);
    for (int i = 0; i < DISKS + PIPES; i++) {
        struct file *file = calloc(1, sizeof *file);
        file->operations = i < DISKS ? &disk_operations : &pipe_operations;
        all[count++] = file;
    }
    for (int i = 0; i < SERIALS; i++) {
        struct device *device = calloc(1, sizeof *device);
        device->driver = &serial_driver;
        all[count++] = device;
    }
    for (int i = 0; i < OTHERS; i++) {
        const void **other = calloc(1, 40);
        *other = &header;
        all[count++] = other;
    }
    printf("{\"disk_operations\": %d, \"pipe_operations\": %d, \"serial_driver\": %d}\n", DISKS, PIPES, SERIALS);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    return all[count - 1] == all[0];
}
