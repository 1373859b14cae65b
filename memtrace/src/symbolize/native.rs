//! Native code, through blazesym.

use std::{collections::HashMap, sync::Arc};

use blazesym::symbolize::{
    CodeInfo, Input, Sym, Symbolized,
    source::{Elf, Source},
};

use crate::{
    model::frame::{Frame, Function, ImageName, Place, Reason},
    process::{image::Image, status::printable},
};

/// A return address, normalised: the form in which it outlives its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodePlace {
    /// In the image of this index, this many bytes into its file.
    File {
        /// The index into the images given to [`Symbolizer::symbolize`].
        image: usize,
        /// The return address's place in the file.
        file_offset: u64,
    },
    /// In no file.
    Address(u64, Reason),
}

/// An image whose frames are wanted.
pub struct NamedImage {
    /// How reports name it.
    pub name: Arc<ImageName>,
    /// The file, or nothing where it could not be opened.
    pub image: Option<Image>,
}

/// Resolves places, and remembers what it has resolved.
pub struct Symbolizer {
    blazesym: blazesym::symbolize::Symbolizer,
    resolved: HashMap<CodePlace, Arc<[Frame]>>,
}

impl Default for Symbolizer {
    fn default() -> Self {
        let blazesym = blazesym::symbolize::Symbolizer::builder()
            .enable_code_info(true)
            .enable_inlined_fns(true)
            .enable_demangling(true)
            // Images are held open: what their paths lead to later does not matter.
            .enable_auto_reload(false)
            .build();
        Self { blazesym, resolved: HashMap::new() }
    }
}

impl Symbolizer {
    /// Resolves every place that is not resolved yet, one batch an image.
    pub fn symbolize(&mut self, images: &[NamedImage], places: impl IntoIterator<Item = CodePlace>) {
        let mut by_image: HashMap<usize, Vec<u64>> = HashMap::new();
        for place in places {
            if self.resolved.contains_key(&place) {
                continue;
            }
            match place {
                CodePlace::File { image, file_offset } => {
                    // Taken for resolved at once, so that each place is asked for only once.
                    self.resolved.insert(place, Arc::default());
                    by_image.entry(image).or_default().push(file_offset);
                }
                CodePlace::Address(address, why) => {
                    let frame = Frame { place: Place::Address(address), function: Err(why) };
                    self.resolved.insert(place, Arc::new([frame]));
                }
            }
        }
        for (index, offsets) in by_image {
            self.symbolize_image(index, &images[index], &offsets);
        }
    }

    /// The frames at a place that was part of an earlier batch, inlined ones first.
    #[must_use]
    pub fn frames(&self, place: CodePlace) -> Arc<[Frame]> {
        self.resolved.get(&place).cloned().unwrap_or_default()
    }

    fn symbolize_image(&mut self, index: usize, named: &NamedImage, file_offsets: &[u64]) {
        let symbols = named.image.as_ref().and_then(|image| {
            let source = Source::Elf(Elf::new(image.reachable_path()));
            // A return address may belong to the next line, or even to the next function: the call is
            // the instruction before it.
            let calls: Vec<u64> = file_offsets.iter().map(|offset| offset.saturating_sub(1)).collect();
            match self.blazesym.symbolize(&source, Input::FileOffset(&calls)) {
                Ok(symbols) => Some(symbols),
                Err(error) => {
                    log::info!("no symbols from {}: {error}", named.name.path);
                    None
                }
            }
        });
        for (position, file_offset) in file_offsets.iter().enumerate() {
            let virtual_offset = named.image.as_ref().and_then(|image| image.virtual_offset(*file_offset));
            let place = Place::Image { image: Arc::clone(&named.name), offset: virtual_offset.unwrap_or(*file_offset) };
            let frames = match symbols.as_ref().and_then(|symbols| symbols.get(position)) {
                Some(Symbolized::Sym(symbol)) => frames_of(symbol, &place),
                Some(Symbolized::Unknown(_)) => vec![Frame { place, function: Err(Reason::NoSymbol) }],
                None => vec![Frame { place, function: Err(Reason::ImageUnreadable) }],
            };
            self.resolved.insert(CodePlace::File { image: index, file_offset: *file_offset }, frames.into());
        }
    }
}

/// The functions at one place, from the innermost inlined one outwards.
fn frames_of(symbol: &Sym<'_>, place: &Place) -> Vec<Frame> {
    let frame = |name: &str, code: Option<&CodeInfo<'_>>, inlined| Frame {
        place: place.clone(),
        function: Ok(Function {
            name: printable(name),
            file: code.map(|code| printable(&code.to_path().to_string_lossy())),
            line: code.and_then(|code| code.line),
            inlined,
        }),
    };
    let inlined = symbol.inlined.iter().rev().map(|inner| frame(&inner.name, inner.code_info.as_ref(), true));
    inlined.chain([frame(&symbol.name, symbol.code_info.as_deref(), false)]).collect()
}
