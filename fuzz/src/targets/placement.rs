//! The machine code of a hostile function, in which a probe is placed.

use memtrace::capture::placement::place;

use crate::{Target, input::Input, seeds};

/// Which arguments are needed, one bit each, and the code.
pub const TARGET: Target = Target { name: "placement", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let needed = input.byte();
    let (arguments, code): (Vec<u8>, _) = ((0..8).filter(|index| needed >> index & 1 == 1).collect(), input.rest());
    let placement = place(code, &arguments);
    assert!(placement.offset == 0 || placement.offset < code.len() as u64, "{placement:?} in {} bytes", code.len());
}

/// Functions of this machine's libraries.
fn seeds() -> Vec<Vec<u8>> {
    seeds::functions().into_iter().map(|code| [&[0b11][..], &code].concat()).collect()
}
