//! An input as a target takes it apart: a few parameters of fixed size, then the data. Seeds are written the same way.

use std::fs::File;

use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::pwrite,
};

/// A file in memory with this content; nothing where the kernel has no room for it.
#[must_use]
pub fn file_in_memory(content: &[u8]) -> Option<File> {
    let file = File::from(memfd_create("hostile", MemfdFlags::CLOEXEC).ok()?);
    pwrite(&file, content, 0).ok()?;
    Some(file)
}

/// The rest of an input. Bytes that are missing are zeros, so that every input is one of every target.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of it.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    /// The next two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// The next four bytes.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// The next eight bytes.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// As many bytes as the next two say, or as there are.
    pub fn part(&mut self) -> &'a [u8] {
        let length = usize::from(self.short()).min(self.0.len());
        let (part, rest) = self.0.split_at(length);
        self.0 = rest;
        part
    }

    /// All that is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }
}

/// A part of a seed, as [`Input::part`] reads it; cut where it is longer than that can say.
#[must_use]
pub fn part(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_le_bytes(), &bytes[..usize::from(length)]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_gives_back_what_a_seed_was_made_of() {
        let seed = [&[7][..], &part(b"abc"), &0x0102_0304u32.to_le_bytes(), b"rest"].concat();
        let mut input = Input::new(&seed);
        assert_eq!(
            (input.byte(), input.part(), input.word(), input.rest()),
            (7, &b"abc"[..], 0x0102_0304, &b"rest"[..])
        );
    }

    #[test]
    fn bytes_that_are_missing_are_zeros() {
        let mut input = Input::new(&[5, 0, 9]);
        assert_eq!((input.part(), input.long(), input.is_empty()), (&[9][..], 0, true));
    }
}
