//! Types of live blocks, as their content tells them: C++ classes, tables of functions, patterns of containers, text.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The types of a heap's blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Types {
    /// The types, those with most bytes first. No block is of two of them.
    pub rows: Vec<TypeFigures>,
    /// Types with fewer bytes that are not among them.
    pub left_out: u64,
    /// Words that may have told a type, and were passed over, as there were more than a look follows.
    pub passed_over: u64,
    /// Why the types were not told; nothing where they were.
    pub not_told: Option<NotTold>,
}

impl Types {
    /// Types that were not told.
    #[must_use]
    pub fn not_told(why: NotTold) -> Self {
        Self { not_told: Some(why), ..Self::default() }
    }

    /// Blocks of all types that are listed.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.rows.iter().fold(0, |sum, row| sum.saturating_add(row.objects))
    }

    /// Their usable bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rows.iter().fold(0, |sum, row| sum.saturating_add(row.bytes))
    }

    /// Puts the types with most bytes first, and adds up those of one name.
    pub fn order(&mut self) {
        self.rows.sort_by(|one, other| one.name.cmp(&other.name));
        self.rows.dedup_by(|row, kept| {
            let is_same = row.name.is_same(&kept.name);
            if is_same {
                kept.objects = kept.objects.saturating_add(row.objects);
                kept.bytes = kept.bytes.saturating_add(row.bytes);
                kept.inside_objects = kept.inside_objects.saturating_add(row.inside_objects);
            }
            is_same
        });
        // Stable: of equals, the order of names stays.
        self.rows.sort_by_key(|row| std::cmp::Reverse((row.bytes, row.inside_objects)));
    }
}

/// Why types were not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotTold {
    /// Nobody has asked for them.
    NotAsked,
    /// It would take longer than this.
    Time(Duration),
    /// There is more memory to read than a look may.
    Bytes,
    /// There are more blocks than a look can keep a type of.
    Blocks,
    /// There is no memory for it.
    Memory,
    /// The process has ended meanwhile.
    Gone,
    /// Reading them failed on an assertion.
    Failed,
}

/// The figures of a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeFigures {
    /// The type.
    pub name: TypeName,
    /// Live blocks that are of it.
    pub objects: u64,
    /// Usable bytes of these blocks.
    pub bytes: u64,
    /// Objects of it that lie inside other blocks: in pools, nodes, buffers or other objects. Their bytes are those blocks'.
    pub inside_objects: u64,
}

/// The kind of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TypeKind {
    /// A C++ class.
    Cxx,
    /// A structure that begins with the address of a table of functions.
    Table,
    /// A pattern that blocks and what points to them have.
    Pattern,
    /// Text.
    Text,
}

/// The name of a type, as data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TypeName {
    /// A C++ class: as linkers see it (the name in its `type_info`) until it is named, then as its source has it.
    Class(String),
    /// A block that has an object of a class, but not at its beginning.
    Around {
        /// The class, as above.
        class: String,
        /// Where the object lies in the block, in bytes.
        offset: u8,
        /// The pattern of the block.
        pattern: Option<Pattern>,
    },
    /// A structure that begins with the address of a table of functions.
    Table(Table),
    /// A pattern.
    Pattern(Pattern),
    /// Text.
    Text,
}

impl TypeName {
    /// The kind of the type.
    #[must_use]
    pub fn kind(&self) -> TypeKind {
        match self {
            Self::Class(_) => TypeKind::Cxx,
            Self::Table(_) => TypeKind::Table,
            Self::Around { .. } | Self::Pattern(_) => TypeKind::Pattern,
            Self::Text => TypeKind::Text,
        }
    }

    /// The name of a class in it.
    #[must_use]
    pub fn class(&self) -> Option<&str> {
        match self {
            Self::Class(class) | Self::Around { class, .. } => Some(class),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub fn class_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Class(class) | Self::Around { class, .. } => Some(class),
            _ => None,
        }
    }

    /// Whether two are shown as one: two processes may have a table elsewhere.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Table(one), Self::Table(other)) => {
                (&one.image, one.offset, &one.symbol) == (&other.image, other.offset, &other.symbol)
            }
            _ => self == other,
        }
    }
}

/// A table of functions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Table {
    /// The path of its image, as the process has it.
    pub image: String,
    /// Where it lies: an offset in the image's file until it is named, then a virtual offset.
    pub offset: u64,
    /// Its symbol, where there is one.
    pub symbol: Option<String>,
    /// Its address in the process.
    pub address: u64,
    /// Whether it is one without a symbol, too: at least two functions stand in it.
    pub is_sure: bool,
}

/// A pattern of blocks, and of what points to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Somebody has its address, then a length, and a capacity of just so many bytes, as `std::string` has.
    StringBuffer,
    /// Somebody has its address, then the end of what is used, and the end of the block, as `std::vector` has.
    VectorBuffer,
    /// It begins with the addresses of the next and of the one before, and these agree, as in `std::list`.
    ListNode,
    /// It begins with a colour, its parent and two children, and these agree, as in `std::map` and `std::set`.
    TreeNode,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: TypeName, objects: u64, bytes: u64) -> TypeFigures {
        TypeFigures { name, objects, bytes, inside_objects: 1 }
    }

    #[test]
    fn types_of_one_name_are_one_and_the_largest_comes_first() {
        let class = |name: &str| TypeName::Class(name.into());
        let table = |address| {
            TypeName::Table(Table { image: "/lib/a.so".into(), offset: 64, symbol: None, address, is_sure: true })
        };
        let rows = vec![
            row(class("Dog"), 1, 24),
            row(table(4096), 1, 100),
            row(class("Cat"), 2, 48),
            row(class("Dog"), 3, 72),
            row(table(8192), 1, 100),
        ];
        let mut types = Types { rows, ..Types::default() };
        types.order();
        let told: Vec<_> = types.rows.iter().map(|row| (row.objects, row.bytes, row.inside_objects)).collect();
        assert_eq!(told, [(2, 200, 2), (4, 96, 2), (2, 48, 1)]);
        assert_eq!((types.objects(), types.bytes()), (8, 344));
    }
}
