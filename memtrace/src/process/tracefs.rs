//! The kernel's tracepoints, as tracefs describes them: their numbers, and where their records hold which field.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use thiserror::Error;

/// Where tracefs is mounted, if it is (Documentation/trace/ftrace.rst).
const USUAL: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Why a tracepoint cannot be used.
#[derive(Debug, Error)]
pub enum TracefsError {
    /// The kernel's descriptions are nowhere to be read.
    #[error("cannot read the kernel's tracepoints: tracefs is not mounted, and cannot be opened without: {0}")]
    NoTracefs(#[source] io::Error),
    /// The kernel has no such tracepoint, or does not let it be read.
    #[error("cannot read the tracepoint {event}: {source}")]
    Read {
        /// Its group and name.
        event: String,
        /// The system's error.
        source: io::Error,
    },
    /// Its records are not as they are known.
    #[error("this kernel's tracepoint {event} has no field `{field}` where it is known to be")]
    Unknown {
        /// Its group and name.
        event: String,
        /// The field.
        field: &'static str,
    },
}

/// The descriptions of the kernel's tracepoints.
pub struct Tracefs {
    root: PathBuf,
    /// Keeps the file system there where nobody has mounted it.
    _own: Option<OwnedFd>,
}

impl Tracefs {
    /// Where it is mounted; where it is not, without mounting it anywhere.
    ///
    /// # Errors
    /// Where it is not mounted and may not be opened (that takes CAP_SYS_ADMIN).
    pub fn open() -> Result<Self, TracefsError> {
        if let Some(root) = USUAL.iter().map(Path::new).find(|root| root.join("events").is_dir()) {
            return Ok(Self { root: root.to_owned(), _own: None });
        }
        let own = open_unmounted(c"tracefs").map_err(TracefsError::NoTracefs)?;
        Ok(Self { root: PathBuf::from(format!("/proc/self/fd/{}", own.as_raw_fd())), _own: Some(own) })
    }

    /// The number of a tracepoint whose records hold each of `fields`, given by name, offset and size in bytes.
    ///
    /// # Errors
    /// Where there is no such tracepoint, or its records differ.
    pub fn event(&self, event: &str, fields: &[(&'static str, usize, usize)]) -> Result<u64, TracefsError> {
        let read = |file: &str| {
            let path = self.root.join("events").join(event).join(file);
            fs::read_to_string(path).map_err(|source| TracefsError::Read { event: event.to_owned(), source })
        };
        let format = read("format")?;
        if let Some((field, ..)) = fields.iter().find(|field| !has_field(&format, field)) {
            return Err(TracefsError::Unknown { event: event.to_owned(), field });
        }
        let id = read("id")?;
        id.trim().parse().map_err(|_| TracefsError::Read {
            event: event.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, "its number is none"),
        })
    }
}

/// Whether a format has a line like `field:int member; offset:16; size:4; signed:1;`, with tabs between the parts.
fn has_field(format: &str, (name, offset, size): &(&str, usize, usize)) -> bool {
    let mut fields = format.lines().filter_map(|line| line.trim().strip_prefix("field:"));
    fields.any(|line| {
        let mut parts = line.split(';').map(str::trim);
        parts.next().is_some_and(|declaration| declaration.rsplit(' ').next() == Some(name))
            && parts.next() == Some(format!("offset:{offset}").as_str())
            && parts.next() == Some(format!("size:{size}").as_str())
    })
}

/// A file system of this type that is mounted nowhere, so that nothing of it is left behind (fsopen(2), Linux 5.2).
fn open_unmounted(kind: &CStr) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::empty())?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::empty(), MountAttrFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: rss_stat\nID: 646\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
                          \tfield:int member;\toffset:16;\tsize:4;\tsigned:1;\n\tfield:long size;\toffset:24;\tsize:8;\tsigned:1;\n";

    #[test]
    fn a_field_is_known_by_name_place_and_size() {
        assert!(has_field(FORMAT, &("member", 16, 4)) && has_field(FORMAT, &("size", 24, 8)));
        assert!(!has_field(FORMAT, &("member", 12, 4)), "another place");
        assert!(!has_field(FORMAT, &("size", 24, 4)), "another size");
        assert!(!has_field(FORMAT, &("curr", 12, 4)), "no such field");
    }
}
