//! Memory that was asked about and that nobody could see.

use super::units;
use crate::model::not_seen::{KernelGap, NotSeen};

/// Memory that was asked about and that nobody could see.
#[must_use]
pub fn not_seen(not_seen: &NotSeen) -> String {
    match not_seen {
        NotSeen::NeverMapped { function, image } => {
            format!("`{function}` of {image}: no program has mapped that image")
        }
        NotSeen::BetweenWindows { programs: 1 } => "1 program that began and ended between windows".to_owned(),
        NotSeen::BetweenWindows { programs } => format!("{programs} programs that began and ended between windows"),
        NotSeen::Segments => {
            "System V segments (shmat), and the first growth of each data segment (brk): the kernel publishes no types \
             (CONFIG_DEBUG_INFO_BTF)"
                .to_owned()
        }
        NotSeen::Children { processes, rss_bytes } => {
            let (count, rss) = (units::count(*processes), units::bytes(*rss_bytes));
            match processes {
                1 => format!("a process that a target has started ({rss} resident): --follow traces it as well"),
                _ => format!(
                    "{count} processes that targets have started ({rss} resident): --follow traces them as well"
                ),
            }
        }
        NotSeen::OfKernel(gap) => of_kernel(*gap).to_owned(),
    }
}

/// All of it in one line.
#[must_use]
pub fn all(not_seen: &[NotSeen]) -> String {
    not_seen.iter().map(self::not_seen).collect::<Vec<_>>().join("; ")
}

fn of_kernel(gap: KernelGap) -> &'static str {
    match gap {
        KernelGap::Pages => "pages and vmalloc",
        KernelGap::VmallocInBulk => "pages that vmalloc takes in bulk",
        KernelGap::PerCpu => "per-CPU memory",
        KernelGap::AllocatedInBulk => "objects that are allocated in bulk",
        KernelGap::FreedInBulk => {
            "frees in bulk and after a grace period: such objects look live until their addresses are handed out again"
        }
        KernelGap::Always => {
            "pages that are allocated in bulk for others (page pools of network drivers) or moved by compaction"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blind_spot_has_its_words() {
        let never = NotSeen::NeverMapped { function: "f".into(), image: "x.so".into() };
        assert_eq!(
            all(&[never, NotSeen::OfKernel(KernelGap::Pages), NotSeen::OfKernel(KernelGap::PerCpu)]),
            "`f` of x.so: no program has mapped that image; pages and vmalloc; per-CPU memory"
        );
        let between = |programs| not_seen(&NotSeen::BetweenWindows { programs });
        assert_eq!(between(1), "1 program that began and ended between windows");
        assert_eq!(between(20), "20 programs that began and ended between windows");
        assert!(not_seen(&NotSeen::Segments).starts_with("System V segments (shmat), and the first growth of each "));
        let children = |processes| not_seen(&NotSeen::Children { processes, rss_bytes: 3 << 20 });
        assert_eq!(children(1), "a process that a target has started (3.00 MiB resident): --follow traces it as well");
        assert_eq!(
            children(1200),
            "1,200 processes that targets have started (3.00 MiB resident): --follow traces them as well"
        );
        let of_kernel = |gap| not_seen(&NotSeen::OfKernel(gap));
        assert_eq!(of_kernel(KernelGap::VmallocInBulk), "pages that vmalloc takes in bulk");
        assert_eq!(of_kernel(KernelGap::AllocatedInBulk), "objects that are allocated in bulk");
        assert_eq!(
            of_kernel(KernelGap::FreedInBulk),
            "frees in bulk and after a grace period: such objects look live until their addresses are handed out again"
        );
        assert_eq!(
            of_kernel(KernelGap::Always),
            "pages that are allocated in bulk for others (page pools of network drivers) or moved by compaction"
        );
    }
}
