//! The machine code of a hostile image, in which a function's ways out are looked for.

use memtrace::capture::returns::{Linked, Text, Value, returns};

use crate::{Target, input::Input, seeds};

/// Where the function begins, where the table of addresses leads, and the code.
pub const TARGET: Target = Target { name: "returns", run, seeds };

/// Code from virtual offset 0 on.
struct Code<'a> {
    bytes: &'a [u8],
    linked: Option<Linked>,
}

impl Text for Code<'_> {
    fn code_from(&self, address: u64) -> Option<Vec<u8>> {
        Some(self.bytes.get(usize::try_from(address).ok()?..)?.to_vec())
    }

    fn linked(&self, _slot: u64) -> Option<Linked> {
        self.linked
    }
}

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (entry, kind, to) = (u64::from(input.short()), input.byte(), u64::from(input.short()));
    let linked = match kind % 4 {
        0 => None,
        1 => Some(Linked::Here(to)),
        2 => Some(Linked::Hooked),
        _ => Some(Linked::FirstArgument),
    };
    let bytes = input.rest();
    let Ok(found) = returns(&Code { bytes, linked }, entry) else { return };
    for found in found {
        let at = usize::try_from(found.at).unwrap_or(usize::MAX);
        let instruction = bytes.get(at..).unwrap_or_default();
        let is_there = found.value != Value::Returned || instruction.iter().take(15).any(|byte| *byte == 0xc3);
        assert!(!instruction.is_empty() && is_there, "{found:?} is no return");
    }
}

/// Functions of this machine's libraries.
fn seeds() -> Vec<Vec<u8>> {
    let seed = |code: &Vec<u8>| [0, 1, 2, 3].map(|kind| [&[0, 0, kind, 4, 0][..], code].concat());
    seeds::functions().iter().flat_map(seed).collect()
}
