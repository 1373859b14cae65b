//! The words on who holds live blocks.

use super::units;
use crate::model::{
    frame::base_name,
    holders::{BlockLabel, HolderLabel, HolderNode, HolderRoot, Holders, NoHolders, ThreadName},
};

/// The label of a node, as scripts get it.
#[must_use]
pub fn label(label: &HolderLabel) -> String {
    match label {
        HolderLabel::Root(root) => root_name(root),
        HolderLabel::Block(BlockLabel::Size(bytes)) => format!("{bytes} B"),
        HolderLabel::Block(BlockLabel::UpTo(bytes)) => format!("up to {}", units::bytes(*bytes)),
    }
}

fn root_name(root: &HolderRoot) -> String {
    match root {
        HolderRoot::Data { image, offset, symbol } => match (symbol, offset) {
            (Some(symbol), _) => symbol.clone(),
            (None, Some(offset)) => format!("{}+{offset:#x}", base_name(image)),
            (None, None) => format!("other data of {}", base_name(image)),
        },
        HolderRoot::ThreadLocal { thread: of, image, offset, symbol } => {
            let variable = symbol.clone().unwrap_or_else(|| format!("{}+{offset:#x}", base_name(image)));
            format!("{variable} of {}", thread(of))
        }
        HolderRoot::Thread(of) => thread(of),
        HolderRoot::Mapping(name) if name.is_empty() => "anonymous memory".to_owned(),
        HolderRoot::Mapping(name) => name.clone(),
        HolderRoot::Epoll { descriptor } => format!("epoll descriptor {descriptor}"),
    }
}

fn thread(thread: &ThreadName) -> String {
    if thread.name.is_empty() {
        format!("thread {}", thread.tid)
    } else {
        format!("thread {} ({})", thread.name, thread.tid)
    }
}

/// A node in a line of a tree, so many levels below its root.
#[must_use]
pub fn line(node: &HolderNode, depth: usize) -> String {
    let indent = "│  ".repeat(depth.saturating_sub(1));
    match &node.label {
        HolderLabel::Root(root @ HolderRoot::Data { image, symbol: Some(_), .. }) => {
            format!("{} in {}", root_name(root), base_name(image))
        }
        HolderLabel::Root(root) => root_name(root),
        HolderLabel::Block(size) => {
            let blocks = match (node.own.objects, size) {
                (1, BlockLabel::UpTo(_)) => units::bytes(node.own.bytes),
                (1, BlockLabel::Size(bytes)) => format!("{bytes} B"),
                (objects, _) => format!("{} x {}", units::count(objects), label(&node.label)),
            };
            format!("{indent}├─ {blocks}")
        }
    }
}

/// Sentences on what a tree leaves out, and on blocks that nothing holds.
#[must_use]
pub fn remarks(holders: &Holders, threads_without_registers: u32) -> Vec<String> {
    let mut remarks = Vec::new();
    let amount = |objects: u64, bytes: u64| {
        let objects = if objects == 1 { "1 block".to_owned() } else { format!("{} blocks", units::count(objects)) };
        format!("{objects} ({})", units::bytes(bytes))
    };
    let unreached = holders.unreached;
    if unreached.objects > 0 {
        let unseen = match threads_without_registers {
            0 => "a pointer may move while memory is read".to_owned(),
            1 => "the registers of 1 thread were not read".to_owned(),
            threads => format!("the registers of {} threads were not read", units::count(threads.into())),
        };
        remarks.push(format!(
            "unreached  {}: nothing was seen to point to them. That is no proof of a leak: {unseen}",
            amount(unreached.objects, unreached.bytes)
        ));
    }
    if holders.joined.objects > 0 {
        let joined = amount(holders.joined.objects, holders.joined.bytes);
        remarks.push(format!("joined     {joined} are too deep to be told apart, and count with their holders"));
    }
    if holders.swapped_bytes > 0 {
        let swapped = units::bytes(holders.swapped_bytes);
        remarks.push(format!("swapped    {swapped} that may hold pointers were not looked through, and left there"));
    }
    if holders.kernel_words_left_out > 0 {
        let words = units::count(holders.kernel_words_left_out);
        remarks.push(format!("left out   {words} descriptors or words of epoll, as there are too many"));
    }
    remarks
}

/// Why it is not told who holds blocks.
#[must_use]
pub fn not_told(why: NoHolders) -> String {
    match why {
        NoHolders::TooManyBlocks { most } => {
            format!("there are more than {} blocks, for which there is not enough memory", units::count(most))
        }
        NoHolders::TooManyPointers => "the blocks have too many pointers to one another".to_owned(),
        NoHolders::TooMuch => "looking through its memory takes longer than the look may (--timeout)".to_owned(),
        NoHolders::Gone => "the process has ended meanwhile".to_owned(),
        NoHolders::Refused => "its memory could not be read a second time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::survival::Amount;

    fn data(offset: Option<u64>, symbol: Option<&str>) -> HolderRoot {
        HolderRoot::Data { image: "/opt/app".into(), offset, symbol: symbol.map(str::to_owned) }
    }

    #[test]
    fn every_root_has_a_name() {
        let worker = ThreadName { tid: 12, name: "worker".into() };
        let local = |symbol: Option<&str>| HolderRoot::ThreadLocal {
            thread: worker.clone(),
            image: "/opt/app".into(),
            offset: 16,
            symbol: symbol.map(str::to_owned),
        };
        let roots = [
            (data(Some(0x5120), Some("g_sessions")), "g_sessions", "g_sessions in app"),
            (data(Some(0x5120), None), "app+0x5120", "app+0x5120"),
            (data(None, None), "other data of app", "other data of app"),
            (local(Some("t_cache")), "t_cache of thread worker (12)", "t_cache of thread worker (12)"),
            (local(None), "app+0x10 of thread worker (12)", "app+0x10 of thread worker (12)"),
            (HolderRoot::Thread(worker.clone()), "thread worker (12)", "thread worker (12)"),
            (HolderRoot::Thread(ThreadName { tid: 12, name: String::new() }), "thread 12", "thread 12"),
            (HolderRoot::Mapping(String::new()), "anonymous memory", "anonymous memory"),
            (HolderRoot::Mapping("[heap]".into()), "[heap]", "[heap]"),
            (HolderRoot::Epoll { descriptor: 4 }, "epoll descriptor 4", "epoll descriptor 4"),
        ];
        for (root, named, told) in roots {
            let node = node(HolderLabel::Root(root), 0, 0);
            assert_eq!((label(&node.label).as_str(), line(&node, 0).as_str()), (named, told));
        }
    }

    fn node(label: HolderLabel, objects: u64, bytes: u64) -> HolderNode {
        let (own, below) = (Amount { bytes, objects }, Amount::default());
        HolderNode { parent: None, label, own, below, retained_bytes: 0 }
    }

    #[test]
    fn blocks_are_told_by_number_and_size() {
        let block = |size, objects, bytes| node(HolderLabel::Block(BlockLabel::of(size)), objects, bytes);
        assert_eq!(line(&block(24, 1, 24), 1), "├─ 24 B");
        assert_eq!(line(&block(1 << 20, 1, 1 << 20), 2), "│  ├─ 1.00 MiB");
        assert_eq!(line(&block(104, 5_000_000, 520_000_000), 3), "│  │  ├─ 5,000,000 x 104 B");
        assert_eq!(line(&block(3000, 2, 6000), 1), "├─ 2 x up to 4.00 KiB");
    }

    #[test]
    fn what_is_left_out_is_said() {
        assert!(remarks(&Holders::default(), 3).is_empty());
        let amount = |objects| Amount { bytes: 1024, objects };
        let holders = Holders {
            unreached: amount(2),
            joined: amount(1),
            swapped_bytes: 4096,
            kernel_words_left_out: 5,
            ..Holders::default()
        };
        let no_proof =
            "unreached  2 blocks (1.00 KiB): nothing was seen to point to them. That is no proof of a leak: ";
        for (threads, why) in [
            (0, "a pointer may move while memory is read"),
            (1, "the registers of 1 thread were not read"),
            (12, "the registers of 12 threads were not read"),
        ] {
            let told = remarks(&holders, threads);
            assert_eq!(told[0], format!("{no_proof}{why}"));
            assert_eq!(told.len(), 4);
        }
    }

    #[test]
    fn every_reason_has_its_words() {
        let reasons = [
            NoHolders::TooManyBlocks { most: 1000 },
            NoHolders::TooManyPointers,
            NoHolders::TooMuch,
            NoHolders::Gone,
            NoHolders::Refused,
        ];
        let told: std::collections::HashSet<String> = reasons.into_iter().map(not_told).collect();
        assert_eq!(told.len(), reasons.len());
        assert!(told.iter().all(|told| !told.is_empty()));
    }
}
