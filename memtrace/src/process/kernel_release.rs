//! The running kernel, by its release.

use rustix::system::uname;

/// From the kernel itself: /proc may not be mounted.
#[must_use]
pub fn release() -> Option<String> {
    uname().release().to_str().ok().map(str::to_owned)
}

/// The first two numbers of a kernel's release.
#[must_use]
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    Some((numbers.next()?, numbers.next()?))
}
