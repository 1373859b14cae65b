//! Names as their source has them, from those that linkers see.
//!
//! Only mangled names are demangled: to a demangler of C++, the C function `f` is the type `float`.

/// The name in its source's form, or as it is where it is not mangled.
pub(super) fn demangled(name: &str) -> String {
    rust(name).or_else(|| cpp(name)).unwrap_or_else(|| name.to_owned())
}

/// Rust's two schemes: `_R` (RFC 2603), and C++'s with a hash at the end. Without the hash.
fn rust(name: &str) -> Option<String> {
    let is_mangled = name.starts_with("_R") || name.starts_with("_ZN");
    let demangled = is_mangled.then(|| rustc_demangle::try_demangle(name).ok())??;
    Some(format!("{demangled:#}"))
}

/// The Itanium C++ ABI's scheme, and the names of a file's initialisers.
fn cpp(name: &str) -> Option<String> {
    let is_mangled = name.starts_with("_Z") || name.starts_with("_GLOBAL_");
    is_mangled.then(|| cpp_demangle::Symbol::new(name).ok()?.demangle().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mangled_names_are_demangled() {
        for (mangled, name) in [
            ("_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back(int const&)"),
            ("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_Z1fv.cold", "f() [clone .cold]"),
        ] {
            assert_eq!(demangled(mangled), name);
        }
    }

    #[test]
    fn names_of_c_stay() {
        // Each is a type, an operator or a piece of Rust's scheme to a demangler.
        for name in ["f", "i", "v", "x", "Pc", "St", "ZN3fooE", "RNvC7mycrate3foo", "_Z", "_start", "main", ""] {
            assert_eq!(demangled(name), name);
        }
    }
}
