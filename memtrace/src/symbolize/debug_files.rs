//! Where an image's separate debug file is: by build id, by `.gnu_debuglink`.
//!
//! In: an image. Out: an open file. Names come from images, so files are opened as [`crate::process::open`] does, and are known
//! by their build ids (or, where an image has none, by a checksum that the process that reads symbols takes).

use std::path::{Path, PathBuf};

use crate::process::{image::Image, open::open_regular};

/// Where distributions have debug files.
const FOLDERS: [&str; 2] = ["/usr/lib/debug", "/lib/debug"];

/// The debug file of an image, with the checksum that it must have where it is known by no build id.
pub(super) fn of(image: &Image) -> Option<(Image, Option<u32>)> {
    let by_build_id = by_build_id(image.build_id.as_deref()).map(|debug| (debug, None));
    by_build_id.or_else(|| by_link(image, image.folder()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_id_is_no_path() {
        assert!(by_build_id(Some("../../../../etc/passwd")).is_none());
        assert!(by_build_id(Some("a")).is_none() && by_build_id(Some("\u{e4}\u{e4}\u{e4}")).is_none());
    }
}
