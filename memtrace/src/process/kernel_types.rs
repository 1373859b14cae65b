//! The running kernel's own type information (BTF) on its allocators: which arguments their tracepoints have, which
//! differ from kernel to kernel, and where its structures hold their fields.

use btf_rs::{Btf, BtfType, Type};
use thiserror::Error;

/// The kernel's type information.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the kernel's own memory cannot be traced.
#[derive(Debug, Error)]
pub enum KernelTypesError {
    /// The type information cannot be read.
    #[error("cannot read the kernel's types from {VMLINUX}: {0}")]
    Read(#[source] btf_rs::Error),
    /// A structure or a field is not there.
    #[error("the kernel's types in {VMLINUX} have no {0}")]
    Missing(&'static str),
    /// A tracepoint is not there, or is told other things than memtrace knows of.
    #[error("the kernel's tracepoint `{name}` has the arguments ({found}), not ({expected}, …)")]
    Arguments {
        /// The tracepoint.
        name: &'static str,
        /// The kernel's arguments.
        found: String,
        /// The arguments that memtrace knows, as far as it reads them.
        expected: &'static str,
    },
}

/// The kernel's types, as far as tracing its allocators needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelTypes {
    /// Where `struct kmem_cache` holds the size that an object takes, in bytes.
    pub cache_size_offset: u32,
    /// The size of `struct page`, in bytes.
    pub page_struct_bytes: u64,
    /// Whether the tracepoints of the per-CPU allocator are there, with the arguments that memtrace knows.
    pub has_per_cpu: bool,
    /// Whether those are that tell which areas of the kernel's addresses are taken and given up.
    pub has_areas: bool,
    /// The function that allocates objects of a slab cache in bulk, of which no tracepoint tells.
    pub bulk_alloc: Option<&'static str>,
    /// The one that frees objects in bulk.
    pub bulk_free: Option<&'static str>,
    /// The one that puts an object on a list of those that are freed together after a grace period (Linux 6.18).
    pub sheaf_free: Option<&'static str>,
}

/// The tracepoints that must be there, and their first arguments since Linux 6.1 (include/trace/events/kmem.h): as many as are read.
const REQUIRED: [(&str, &str); 6] = [
    ("kmalloc", "unsigned long, pointer, size_t, size_t"),
    ("kmem_cache_alloc", "unsigned long, pointer, struct kmem_cache"),
    ("kfree", "unsigned long, pointer"),
    ("kmem_cache_free", "unsigned long, pointer"),
    ("mm_page_alloc", "struct page, unsigned int, gfp_t"),
    ("mm_page_free", "struct page, unsigned int"),
];

/// The arguments of the per-CPU allocator's tracepoints, since Linux 5.19 (include/trace/events/percpu.h).
const PER_CPU: [(&str, &str); 2] = [
    ("percpu_alloc_percpu", "unsigned long, bool, bool, size_t, size_t, pointer, int, pointer, size_t"),
    ("percpu_free_percpu", "pointer, int, pointer"),
];

/// The arguments of tracepoints about areas of the kernel's addresses, since Linux 6.2 (include/trace/events/vmalloc.h).
const AREAS: [(&str, &str); 2] = [
    ("alloc_vmap_area", "unsigned long, unsigned long, unsigned long, unsigned long, unsigned long, int"),
    ("free_vmap_area_noflush", "unsigned long"),
];

/// Names of functions by kernel, and their arguments (mm/slub.c).
const BULK_ALLOC: (&[&str], &str) =
    (&["kmem_cache_alloc_bulk_noprof", "kmem_cache_alloc_bulk"], "struct kmem_cache, gfp_t, size_t, pointer");
const BULK_FREE: (&[&str], &str) = (&["kmem_cache_free_bulk"], "struct kmem_cache, size_t, pointer");
const SHEAF_FREE: (&[&str], &str) = (&["__kfree_rcu_sheaf"], "struct kmem_cache, pointer");

impl KernelTypes {
    /// Reads them.
    ///
    /// # Errors
    /// Where the kernel does not publish its types (it needs `CONFIG_DEBUG_INFO_BTF`), or has others than memtrace knows: it
    /// is older than Linux 6.1, or much newer than this memtrace.
    pub fn read() -> Result<Self, KernelTypesError> {
        let types = Btf::from_file(VMLINUX).map_err(KernelTypesError::Read)?;
        for (name, expected) in REQUIRED {
            check(&types, name, expected)?;
        }
        Ok(Self {
            cache_size_offset: offset_of_cache_size(&types)?,
            page_struct_bytes: size_of_page_struct(&types)?,
            has_per_cpu: has_all(&types, &PER_CPU),
            has_areas: has_all(&types, &AREAS),
            bulk_alloc: function(&types, BULK_ALLOC),
            bulk_free: function(&types, BULK_FREE),
            sheaf_free: function(&types, SHEAF_FREE),
        })
    }
}

/// Whether tracepoints are there that can be done without.
fn has_all(types: &Btf, tracepoints: &[(&'static str, &'static str)]) -> bool {
    tracepoints.iter().all(|(name, expected)| {
        check(types, name, expected)
            .inspect_err(|error| log::info!("tracing the kernel's memory without: {error}"))
            .is_ok()
    })
}

/// The function of one of these names that has these arguments.
fn function(types: &Btf, (names, expected): (&[&'static str], &str)) -> Option<&'static str> {
    let is_there = |name: &&&'static str| {
        let functions = types.resolve_types_by_name(name).unwrap_or_default().into_iter();
        let mut functions = functions.filter(|named| matches!(named, Type::Func(_)));
        functions.next().and_then(|function| in_words_of_function(types, &function, 0)).as_deref() == Some(expected)
    };
    names.iter().find(is_there).copied()
}

fn check(types: &Btf, name: &'static str, expected: &'static str) -> Result<(), KernelTypesError> {
    let found = arguments(types, name).unwrap_or_else(|| "none: it is not there".to_owned());
    let begins_so = found.strip_prefix(expected).is_some_and(|rest| rest.is_empty() || rest.starts_with(", "));
    if begins_so { Ok(()) } else { Err(KernelTypesError::Arguments { name, found, expected }) }
}

/// The arguments of a tracepoint, in words. The kernel has a type `btf_trace_NAME` for each: a pointer to a function with these
/// arguments, after one of its own.
fn arguments(types: &Btf, name: &str) -> Option<String> {
    let named = types.resolve_types_by_name(&format!("btf_trace_{name}")).ok()?;
    let typedef = named.into_iter().find(|named| matches!(named, Type::Typedef(_)))?;
    in_words_of_function(types, &typedef, 1)
}

/// The arguments of the function that a type leads to, but for the first `left_out`.
fn in_words_of_function(types: &Btf, of: &Type, left_out: usize) -> Option<String> {
    let function = types.chained_type_iter(of.as_btf_type()?).find_map(|next| match next {
        Type::FuncProto(function) => Some(function),
        _ => None,
    })?;
    let wanted = function.parameters.iter().skip(left_out);
    Some(wanted.map(|parameter| in_words(types, parameter)).collect::<Vec<_>>().join(", "))
}

/// A type in words: the name of a number's type, or of the structure that a pointer leads to, qualifiers left out.
fn in_words(types: &Btf, of: &dyn BtfType) -> String {
    let mut is_pointer = false;
    for next in types.chained_type_iter(of) {
        let named = |name: &dyn BtfType| types.resolve_name(name).unwrap_or_default();
        match next {
            Type::Ptr(_) if !is_pointer => is_pointer = true,
            Type::Const(_) | Type::Volatile(_) | Type::Restrict(_) | Type::TypeTag(_) => {}
            Type::Struct(structure) if is_pointer => return format!("struct {}", named(&structure)),
            Type::Fwd(structure) if is_pointer => return format!("struct {}", named(&structure)),
            Type::Typedef(typedef) if !is_pointer => return named(&typedef),
            Type::Int(integer) if !is_pointer => return integer_name(&named(&integer)),
            _ if is_pointer => return "pointer".to_owned(),
            other => return other.name().to_owned(),
        }
    }
    // A pointer to nothing in particular ends its chain.
    if is_pointer { "pointer" } else { "void" }.to_owned()
}

/// Compilers name the same integer differently.
fn integer_name(name: &str) -> String {
    match name {
        "long unsigned int" => "unsigned long",
        "_Bool" => "bool",
        other => other,
    }
    .to_owned()
}

fn offset_of_cache_size(types: &Btf) -> Result<u32, KernelTypesError> {
    for cache in types.resolve_types_by_name("kmem_cache").map_err(KernelTypesError::Read)? {
        let Type::Struct(cache) = cache else { continue };
        let is_size = |member: &&btf_rs::Member| types.resolve_name(*member).is_ok_and(|name| name == "size");
        if let Some(size) = cache.members.iter().find(is_size) {
            return Ok(size.bit_offset() / 8);
        }
    }
    Err(KernelTypesError::Missing("struct kmem_cache with a field `size`"))
}

fn size_of_page_struct(types: &Btf) -> Result<u64, KernelTypesError> {
    let sizes = types.resolve_types_by_name("page").map_err(KernelTypesError::Read)?.into_iter();
    let mut sizes =
        sizes.filter_map(|page| if let Type::Struct(page) = page { Some(page.size() as u64) } else { None });
    sizes.find(|size| *size > 0).ok_or(KernelTypesError::Missing("struct page"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_one_that_memtrace_knows() {
        let types = KernelTypes::read().unwrap();
        assert!(types.cache_size_offset > 0 && types.cache_size_offset.is_multiple_of(4), "{types:?}");
        assert!(types.page_struct_bytes >= 56 && types.page_struct_bytes.is_multiple_of(8), "{types:?}");
    }

    #[test]
    fn a_tracepoint_with_other_arguments_is_told_apart() {
        let types = Btf::from_file(VMLINUX).unwrap();
        let error = check(&types, "kfree", "pointer, unsigned long").unwrap_err().to_string();
        assert!(error.contains("`kfree` has the arguments (unsigned long, pointer)"), "{error}");
        assert!(check(&types, "no_such_event", "int").unwrap_err().to_string().contains("it is not there"));
    }
}
