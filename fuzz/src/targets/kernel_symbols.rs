//! The kernel's list of symbols. The kernel writes it, with names of modules and of BPF programs that their owners chose.

use memtrace::process::kallsyms::Kallsyms;

use crate::{Target, input::Input};

/// An address, and the list.
pub const TARGET: Target = Target { name: "kernel_symbols", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let address = input.long();
    let Ok(kallsyms) = Kallsyms::parse(input.rest()) else { return };
    for address in [address, address.wrapping_add(1 << 18), 0, u64::MAX] {
        if let Some(located) = kallsyms.locate(address) {
            let again = kallsyms.address(located.image, located.offset);
            assert_eq!(again, Some(address), "{located:?} at {address:#x}");
        }
    }
    _ = kallsyms.span(|name| name.starts_with('b'));
}

fn seeds() -> Vec<Vec<u8>> {
    let list = "ffffffff81000000 T _text\nffffffff81000100 t bpf_first\nffffffff81000200 T bpf_last\nffffffff81000300 W end\n\
                ffffffffc0000010 t read_it\t[nfs]\nffffffffc0001000 t bpf_prog_6deef7357e7b4530_x\t[bpf]\n";
    vec![[&0xffff_ffff_8100_0180u64.to_le_bytes()[..], list.as_bytes()].concat()]
}
