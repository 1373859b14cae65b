//! Registers of threads that are in the kernel, against programs that know their values.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::FileExt,
    process::Command,
    time::{Duration, Instant},
};

use memtrace::{
    bpf::registers::{RegisterReader, read},
    model::{no_registers::NoRegisters, roots::ThreadWords},
};

use crate::support::{
    self, InTime, Target, assert_nothing_stays_in_the_kernel, compile, eventually,
    namespace::{Inside, Namespace, path_of_memtrace},
    programs_held_by,
};

/// The first value of the thread of index 0; that of the next lies 256 further on.
const VALUE: u64 = 0x5EED << 48;
/// How many values a thread that sleeps has, and one that spins: two of these are in a vector register.
const OF_A_SLEEPER: u64 = 5;
const OF_A_SPINNER: u64 = 8;

/// The process that reads for another test is told by this variable whose registers are wanted.
const WANTED: &str = "MEMTRACE_TEST_REGISTERS_OF";

fn program() -> String {
    compile("registers.c", &["-O2"]).to_str().unwrap().to_owned()
}

fn start(arguments: &[&str]) -> Target {
    let mut target = Target::start(Command::new(program()).args(arguments));
    assert_eq!(target.line(), "ready");
    target
}

/// The same, once each of its threads sleeps.
fn start_asleep(arguments: &[&str]) -> Target {
    let target = start(arguments);
    wait_until_asleep(target.pid());
    target
}

fn wait_until_asleep(pid: u32) {
    let sleeps = |tid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('S')
    };
    eventually("every thread sleeps", || listed(pid).iter().all(sleeps));
}

fn listed(pid: u32) -> BTreeSet<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

fn tids(words: &[ThreadWords]) -> BTreeSet<u32> {
    let tids: BTreeSet<u32> = words.iter().map(|thread| thread.tid).collect();
    assert_eq!(tids.len(), words.len(), "each thread once");
    tids
}

/// The values that each thread has whose first value is known, by the index of the thread.
fn values(words: &[ThreadWords]) -> BTreeMap<u64, BTreeSet<u64>> {
    let mut values: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for word in words.iter().flat_map(|thread| thread.registers.iter().flatten()) {
        // A value has the number of its register in its last byte, and nothing but an index before.
        let index = word.wrapping_sub(VALUE) >> 8;
        if index < 1 << 20 {
            values.entry(index).or_default().insert(word & 0xff);
        }
    }
    values
}

/// Every thread of these indices has all of its values.
fn assert_values(words: &[ThreadWords], indices: std::ops::Range<u64>, of_each: u64) {
    let values = values(words);
    let all: BTreeSet<u64> = (0..of_each).collect();
    for index in indices {
        assert_eq!(values.get(&index), Some(&all), "of thread {index} of {}", words.len());
    }
}

#[test]
fn every_value_of_sleeping_threads_is_found() {
    let target = start_asleep(&["sleep", "64"]);
    let words = read(target.pid()).unwrap();
    assert_eq!(tids(&words), listed(target.pid()));
    assert_values(&words, 0..64, OF_A_SLEEPER);
    let memory = File::open(format!("/proc/{}/mem", target.pid())).unwrap();
    for thread in &words {
        // The kernel's own account: the system call, its six arguments, the stack pointer and the program counter.
        let account = fs::read_to_string(format!("/proc/{}/task/{}/syscall", target.pid(), thread.tid)).unwrap();
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
        let account: Vec<u64> = account.split_whitespace().skip(1).map(number).collect();
        let [arguments @ .., stack_pointer, _] = &account[..] else { panic!("{account:?}") };
        let registers = thread.registers.as_ref().unwrap();
        assert_eq!(thread.stack_pointer, Some(*stack_pointer));
        assert!(arguments.len() == 6 && arguments.iter().all(|word| registers.contains(word)), "{thread:x?}");
        // The block of a thread begins with its own address, where the base of its own memory points.
        let points_to_itself = |word: &u64| {
            let mut found = [0; 8];
            memory.read_exact_at(&mut found, *word).is_ok() && u64::from_ne_bytes(found) == *word
        };
        assert!(registers.iter().any(points_to_itself), "{thread:x?}");
    }
}

#[test]
fn threads_of_several_pieces_are_all_found() {
    let target = start_asleep(&["sleep", "1200"]);
    let words = read(target.pid()).unwrap();
    assert_eq!(tids(&words), listed(target.pid()));
    assert_values(&words, 0..1200, OF_A_SLEEPER);
}

/// Three threads that run on two CPUs, or fewer: whenever one waits for a CPU it has all of its registers, and otherwise none.
#[test]
fn threads_that_run_have_no_registers_and_those_that_wait_for_a_cpu_have_all() {
    let spinners = std::thread::available_parallelism().unwrap().get() as u64 + 1;
    let target = start(&["spin", &spinners.to_string()]);
    let mut reader = RegisterReader::load().unwrap();
    let all: BTreeSet<u64> = (0..OF_A_SPINNER).collect();
    let (mut complete, mut waited, mut ran) = (BTreeSet::new(), 0, 0);
    let begun = Instant::now();
    while (complete.len() as u64) < spinners || waited < 200 || ran < 20 {
        assert!(begun.elapsed() < support::patience(), "{complete:?} {waited} {ran}");
        let words = reader.read(target.pid()).unwrap();
        ran += words.iter().filter(|thread| thread.registers.is_none()).count();
        for (index, found) in values(&words) {
            // Until its first loop it sets them.
            if found == all {
                complete.insert(index);
            }
            assert!(found == all || !complete.contains(&index), "{index}: {found:?}");
            waited += usize::from(complete.contains(&index));
        }
        std::thread::sleep(Duration::from_micros(700));
    }
    println!("{waited} times a thread waited for a CPU, {ran} times one ran");
}

/// A call that is broken off would abort the program.
#[test]
fn a_thousand_reads_break_off_no_system_call() {
    let mut target = start_asleep(&["sleep", "8"]);
    let mut reader = RegisterReader::load().unwrap();
    for _ in 0..1000 {
        assert_values(&reader.read(target.pid()).unwrap(), 0..8, OF_A_SLEEPER);
    }
    target.say("go on");
    assert_eq!(target.line(), "alive");
    assert_eq!(listed(target.pid()).len(), 9);
}

#[test]
fn threads_that_come_and_go_hide_no_others() {
    let target = start(&["sleep", "16", "churn", "2"]);
    let mut reader = RegisterReader::load().unwrap();
    eventually("threads sleep", || values(&reader.read(target.pid()).unwrap()).len() == 16);
    let mut without = 0;
    for _ in 0..200 {
        let before = listed(target.pid());
        let words = reader.read(target.pid()).unwrap();
        let after = listed(target.pid());
        assert_values(&words, 0..16, OF_A_SLEEPER);
        let stayed: BTreeSet<u32> = before.intersection(&after).copied().collect();
        assert!(stayed.is_subset(&tids(&words)), "{stayed:?} {words:?}");
        without += words.iter().filter(|thread| thread.registers.is_none()).count();
    }
    println!("{without} threads without registers in 200 reads");
}

/// While threads before them end, others move up on the kernel's list, between the pieces in which it is read.
#[test]
fn threads_that_move_up_on_the_list_are_found() {
    let mut target = start_asleep(&["fade", "1500", "sleep", "600"]);
    let mut reader = RegisterReader::load().unwrap();
    target.say("fade");
    assert_eq!(target.line(), "alive");
    let mut reads = 0;
    while listed(target.pid()).len() > 601 {
        let words = reader.read(target.pid()).unwrap();
        assert_values(&words, 1500..2100, OF_A_SLEEPER);
        reads += 1;
    }
    println!("{reads} reads");
    assert!(reads > 10, "{reads}");
    assert_values(&reader.read(target.pid()).unwrap(), 1500..2100, OF_A_SLEEPER);
}

#[test]
fn a_process_that_ends_meanwhile_is_gone() {
    let mut reader = RegisterReader::load().unwrap();
    let mut gone = 0;
    for pause in 0..20 {
        let mut target = start_asleep(&["sleep", "300"]);
        let pid = target.pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(pause * 300));
            target.kill();
            target
        });
        loop {
            match reader.read(pid) {
                Ok(words) => assert!(words.len() <= 301),
                Err(why) => {
                    assert_eq!(why, NoRegisters::Gone);
                    gone += 1;
                    break;
                }
            }
        }
        killer.join().unwrap();
    }
    assert_eq!(gone, 20);
}

#[test]
fn a_main_thread_that_has_ended_is_no_thread() {
    let mut target = Target::start(Command::new(compile("threads.c", &["-O2"])).args(["leave", "wait"]));
    assert_eq!(target.line(), "ready");
    let words = read(target.pid()).unwrap();
    let [thread] = &words[..] else { panic!("{words:?}") };
    assert!(thread.tid != target.pid() && thread.registers.is_some(), "{thread:?}");
    assert_eq!(listed(target.pid()).len(), 2);
}

/// The reading of a process that `command` starts, with the arguments that follow in it.
fn read_by(mut command: Command, pid: u32) -> Result<Vec<ThreadWords>, NoRegisters> {
    let test = "registers::tells_what_it_reads";
    let output = command.args(["--exact", test, "--nocapture"]).env(WANTED, pid.to_string()).output_in_time();
    let text = String::from_utf8_lossy(&output.stdout);
    let told = text.lines().find_map(|line| line.split_once("READ ")).map(|(_, told)| told);
    let told = told.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(told).unwrap()
}

fn own_program() -> String {
    std::env::current_exe().unwrap().to_str().unwrap().to_owned()
}

/// Reads for another test, from elsewhere; by itself, this very process, of which one thread at least runs.
#[test]
fn tells_what_it_reads() {
    let wanted = std::env::var(WANTED).ok().map(|pid| pid.parse().unwrap());
    let read = read(wanted.unwrap_or(std::process::id()));
    println!("READ {}", serde_json::to_string(&read).unwrap());
    if wanted.is_none() {
        let words = read.unwrap();
        assert!(words.iter().any(|thread| thread.registers.is_none()), "{words:?}");
    }
}

#[test]
fn processes_of_namespaces_are_read_from_above_and_from_within() {
    let namespace = Namespace::new();
    let arguments = [program(), "sleep".to_owned(), "12".to_owned()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for below in [false, true] {
        let inside: Inside = if below { namespace.start_below(&arguments) } else { namespace.start(&arguments) };
        wait_until_asleep(inside.outside);
        let from_above = read(inside.outside).unwrap();
        assert_eq!(tids(&from_above), listed(inside.outside));
        assert_values(&from_above, 0..12, OF_A_SLEEPER);
        let from_within = read_by(namespace.command(&[&own_program()]), inside.pid).unwrap();
        assert_values(&from_within, 0..12, OF_A_SLEEPER);
        assert!(tids(&from_within).contains(&inside.pid) && from_within.len() == 13, "{from_within:?}");
        let all = |words: &[ThreadWords]| -> BTreeSet<Vec<u64>> {
            words.iter().map(|thread| thread.registers.clone().unwrap()).collect()
        };
        assert_eq!(all(&from_above), all(&from_within));
    }
    let doctor = namespace.run(&[&path_of_memtrace(), "doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("ok       registers: "), "{doctor}");
}

/// The reading by root with these capabilities alone.
fn read_with(capabilities: &str, pid: u32) -> Result<Vec<ThreadWords>, NoRegisters> {
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--bounding-set", capabilities, "--inh-caps", "-all", &own_program()]);
    read_by(command, pid)
}

#[test]
fn two_capabilities_are_enough_and_without_them_it_is_said() {
    let target = start_asleep(&["sleep", "2"]);
    assert_values(&read_with("-all,+bpf,+perfmon", target.pid()).unwrap(), 0..2, OF_A_SLEEPER);
    let refused = read_with("-all,+sys_ptrace", target.pid());
    assert!(
        matches!(&refused, Err(NoRegisters::Refused { error }) if error.contains("Operation not permitted")),
        "{refused:?}"
    );
}

#[test]
fn nothing_stays_in_the_kernel() {
    let before = programs_held_by(std::process::id());
    let reader = RegisterReader::load().unwrap();
    let held: BTreeSet<u32> = programs_held_by(std::process::id()).difference(&before).copied().collect();
    assert!(!held.is_empty());
    drop(reader);
    // Readers of other tests are among them, which go as well.
    let is_left = || aya::programs::loaded_programs().flatten().any(|program| held.contains(&program.id()));
    eventually("the program goes", || !is_left());
    assert_nothing_stays_in_the_kernel();
}

/// The time of a reading, without that of loading.
#[test]
#[ignore = "long: times, which are worth something on a machine that does nothing else"]
fn times_of_readings() {
    let begun = Instant::now();
    let mut reader = RegisterReader::load().unwrap();
    println!("loaded in {:?}", begun.elapsed());
    for threads in ["1", "1000", "10000"] {
        let target = start_asleep(&["sleep", threads]);
        let mut times: Vec<Duration> = (0..50)
            .map(|_| {
                let begun = Instant::now();
                assert!(reader.read(target.pid()).unwrap().iter().all(|thread| thread.registers.is_some()));
                begun.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{threads} threads and the first: {:?} at least, {:?} in the middle", times[0], times[25]);
    }
}
