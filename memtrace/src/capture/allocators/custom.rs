//! Functions that the user names: allocators that no family knows.
//!
//! `IMAGE:FUNC(size=arg1)->ret` hands out a block of as many bytes as its second argument says, and returns
//! its address; `IMAGE:FUNC(ptr=arg0)` frees the block that is its first argument.

use std::path::Path;

use memtrace_common::steps::call::{CallFlag, CallRoles, Role};
use thiserror::Error;

use super::function::Effect;

/// A function that the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomFunction {
    /// The image that it is in: a file name, or the end of a path.
    pub image: String,
    /// Its symbol.
    pub function: String,
    /// Its effect on blocks.
    pub effect: Effect,
    /// The meaning of its arguments.
    pub roles: CallRoles,
}

/// The problem with the user's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CustomError {
    /// They are not of the form at all.
    #[error("write {0}")]
    Form(&'static str),
    /// A role that does not exist, or not here.
    #[error("`{0}` is none of {1}")]
    Role(String, &'static str),
    /// An argument that cannot be read.
    #[error("`{0}` is none of arg0 to arg5")]
    Argument(String),
    /// A role that was given twice.
    #[error("`{0}` is given twice")]
    Twice(String),
    /// The function does not say what is needed.
    #[error("{0} is missing")]
    Missing(&'static str),
}

const ALLOC_FORM: &str = "'IMAGE:FUNC(size=arg1)->ret'";
const FREE_FORM: &str = "'IMAGE:FUNC(ptr=arg0)'";

impl CustomFunction {
    /// Reads `IMAGE:FUNC(size=argN[,count=argN][,ptr=argN][,out=argN])[->ret]`.
    ///
    /// `count` multiplies the size; `ptr` is a block that is resized; `out` is where the block's address is
    /// stored by a function that returns 0 then, in place of `->ret`.
    ///
    /// # Errors
    /// Where the text does not say how blocks are handed out.
    pub fn alloc(text: &str) -> Result<Self, CustomError> {
        let (call, returns) = match text.trim().strip_suffix("->ret") {
            Some(call) => (call.trim_end(), true),
            None => (text.trim(), false),
        };
        let (image, function, roles) = parse(call, ALLOC_FORM, "size, count, ptr, out")?;
        let has = |role| roles.index_of(role).is_some();
        if !has(Role::Size) {
            return Err(CustomError::Missing("size=argN"));
        }
        if returns == has(Role::Output) {
            return Err(CustomError::Missing("one of `->ret` and out=argN"));
        }
        if has(Role::Output) && has(Role::Block) {
            return Err(CustomError::Missing("`->ret`, where there is ptr=argN,"));
        }
        // Nobody knows whether it throws. (A resize that throws cannot be followed.)
        let (effect, roles) =
            if has(Role::Block) { (Effect::Resize, roles) } else { (Effect::Alloc, roles.that(CallFlag::MayThrow)) };
        Ok(Self { image, function, effect, roles })
    }

    /// Reads `IMAGE:FUNC(ptr=argN)`.
    ///
    /// # Errors
    /// Where the text does not say which block is freed.
    pub fn free(text: &str) -> Result<Self, CustomError> {
        let (image, function, roles) = parse(text.trim(), FREE_FORM, "ptr")?;
        if roles.index_of(Role::Block).is_none() {
            return Err(CustomError::Missing("ptr=argN"));
        }
        Ok(Self { image, function, effect: Effect::Free, roles: roles.that(CallFlag::HandsOn) })
    }

    /// Whether the function is meant to be in the image of this path: the last parts of the path are what
    /// the user gave.
    #[must_use]
    pub fn is_in(&self, path: &Path) -> bool {
        path.ends_with(self.image.trim_start_matches('/')) || path == Path::new(&self.image)
    }

    /// Whether this symbol is the function: by its name, or by the last part of a Rust name (v0 mangling,
    /// <https://doc.rust-lang.org/rustc/symbol-mangling/v0.html>: its length, its bytes), whose other parts
    /// change with every build.
    #[must_use]
    pub fn is_called(&self, symbol: &str) -> bool {
        let rust_name = || {
            let rest = symbol.strip_prefix("_R")?.strip_suffix(self.function.as_str())?;
            rest.strip_suffix('_').unwrap_or(rest).strip_suffix(&self.function.len().to_string())
        };
        symbol == self.function || rust_name().is_some()
    }
}

fn parse(text: &str, form: &'static str, allowed: &'static str) -> Result<(String, String, CallRoles), CustomError> {
    let (place, arguments) =
        text.strip_suffix(')').and_then(|text| text.rsplit_once('(')).ok_or(CustomError::Form(form))?;
    let (image, function) = place.rsplit_once(':').ok_or(CustomError::Form(form))?;
    let (image, function) = (image.trim(), function.trim());
    if image.trim_matches('/').is_empty() || function.is_empty() {
        return Err(CustomError::Form(form));
    }
    let mut roles = CallRoles::NONE;
    for argument in arguments.split(',') {
        let (name, value) = argument.trim().split_once('=').ok_or(CustomError::Form(form))?;
        let role = match name.trim() {
            "size" => Role::Size,
            "count" => Role::Count,
            "ptr" => Role::Block,
            "out" => Role::Output,
            other => return Err(CustomError::Role(other.to_owned(), allowed)),
        };
        if !allowed.split(", ").any(|allowed| allowed == name.trim()) {
            return Err(CustomError::Role(name.trim().to_owned(), allowed));
        }
        if roles.index_of(role).is_some() {
            return Err(CustomError::Twice(name.trim().to_owned()));
        }
        roles = roles.with(role, index(value.trim())?);
    }
    Ok((image.to_owned(), function.to_owned(), roles))
}

/// The index of an argument that is passed in a register.
fn index(text: &str) -> Result<u8, CustomError> {
    let index = text.strip_prefix("arg").and_then(|index| index.parse().ok()).filter(|index| *index < 6);
    index.ok_or_else(|| CustomError::Argument(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_are_read_as_they_are_written() {
        let alloc = CustomFunction::alloc("libpool.so.1:pool_alloc(size=arg1)->ret").unwrap();
        assert_eq!((alloc.image.as_str(), alloc.function.as_str()), ("libpool.so.1", "pool_alloc"));
        assert_eq!((alloc.effect, alloc.roles.index_of(Role::Size)), (Effect::Alloc, Some(1)));
        let array = CustomFunction::alloc("/opt/app : new_array ( count = arg1 , size=arg2, ptr=arg0 ) ->ret").unwrap();
        assert_eq!((array.image.as_str(), array.function.as_str()), ("/opt/app", "new_array"));
        assert_eq!((array.effect, array.roles.arguments().len()), (Effect::Resize, 3));
        assert!(CustomFunction::alloc("app:get(size=arg1,out=arg0)").is_ok());
        let free = CustomFunction::free("app:put(ptr=arg5)").unwrap();
        assert_eq!((free.effect, free.roles.index_of(Role::Block)), (Effect::Free, Some(5)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let alloc = |text| CustomFunction::alloc(text).unwrap_err().to_string();
        assert_eq!(alloc("malloc"), "write 'IMAGE:FUNC(size=arg1)->ret'");
        assert_eq!(alloc("app:f(size=arg1)"), "one of `->ret` and out=argN is missing");
        assert_eq!(alloc("app:f(size=arg1,out=arg0)->ret"), "one of `->ret` and out=argN is missing");
        assert_eq!(alloc("app:f(ptr=arg0)->ret"), "size=argN is missing");
        assert_eq!(alloc("app:f(bytes=arg1)->ret"), "`bytes` is none of size, count, ptr, out");
        assert_eq!(alloc("app:f(size=arg6)->ret"), "`arg6` is none of arg0 to arg5");
        assert_eq!(alloc("app:f(size=arg1,size=arg2)->ret"), "`size` is given twice");
        assert_eq!(alloc(":f(size=arg1)->ret"), "write 'IMAGE:FUNC(size=arg1)->ret'");
        let free = |text| CustomFunction::free(text).unwrap_err().to_string();
        assert_eq!(free("app:f(size=arg1)"), "`size` is none of ptr");
        assert_eq!(free("app:f()"), "write 'IMAGE:FUNC(ptr=arg0)'");
    }

    #[test]
    fn images_go_by_the_end_of_their_path() {
        let with = |image: &str| CustomFunction::free(&format!("{image}:f(ptr=arg0)")).unwrap();
        let path = Path::new("/usr/lib/libpool.so.1");
        assert!(with("libpool.so.1").is_in(path));
        assert!(with("lib/libpool.so.1").is_in(path));
        assert!(with("/usr/lib/libpool.so.1").is_in(path));
        assert!(!with("pool.so.1").is_in(path));
        assert!(!with("libpool.so").is_in(path));
    }

    #[test]
    fn rust_names_go_by_their_last_part() {
        let function = CustomFunction::alloc("app:__rust_alloc(size=arg0)->ret").unwrap();
        assert!(function.is_called("__rust_alloc"));
        assert!(function.is_called("_RNvCsdBezzDwma51_7___rustc12___rust_alloc"));
        assert!(!function.is_called("_RNvCsdBezzDwma51_7___rustc19___rust_alloc_zeroed"));
        assert!(!function.is_called("my__rust_alloc"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            _ = CustomFunction::alloc(&text);
            _ = CustomFunction::free(&text);
        }

        #[test]
        fn whatever_fits_the_form_is_read_back(
            image in "[a-z][a-z0-9_./-]{0,20}", function in "[A-Za-z_][A-Za-z0-9_]{0,20}", size in 0u8..6, count in 0u8..6,
        ) {
            let text = format!("{image}:{function}(size=arg{size},count=arg{count})->ret");
            let read = CustomFunction::alloc(&text).unwrap();
            prop_assert_eq!(read.roles.index_of(Role::Size), Some(size));
            prop_assert_eq!(read.roles.index_of(Role::Count), Some(count));
            prop_assert_eq!((read.image, read.function), (image, function));
        }
    }
}
