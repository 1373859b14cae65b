//! Which followed processes a run waits for once its command has ended: those of the command's session. A process that has left
//! it is a daemon, which may go on for ever.

use std::num::NonZeroU32;

use nix::unistd::{Pid, getsid};

use crate::{capture::target::Target, model::unchecked::Unchecked};

/// The command of a run, and whom it is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommandSession {
    command: NonZeroU32,
    /// The session in which it was started: ours.
    session: Option<Pid>,
    /// Whether those that have left its session are waited for as well; nothing where its children are not followed.
    waits_for_daemons: Option<bool>,
}

impl CommandSession {
    /// Of the child `command` of ours.
    pub(super) fn of(command: u32, follow: bool, waits_for_daemons: bool) -> Self {
        let command = NonZeroU32::new(command).unwrap_or(NonZeroU32::MIN);
        Self { command, session: getsid(None).ok(), waits_for_daemons: follow.then_some(waits_for_daemons) }
    }

    /// The command's process.
    pub(super) fn pid(&self) -> NonZeroU32 {
        self.command
    }

    /// Whether the run is over, where these processes go on.
    pub(super) fn is_over(&self, mut going_on: impl Iterator<Item = NonZeroU32>) -> bool {
        !going_on.any(|process| self.waits_for(process))
    }

    fn waits_for(&self, process: NonZeroU32) -> bool {
        process == self.command
            || self.waits_for_daemons.is_some_and(|waits_for_daemons| waits_for_daemons || !self.is_daemon(process))
    }

    /// Whether a process has left the session: neither ours nor one that the command has begun for itself is its own.
    fn is_daemon(&self, process: NonZeroU32) -> bool {
        // Of one that has ended meanwhile nobody can tell, and nobody need wait.
        getsid(Some(pid(process))).is_ok_and(|session| session != pid(self.command) && Some(session) != self.session)
    }

    /// Why the run ends before this target does.
    pub(super) fn why_left(&self, target: &Target) -> Unchecked {
        let is_daemon = target.pid != self.command && self.is_daemon(target.pid);
        if is_daemon { Unchecked::Daemon } else { Unchecked::Stopped }
    }

    /// Says which daemons go on, and are not traced any further; without a gate, which says so itself, with the next step.
    pub(super) fn tell_daemons<'a>(&self, going_on: impl Iterator<Item = &'a Target>, is_gated: bool) {
        /// More than these are told as a sum.
        const TOLD: usize = 10;
        let daemons: Vec<&Target> =
            going_on.filter(|target| target.pid != self.command && self.is_daemon(target.pid)).collect();
        for target in daemons.iter().take(TOLD) {
            eprintln!("memtrace: {} (pid {}) goes on as a daemon, and is traced no further", target.comm, target.pid);
        }
        if daemons.len() > TOLD {
            eprintln!("memtrace: … and {} more", daemons.len() - TOLD);
        }
        if !daemons.is_empty() && !is_gated && self.waits_for_daemons == Some(false) {
            eprintln!("hint: --follow=daemons waits for daemons as well");
        }
    }
}

fn pid(process: NonZeroU32) -> Pid {
    Pid::from_raw(process.get().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_left_the_session_is_a_daemon() {
        let mut sleeper = std::process::Command::new("/usr/bin/setsid").args(["/bin/sleep", "100"]).spawn().unwrap();
        let daemon = NonZeroU32::new(sleeper.id()).unwrap();
        let own = NonZeroU32::new(std::process::id()).unwrap();
        let begun = std::time::Instant::now();
        let session = CommandSession::of(1, true, false);
        while !session.is_daemon(daemon) {
            assert!(begun.elapsed().as_secs() < 60);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(session.is_over([daemon].into_iter()) && !session.is_over([daemon, own].into_iter()));
        assert!(!CommandSession::of(1, true, true).is_over([daemon].into_iter()));
        // A command that begins a session for itself is no daemon; where children are not followed, nobody else counts.
        assert!(!CommandSession::of(daemon.get(), true, false).is_over([daemon].into_iter()));
        assert!(CommandSession::of(daemon.get(), false, false).is_over([own].into_iter()));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
