//! Accounts of a process in /proc, where its name stands in the midst of figures, and of its cgroup, whose name is a user's choice.

use std::{fs, path::Component};

use memtrace::process::{cgroup, kernel_words, leader, memory, status, thread_words};

use crate::{
    Target,
    input::{Input, part},
};

/// The contents of `stat` (or of a thread's `syscall`), `status` and `cgroup` (or of a descriptor's `fdinfo`).
pub const TARGET: Target = Target { name: "proc_files", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (stat, account, groups) = (input.part(), input.part(), input.rest());
    _ = status::parse_cpu_time(stat);
    _ = status::parse_start_ticks(stat);
    _ = leader::parse_goes_on(stat);
    _ = leader::parse_process(account);
    _ = thread_words::parse_stack_pointer(stat);
    _ = thread_words::parse_own_tid(account);
    _ = kernel_words::parse(groups).count();
    _ = memory::parse_usage(account);
    if let Some(name) = memory::name_in(account) {
        assert!(!status::printable(&String::from_utf8_lossy(name)).contains(char::is_control));
    }
    for is_v2 in [false, true] {
        if let Some(group) = cgroup::group_in(groups, is_v2) {
            assert!(group.components().all(|part| matches!(part, Component::Normal(_))), "a way out: {group:?}");
        }
    }
}

/// This process's, and ones with names that were chosen to mislead.
fn seeds() -> Vec<Vec<u8>> {
    let [stat, account, groups] =
        ["stat", "status", "cgroup"].map(|file| fs::read(format!("/proc/self/{file}")).unwrap_or_default());
    let misleading = b"12:memory,cpu:/a:b/../c\n0::/user.slice/x\\x2dy\n";
    let renamed = [&stat[..stat.len().min(6)], b"(a) Z 1 (b)) ", &stat[stat.len().min(20)..]].concat();
    let asleep = b"232 0x4 0x7ffc1000 0x1 0xffffffff 0x0 0x0 0x7ffc0f58 0x7f0000001234\n";
    let epoll = b"pos:\t0\ntfd:        4 events:       19 data:     55e600000004  pos:0 ino:4d sdev:e\n";
    vec![
        [part(&stat), part(&account), groups].concat(),
        [part(asleep), part(b"NSpid:\t4711\t7\n"), epoll.to_vec()].concat(),
        [
            part(&renamed),
            part(b"Name:\ta\\nVmRSS: 7 kB\nVmSize:\t8 kB\nRssAnon:\t1 kB\nVmSwap:\t0 kB\n"),
            misleading.to_vec(),
        ]
        .concat(),
    ]
}
