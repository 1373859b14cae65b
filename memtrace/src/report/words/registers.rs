//! The words on registers of threads: why they were not read.

use super::units;
use crate::model::no_registers::NoRegisters;

/// Why no thread's registers were read.
#[must_use]
pub fn not_read(why: &NoRegisters) -> String {
    match why {
        NoRegisters::Gone => "the process has ended".to_owned(),
        NoRegisters::NotBuilt => "this memtrace was built without its BPF objects".to_owned(),
        NoRegisters::TooOld => "the kernel is older than Linux 5.17".to_owned(),
        NoRegisters::Refused { error } => error.clone(),
        NoRegisters::Unreadable => "the kernel's records of its threads cannot be read".to_owned(),
        NoRegisters::TooManyThreads { limit } => {
            format!("it has more than {} threads", units::count(u64::from(*limit)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_words_of_its_own() {
        let reasons = [
            NoRegisters::Gone,
            NoRegisters::NotBuilt,
            NoRegisters::TooOld,
            NoRegisters::Refused { error: "cannot load the BPF object: Operation not permitted".to_owned() },
            NoRegisters::Unreadable,
            NoRegisters::TooManyThreads { limit: 100_000 },
        ];
        let words: std::collections::BTreeSet<String> = reasons.iter().map(not_read).collect();
        assert_eq!(words.len(), reasons.len(), "{words:?}");
        assert!(words.contains("it has more than 100,000 threads"), "{words:?}");
    }
}
