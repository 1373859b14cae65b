//! Tests of `--help`: it names units and defaults, ends with examples, and fits a terminal.

use clap::{Arg, Command, CommandFactory};

use super::Arguments;

/// memtrace and its sub-commands, those that are hidden included.
fn commands() -> Vec<Command> {
    let mut memtrace = Arguments::command();
    memtrace.build();
    let of_users = memtrace.get_subcommands().filter(|command| command.get_name() != "help").cloned();
    let commands: Vec<Command> = of_users.chain([memtrace.clone()]).collect();
    assert!(commands.len() > 4, "{commands:?}");
    commands
}

/// All that help says of an option.
fn text(option: &Arg) -> String {
    let help = [option.get_help(), option.get_long_help()].into_iter().flatten().map(ToString::to_string);
    let values = option.get_possible_values();
    let values = values.iter().filter_map(|value| value.get_help().map(ToString::to_string));
    help.chain(values).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_sentence_begins_with_what_or_who() {
    for command in commands() {
        let own = [command.get_about(), command.get_long_about(), command.get_after_help()];
        let own = own.into_iter().flatten().map(ToString::to_string);
        for text in own.chain(command.get_arguments().map(text)) {
            for sentence in text.split(['\n', '.', ';', ':']).flat_map(|part| part.split("  ")) {
                let first = sentence.trim().to_lowercase();
                assert!(!first.starts_with("what") && !first.starts_with("who"), "{}: {text}", command.get_name());
            }
        }
    }
}

#[test]
fn every_option_with_a_value_names_its_default_unless_it_is_the_target_or_required() {
    for command in commands() {
        let takes_value = |option: &&Arg| option.get_action().takes_values() && !option.is_positional();
        for option in command.get_arguments().filter(takes_value) {
            let is_needed = option.is_required_set() || ["pids", "comm", "cgroup"].contains(&option.get_id().as_str());
            let is_named = !option.get_default_values().is_empty() || text(option).contains("[default: ");
            assert!(is_needed || is_named, "{option}: {}", text(option));
        }
    }
}

#[test]
fn every_option_with_a_unit_shows_it() {
    for command in commands() {
        for option in command.get_arguments() {
            let name = option.get_value_names().unwrap_or_default().first().map_or("", |name| name.as_str());
            let unit = match name {
                "TIME" => "s",
                "PERCENT" => "%",
                "SIZE" => "KiB",
                _ => continue,
            };
            let text = text(option);
            let mut numbers =
                text.split([' ', ',', ';', ':']).filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
            assert!(numbers.any(|number| number.trim_end_matches(':').ends_with(unit)), "{option}: {text}");
        }
    }
}

#[test]
fn the_help_of_every_command_for_users_ends_with_examples_that_fit_a_terminal() {
    for command in commands().iter().filter(|command| !command.is_hide_set()) {
        let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(examples.starts_with("Examples:\n"), "{}: {examples}", command.get_name());
        for line in examples.lines() {
            assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
        }
    }
}
