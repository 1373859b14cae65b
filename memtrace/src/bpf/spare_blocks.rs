//! Live blocks for which the table of blocks had no room: in a hash table that takes memory as they come.

use std::{io, os::fd::AsFd};

use aya::maps::{Map, MapData, MapError};
use memtrace_common::{ids::BlockKey, wire::block::LiveBlock};

use super::sys::{Batch, read_batch, remove};

/// How many blocks are read by one system call.
const BATCH: usize = 4096;

/// The table.
pub(super) struct SpareBlocks(MapData);

impl SpareBlocks {
    /// Calls `see` with every block, while others come and go.
    pub(super) fn for_each(&self, mut see: impl FnMut(BlockKey, LiveBlock)) {
        let (mut keys, mut blocks) = (vec![BlockKey(0); BATCH], vec![LiveBlock::default(); BATCH]);
        let mut next = None;
        loop {
            let Ok(Batch { count, next: following }) = read_batch(self.0.fd().as_fd(), next, &mut keys, &mut blocks)
            else {
                return log::warn!("blocks beyond the table cannot be read: ages of sites leave them out");
            };
            keys.iter().zip(&blocks).take(count).for_each(|(key, block)| see(*key, *block));
            if following.is_none() {
                return;
            }
            next = following;
        }
    }

    /// Removes a block. Returns whether it was there.
    pub(super) fn remove(&self, key: BlockKey) -> bool {
        remove(self.0.fd().as_fd(), &key).is_ok()
    }
}

impl TryFrom<Map> for SpareBlocks {
    type Error = MapError;

    fn try_from(map: Map) -> Result<Self, MapError> {
        match map {
            Map::HashMap(data) => Ok(Self(data)),
            _ => Err(io::Error::from(io::ErrorKind::InvalidInput).into()),
        }
    }
}
