//! A BPF map with its type and its name: what fails says which map it was.

use std::{fs::File, os::fd::AsFd};

use aya::{
    Ebpf, Pod,
    maps::{Array, CgroupArray, HashMap, Map, MapData, MapError, Queue},
};

use super::error::{BpfError, of_map};

/// `BPF_NOEXIST` of `<linux/bpf.h>`: insert only.
const BPF_NOEXIST: u64 = 1;

/// A map of one kind.
pub(super) struct NamedMap<M> {
    name: &'static str,
    map: M,
}

/// An array, read and written by system calls.
pub(super) type ArrayMap<V> = NamedMap<Array<MapData, V>>;
/// A hash table.
pub(super) type KeyedMap<K, V> = NamedMap<HashMap<MapData, K, V>>;
/// A queue: first in, first out.
pub(super) type QueueMap<V> = NamedMap<Queue<MapData, V>>;
/// A group of processes, for the kernel to compare with.
pub(super) type CgroupMap = NamedMap<CgroupArray<MapData>>;

/// Takes a map out of the object.
///
/// # Errors
/// Where it has no such map, of this kind and with such entries.
pub(super) fn open<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, BpfError> {
    let map = ebpf.take_map(name).ok_or(BpfError::Missing(name))?;
    map.try_into().map_err(failed("open", name))
}

fn failed(action: &'static str, name: &'static str) -> impl Fn(MapError) -> BpfError {
    move |error| BpfError::Map { action, name, source: of_map(error) }
}

impl<M: TryFrom<Map, Error = MapError>> NamedMap<M> {
    /// Takes a map out of the object.
    ///
    /// # Errors
    /// As [`open`].
    pub(super) fn open(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, BpfError> {
        open(ebpf, name).map(|map| Self { name, map })
    }
}

impl<M> NamedMap<M> {
    fn failed(&self, action: &'static str) -> impl Fn(MapError) -> BpfError + use<M> {
        failed(action, self.name)
    }
}

impl<V: Pod> ArrayMap<V> {
    /// The entry at `index`.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn get(&self, index: u32) -> Result<V, BpfError> {
        self.map.get(&index, 0).map_err(self.failed("read"))
    }

    /// Replaces the entry at `index`.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn set(&mut self, index: u32, value: V) -> Result<(), BpfError> {
        self.map.set(index, value, 0).map_err(self.failed("write to"))
    }

    /// Replaces entries from the first on.
    ///
    /// # Errors
    /// Where there are more than the map has.
    pub(super) fn fill(&mut self, entries: &[V]) -> Result<(), BpfError> {
        (0..).zip(entries).try_for_each(|(index, entry)| self.set(index, *entry))
    }
}

impl<K: Pod, V: Pod> KeyedMap<K, V> {
    /// The value at `key`, if there is one.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, BpfError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.failed("read")(error)),
        }
    }

    /// Puts a value at a key where there was none. Returns whether that was so, and there was room.
    pub(super) fn insert_new(&mut self, key: K, value: V) -> bool {
        self.map.insert(key, value, BPF_NOEXIST).is_ok()
    }

    /// Puts a value at a key, whatever stood there. Returns whether there was room.
    pub(super) fn insert(&mut self, key: K, value: V) -> bool {
        self.map.insert(key, value, 0).is_ok()
    }

    /// Removes what stands at `key`; what is gone already need not be removed.
    pub(super) fn remove(&mut self, key: &K) {
        _ = self.map.remove(key);
    }

    /// The keys that can be read, while others come and go.
    pub(super) fn keys(&self) -> Vec<K> {
        self.map.keys().filter_map(Result::ok).collect()
    }

    /// Every key with its value.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn entries(&self) -> Result<Vec<(K, V)>, BpfError> {
        self.map.iter().collect::<Result<_, _>>().map_err(self.failed("read"))
    }
}

impl<V: Pod> QueueMap<V> {
    /// How many there can be.
    pub(super) fn capacity(&self) -> u32 {
        self.map.capacity()
    }

    /// Takes the first out, if there is one.
    pub(super) fn pop(&mut self) -> Option<V> {
        self.map.pop(0).ok()
    }

    /// Puts one at the end.
    ///
    /// # Errors
    /// Where there is no room.
    pub(super) fn push(&mut self, value: V) -> Result<(), BpfError> {
        self.map.push(value, 0).map_err(self.failed("add to"))
    }
}

impl CgroupMap {
    /// Sets the one group.
    ///
    /// # Errors
    /// Where `cgroup` is no folder of a cgroup2 file system.
    pub(super) fn set(&mut self, cgroup: &File) -> Result<(), BpfError> {
        self.map.set(0, cgroup.as_fd(), 0).map_err(self.failed("write to"))
    }
}
