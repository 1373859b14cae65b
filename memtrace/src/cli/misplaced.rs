//! Options that stand before a sub-command, where clap takes the sub-command for a word without a meaning.

use std::ffi::{OsStr, OsString};

use clap::{
    CommandFactory, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::args::Arguments;

/// The error and the next step for `words`, of which clap has said `error`; `None` where no option is misplaced.
pub(super) fn options(words: &[OsString], error: &Error) -> Option<(Error, String)> {
    let name = unknown(error)?;
    let mut definition = Arguments::command();
    definition.build();
    // `help` is clap's own, and takes names of sub-commands alone.
    let command = definition.get_subcommands_mut().find(|command| command.get_name() == name && name != "help")?;
    let (before, behind) = parted(words, &name)?;
    let message = format!("options stand before the sub-command `{name}`");
    let error = command.error(ErrorKind::ArgumentConflict, message);
    Some((error, hint(&name, before, behind)))
}

/// The word that clap does not know.
fn unknown(error: &Error) -> Option<String> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::UnknownArgument => Some(word.clone()),
        _ => None,
    }
}

/// The words before a sub-command and behind it. A word of that name may be the value of an option as well.
fn parted<'a>(words: &'a [OsString], name: &str) -> Option<(&'a [OsString], &'a [OsString])> {
    let is_sub_command = |end: &usize| {
        let parsed = Arguments::parse(words[..=*end].iter().map(OsString::as_os_str));
        parsed.is_err_and(|error| unknown(&error).as_deref() == Some(name))
    };
    let named = (1..words.len()).filter(|index| words[*index] == name);
    let index = named.into_iter().find(is_sub_command)?;
    Some((&words[1..index], &words[index + 1..]))
}

/// The next step: the same words in another order, if the sub-command takes them.
fn hint(name: &str, before: &[OsString], behind: &[OsString]) -> String {
    let program = [OsStr::new("memtrace"), OsStr::new(name)];
    let moved = program.into_iter().chain(before.iter().chain(behind).map(OsString::as_os_str));
    let refused = Arguments::parse(moved).err().and_then(|error| unknown(&error));
    if let Some(option) = refused {
        return format!("`memtrace {name}` has no {option}; `memtrace {name} --help` shows its options");
    }
    let before: Vec<String> = before.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    let rest = if behind.is_empty() { "" } else { " …" };
    format!("put the options behind the sub-command: memtrace {name} {}{rest}", before.join(" "))
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:%@+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(words: &[&str]) -> Option<(String, String)> {
        let words: Vec<OsString> = [&["memtrace"], words].concat().into_iter().map(OsString::from).collect();
        let (error, hint) = options(&words, &Arguments::parse(&words).unwrap_err())?;
        assert_eq!(error.exit_code(), 2);
        Some((error.to_string(), hint))
    }

    #[test]
    fn options_are_to_stand_behind_the_sub_command() {
        let (error, hint) = explained(&["--pid", "5", "watch", "--threshold", "1MiB"]).unwrap();
        assert!(error.starts_with("error: options stand before the sub-command `watch`\n"), "{error}");
        assert!(error.contains("Usage: memtrace watch "), "{error}");
        assert_eq!(hint, "put the options behind the sub-command: memtrace watch --pid 5 …");
        let (_, hint) = explained(&["-v", "doctor"]).unwrap();
        assert_eq!(hint, "put the options behind the sub-command: memtrace doctor -v");
    }

    #[test]
    fn the_hint_can_be_pasted_into_a_shell() {
        let (_, hint) = explained(&["--comm", "it's a", "--format=json", "watch"]).unwrap();
        assert_eq!(hint, r"put the options behind the sub-command: memtrace watch --comm 'it'\''s a' --format=json");
    }

    #[test]
    fn options_that_the_sub_command_does_not_have_are_not_advised() {
        for (words, hint) in [
            (
                &["--top", "3", "doctor"][..],
                "`memtrace doctor` has no --top; `memtrace doctor --help` shows its options",
            ),
            (
                &["--tier", "exact", "watch", "--all", "--threshold", "1MiB"],
                "`memtrace watch` has no --tier; `memtrace watch --help` shows its options",
            ),
        ] {
            assert_eq!(explained(words).unwrap().1, hint, "{words:?}");
        }
    }

    #[test]
    fn a_value_of_that_name_is_no_sub_command() {
        let (_, hint) = explained(&["--comm", "watch", "watch", "--threshold", "1MiB"]).unwrap();
        assert_eq!(hint, "put the options behind the sub-command: memtrace watch --comm watch …");
        assert_eq!(explained(&["--comm", "watch", "--frobnicate"]), None);
        assert_eq!(explained(&["--comm", "a", "frobnicate"]), None);
    }
}
