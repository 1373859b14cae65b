//! Functions and thresholds that are named on the command line. Its user is trusted, but scripts fill in what others have named.

use memtrace::{capture::allocators::custom::CustomFunction, monitor::threshold::Threshold};

use crate::Target;

/// The text of one argument.
pub const TARGET: Target = Target { name: "arguments", run, seeds };

fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for function in [CustomFunction::alloc(&text), CustomFunction::free(&text)].into_iter().flatten() {
        assert!(!function.function.is_empty() && !function.image.is_empty(), "{function:?}");
        _ = function.is_in(function.image.as_ref());
        assert!(function.is_called(&function.function), "{function:?}");
        _ = function.is_called(&text);
    }
    if let Ok(threshold) = Threshold::parse(&text) {
        _ = threshold.to_string();
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "libfoo.so:pool_alloc(size=arg1,count=arg2)->ret",
        "/usr/lib/libfoo.so:pool_get(size=arg0, out=arg5)",
        "libfoo.so:pool_free(ptr=arg0)",
        "_RNvCs1234_7mycrate4grow",
        "512MiB",
        "80%",
        "slope:1MiB/min",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
