#!/busybox sh
# The first process: makes the host's files the root, with an overlay in memory for what is written, runs the
# job there, says its status on the second serial line, and ends the machine. The root is switched to, not
# changed to: namespaces that are entered begin at the machine's root, and none is made for users in a chroot.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
b() { /busybox "$@"; }
b mount -t devtmpfs none /dev
exec </dev/null >/dev/ttyS1 2>&1

start() {
    b mount -t proc none /proc || return
    for module in /modules/*; do
        b insmod "$module" || return
    done
    b mount -t virtiofs -o ro host /host || return
    b mount -t tmpfs none /memory || return
    b mkdir /memory/upper /memory/work
    b mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work none /root || return
    b mount -t proc none /root/proc || return
    b mount -t sysfs none /root/sys || return
    b mount -t devtmpfs none /root/dev || return
    b mount -t tracefs none /root/sys/kernel/tracing || return
    b mount -t cgroup2 none /root/sys/fs/cgroup || return
    b mkdir /root/dev/shm && b mount -t tmpfs none /root/dev/shm || return
    b ifconfig lo 127.0.0.1 up || return
    b cp /job /last /busybox /root/
}

start && exec /busybox switch_root /root /busybox sh /last
exec /busybox sh /last 1
