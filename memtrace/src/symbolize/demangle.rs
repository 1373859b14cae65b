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

/// How the table of a class's virtual functions is called, before the class's mangled name.
pub(super) const VIRTUAL_TABLE: &str = "_ZTV";
/// The demangler's words before the name of a class that has a description.
const DESCRIPTION: &str = "typeinfo for ";

/// The name of a C++ class in its source's form, from that in its description (`type_info`); nothing where it is none.
pub(super) fn class(name: &str) -> Option<String> {
    // A star stands before the names of classes that other images cannot see.
    let symbol = format!("_ZTI{}", name.strip_prefix('*').unwrap_or(name));
    cpp(&symbol)?.strip_prefix(DESCRIPTION).map(str::to_owned)
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
    fn classes_are_named_by_their_descriptions() {
        let classes = [
            ("3Dog", "Dog"),
            ("N3zoo3DogE", "zoo::Dog"),
            ("*N12_GLOBAL__N_13CatE", "(anonymous namespace)::Cat"),
            ("St9exception", "std::exception"),
            ("5QueueIiE", "Queue<int>"),
            ("Z4mainE5Local", "main::Local"),
        ];
        for (mangled, name) in classes {
            assert_eq!(class(mangled).as_deref(), Some(name));
        }
        assert_eq!((class("Dog bites"), class("9Dog"), class("")), (None, None, None));
    }

    #[test]
    fn names_of_c_stay() {
        // Each is a type, an operator or a piece of Rust's scheme to a demangler.
        for name in ["f", "i", "v", "x", "Pc", "St", "ZN3fooE", "RNvC7mycrate3foo", "_Z", "_start", "main", ""] {
            assert_eq!(demangled(name), name);
        }
    }
}
