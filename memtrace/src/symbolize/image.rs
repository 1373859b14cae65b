//! Images as frames name them, with what their names are read from.

use std::sync::Arc;

use super::kernel::KernelCode;
use crate::{model::frame::ImageName, process::image::Image};

/// The code of an image.
pub enum ImageCode {
    /// A file, which is held open.
    File(Image),
    /// A file that could not be opened.
    Closed,
    /// The kernel's, or one of its modules'.
    Kernel(Arc<KernelCode>),
}

/// An image whose frames are wanted.
pub struct NamedImage {
    /// How reports name it.
    pub name: Arc<ImageName>,
    /// Where its names are found.
    pub code: ImageCode,
}

impl NamedImage {
    /// The images of the kernel, by their index in places.
    #[must_use]
    pub fn of_kernel(code: &Arc<KernelCode>) -> Vec<Arc<Self>> {
        let named = |name: &Arc<ImageName>| Self { name: Arc::clone(name), code: ImageCode::Kernel(Arc::clone(code)) };
        code.images().iter().map(named).map(Arc::new).collect()
    }

    /// The file, where it is one that could be opened.
    #[must_use]
    pub fn file(&self) -> Option<&Image> {
        match &self.code {
            ImageCode::File(image) => Some(image),
            ImageCode::Closed | ImageCode::Kernel(_) => None,
        }
    }
}
