//! Where separate debug files are: by build id, by `.gnu_debuglink`, by `.gnu_debugaltlink`, beside the image (`.dwp`).
//!
//! In: an image. Out: open files. Names come from images, so files are opened as [`crate::process::open`] does, and are known
//! by their build ids (or, where an image has none, by a checksum that the process that reads symbols takes).

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use super::reader::protocol::FileKind;
use crate::process::{image::Image, open::open_regular};

/// Where distributions have debug files.
const FOLDERS: [&str; 2] = ["/usr/lib/debug", "/lib/debug"];

/// The separate debug files of an image.
#[derive(Debug, Default)]
pub(super) struct DebugFiles {
    debug: Option<(Image, Option<u32>)>,
    supplementary: Option<Image>,
    package: Option<File>,
}

impl DebugFiles {
    /// Opens what there is.
    pub(super) fn of(image: &Image) -> Self {
        let folder = image.folder();
        let debug =
            by_build_id(image.build_id.as_deref()).map(|debug| (debug, None)).or_else(|| by_link(image, folder));
        // Relative paths are relative to the file that has the link.
        let linking = debug.as_ref().map_or(image, |(debug, _)| debug);
        let supplementary = supplementary(linking, linking.path.parent().filter(|_| debug.is_some()).or(folder));
        let package = folder.zip(image.path.file_name()).and_then(|(folder, name)| {
            let mut name = name.to_owned();
            name.push(".dwp");
            open_regular(&folder.join(name)).ok()
        });
        Self { debug, supplementary, package }
    }

    /// The files, and what they are.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (FileKind, BorrowedFd<'_>)> {
        let debug = self.debug.iter().map(|(debug, sum)| (FileKind::Debug { checksum: *sum }, debug.descriptor()));
        let supplementary = self.supplementary.iter().map(|file| (FileKind::Supplementary, file.descriptor()));
        debug.chain(supplementary).chain(self.package.iter().map(|file| (FileKind::Package, file.as_fd())))
    }
}

fn open(path: &Path) -> Option<Image> {
    Image::parse(open_regular(path).ok()?, path.to_owned()).ok()
}

/// The debug file of a build id, if it has that build id itself.
fn by_build_id(build_id: Option<&str>) -> Option<Image> {
    let build_id = build_id.filter(|id| id.len() > 2 && id.is_ascii())?;
    let (first, rest) = build_id.split_at(2);
    let found =
        FOLDERS.iter().filter_map(|folder| open(&Path::new(folder).join(format!(".build-id/{first}/{rest}.debug"))));
    found.into_iter().find(|file| file.build_id.as_deref() == Some(build_id))
}

fn by_link(image: &Image, folder: Option<&Path>) -> Option<(Image, Option<u32>)> {
    let (name, checksum) = image.debug_link()?;
    // A name, not a path.
    let name = PathBuf::from(name.file_name()?);
    let beside = folder.into_iter().flat_map(|folder| [folder.join(&name), folder.join(".debug").join(&name)]);
    let elsewhere = FOLDERS.iter().flat_map(|debug| {
        let below = folder.and_then(|folder| folder.strip_prefix("/").ok());
        below.map(|below| Path::new(debug).join(below).join(&name)).into_iter().chain([Path::new(debug).join(&name)])
    });
    let is_itself = |path: &PathBuf| *path == image.path;
    beside.chain(elsewhere).filter(|path| !is_itself(path)).find_map(|path| {
        let file = open(&path)?;
        match (&file.build_id, &image.build_id) {
            (Some(one), Some(other)) => (one == other).then_some((file, None)),
            _ => Some((file, Some(checksum))),
        }
    })
}

fn supplementary(linking: &Image, folder: Option<&Path>) -> Option<Image> {
    let (path, build_id) = linking.supplementary_link()?;
    let path = if path.is_absolute() { path } else { folder?.join(path) };
    let by_path = || open(&path).filter(|file| file.build_id.as_ref() == Some(&build_id));
    by_build_id(Some(&build_id)).or_else(by_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_id_is_no_path() {
        assert!(by_build_id(Some("../../../../etc/passwd")).is_none());
        assert!(by_build_id(Some("a")).is_none() && by_build_id(Some("\u{e4}\u{e4}\u{e4}")).is_none());
    }
}
