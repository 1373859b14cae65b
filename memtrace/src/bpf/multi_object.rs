//! The object once more, for links that aya 0.14 does not know: parsed, and relocated against the maps that aya made.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use aya::{Ebpf, maps::Map};
use aya_obj::Object as Parsed;

use super::{
    object::{OBJECT, map_data},
    probe_kind::When,
    sys::{self, Code, Functions},
};

/// The programs of the object, ready to be loaded for such links.
pub(super) struct MultiObject {
    object: Parsed,
    btf: Option<OwnedFd>,
}

impl MultiObject {
    /// Parses the object and relocates it against the maps of `ebpf`, of which none was taken yet.
    ///
    /// # Errors
    /// Where the kernel refuses the type information.
    pub(super) fn parse(ebpf: &Ebpf) -> io::Result<Self> {
        let mut object = Parsed::parse(OBJECT).map_err(io::Error::other)?;
        let btf = match aya::features().btf() {
            Some(features) => object.fixup_and_sanitize_btf(features).map_err(io::Error::other)?,
            None => None,
        };
        let btf = btf.map(|btf| sys::load_btf(&btf.to_bytes())).transpose()?;
        let maps = std::mem::take(&mut object.maps);
        let known = maps.iter().filter_map(|(name, map)| Some((name.as_str(), descriptor(ebpf.map(name)?)?, map)));
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(known, &sections).map_err(io::Error::other)?;
        object.relocate_calls(&sections).map_err(io::Error::other)?;
        object.sanitize_functions(aya::features());
        Ok(Self { object, btf })
    }

    /// Loads a program for links that run it at `when`.
    ///
    /// # Errors
    /// Where there is no such program, or the kernel refuses it.
    pub(super) fn load(&self, name: &str, when: When) -> io::Result<OwnedFd> {
        let program = self.object.programs.get(name).ok_or(io::ErrorKind::NotFound)?;
        let function = self.object.functions.get(&program.function_key()).ok_or(io::ErrorKind::NotFound)?;
        let bytes = function.func_info.func_info_bytes();
        let functions = self.btf.as_ref().map(|btf| Functions {
            btf: btf.as_fd(),
            bytes: &bytes,
            count: function.func_info.func_info.len(),
            record_bytes: function.func_info_rec_size,
        });
        let instructions = &function.instructions;
        sys::load_program(&Code { name, license: &program.license, instructions, functions }, when)
    }
}

fn descriptor(map: &Map) -> Option<RawFd> {
    Some(map_data(map)?.fd().as_fd().as_raw_fd())
}
