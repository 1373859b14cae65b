//! The gate of a command whose children are followed: each process is checked at its own end.

use std::process::Command;

use serde_json::Value;

use crate::support::{
    InTime, compile,
    gate::{causes, gate, lost},
};

const FLAGS: [&str; 2] = ["-O2", "-fomit-frame-pointer"];

/// Runs the program whose children lose blocks.
fn of_children(arguments: &[&str]) -> (i32, Value, String) {
    let program = compile("gate_children.c", &FLAGS);
    gate(&["--fail-on-leak", "--follow"], &[&[program.to_str().unwrap()], arguments].concat())
}

fn processes(report: &Value) -> &[Value] {
    report["processes"].as_array().unwrap()
}

fn all_are_checked(report: &Value) -> bool {
    processes(report).iter().all(|process| process["at_exit"]["checked"] == true)
}

#[test]
fn a_forked_child_is_told_to_the_block_what_it_has_lost() {
    for (arguments, function, count) in [
        (&["lose", "exit", "7"][..], "lose_in_child", 7),
        (&["lose", "_exit", "7"], "lose_in_child", 7),
        (&["lose", "exec", "7"], "lose_in_child", 7),
        (&["threads", "6"], "lose_in_child", 6),
        (&["freeing", "6"], "lose_in_child", 6),
        (&["ring", "9"], "lose_ring_in_child", 9),
        (&["grandchild", "3"], "lose_in_child", 3),
    ] {
        let (status, report, messages) = of_children(arguments);
        assert_eq!(status, 3, "{arguments:?}: {messages}");
        assert_eq!(lost(&report, function), (vec![count], 0), "{arguments:?}: {messages}");
        assert!(all_are_checked(&report) && causes(&report).is_empty(), "{arguments:?}: {messages}");
    }
}

#[test]
fn eight_children_that_end_at_once_are_each_told_what_they_have_lost() {
    let (status, report, messages) = of_children(&["many", "5"]);
    assert_eq!((status, lost(&report, "lose_in_child")), (3, (vec![5; 8], 0)), "{messages}");
    assert!(all_are_checked(&report), "{messages}");
}

#[test]
fn what_a_forked_child_can_reach_in_any_way_is_no_suspect() {
    for flags in [&FLAGS[..], &["-O0"], &["-O2", "-static"]] {
        let program = compile("gate_children.c", flags);
        let (status, report, messages) = gate(&["--fail-on-leak", "--follow"], &[program.to_str().unwrap(), "held"]);
        assert_eq!((status, lost(&report, "")), (0, (Vec::new(), 0)), "{flags:?}: {messages}");
        assert!(all_are_checked(&report), "{flags:?}: {messages}");
        // All that it keeps was looked at: a child of which nothing is known would hold nothing.
        let child = |process: &&Value| process["live_objects"].as_u64().unwrap() == 9;
        assert_eq!(processes(&report).iter().filter(child).count(), 1, "{flags:?}: {report}");
    }
}

#[test]
fn a_child_whose_end_nobody_could_stop_is_told() {
    for (arguments, cause) in [(["lose", "raw", "2"], "end-not-seen"), (["killed", "", "1"], "end-not-seen")] {
        let (status, report, messages) = of_children(&arguments);
        assert_eq!((status, causes(&report)), (4, vec![cause]), "{messages}");
        assert!(messages.contains("not checked for reachability: ") && messages.contains("hint: "), "{messages}");
    }
}

#[test]
fn a_forked_child_of_an_allocator_whose_tables_hide_leaks_was_not_checked() {
    let program = compile("gate_children.c", &FLAGS);
    let command = ["env", "LD_PRELOAD=libjemalloc.so.2", program.to_str().unwrap()];
    for how in [["lose", "exit", "3"].as_slice(), &["held"]] {
        let (status, report, messages) = gate(&["--fail-on-leak", "--follow"], &[&command[..], how].concat());
        assert_eq!((status, causes(&report)), (4, vec!["forked"]), "{messages}");
        assert!(messages.contains("jemalloc keeps addresses of its blocks"), "{messages}");
    }
    // The others keep none.
    for library in ["libtcmalloc_minimal.so.4", "libmimalloc.so.2"] {
        let command = ["env", &format!("LD_PRELOAD={library}"), program.to_str().unwrap(), "lose", "exit", "7"];
        let (status, report, messages) = gate(&["--fail-on-leak", "--follow"], &command);
        assert_eq!((status, lost(&report, "lose_in_child").0, causes(&report).len()), (3, vec![7], 0), "{messages}");
    }
}

#[test]
fn a_suspect_stays_where_its_process_is_left_out_of_the_report() {
    let (status, report, messages) = of_children(&["crowd", "300"]);
    assert_eq!((status, lost(&report, "lose_in_child")), (3, (vec![1], 0)), "{messages}");
    assert!(report["unlisted"]["processes"].as_u64().unwrap() > 100, "{}", report["unlisted"]);
    assert_eq!((&report["unlisted"]["suspects"], &report["unlisted"]["unchecked"]), (&0.into(), &0.into()));
}

#[test]
fn shells_and_their_children_leave_nothing_behind() {
    let script = "for i in 1 2 3; do echo $i | cat; done; x=$(echo a; echo b | cat); (exit 0); ls / | wc -l";
    for shell in ["/bin/bash", "/bin/sh"] {
        let (status, report, messages) = gate(&["--fail-on-leak", "--follow"], &[shell, "-c", script]);
        assert_eq!((status, lost(&report, "")), (0, (Vec::new(), 0)), "{shell}: {messages}");
        assert!(processes(&report).len() > 8 && all_are_checked(&report), "{shell}: {messages}");
    }
}

#[test]
fn the_run_goes_on_while_a_child_in_the_commands_session_does() {
    let program = compile("gate_children.c", &FLAGS);
    let script = format!("(sleep 1; exec {} lose exit 4) & exit 0", program.display());
    let (status, report, messages) = gate(&["--fail-on-leak", "--follow"], &["/bin/sh", "-c", &script]);
    assert_eq!((status, lost(&report, "lose_in_child")), (3, (vec![4], 0)), "{messages}");
}

#[test]
fn a_daemon_is_told_and_waited_for_where_that_is_asked_for() {
    let program = compile("gate_daemon.c", &FLAGS);
    let program = program.to_str().unwrap();
    for (options, expected) in [(&["--follow"][..], 0), (&["--follow", "--fail-on-leak"], 4)] {
        let (status, report, messages) = gate(options, &[program, "stay"]);
        let daemon = processes(&report).iter().find(|process| process["ended"] == false).unwrap();
        let pid = daemon["pid"].to_string();
        assert!(Command::new("kill").args(["-KILL", &pid]).status_in_time().success());
        assert_eq!(status, expected, "{messages}");
        assert!(messages.contains(&format!("(pid {pid}) goes on as a daemon")), "{messages}");
        assert_eq!(messages.matches("hint: --follow=daemons waits").count(), 1, "{messages}");
    }
    let (status, report, messages) = gate(&["--follow=daemons", "--fail-on-leak"], &[program, "lose", "8"]);
    assert_eq!((status, lost(&report, "lose_in_daemon")), (3, (vec![8], 0)), "{messages}");
    assert!(all_are_checked(&report) && !messages.contains("goes on"), "{messages}");
}
