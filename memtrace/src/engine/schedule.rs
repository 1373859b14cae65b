//! The schedule of a run, whatever memory it is of: when it is read, when it reports, and when it is over.

use std::time::Duration;

use tokio::{sync::mpsc::UnboundedReceiver, time::Instant as Deadline};

use super::{
    commands::Command,
    error::PipelineError,
    options::Options,
    wait::{self, Signals, Stop},
};

/// How often the kernel side is read, for histories and for stacks whose process may end. Longer where
/// reading takes more than a hundredth of it.
const TICK: Duration = Duration::from_secs(1);

/// When work that has taken so much CPU time is due again.
pub(super) fn due_again(cost: Duration) -> Deadline {
    Deadline::now() + TICK.max(cost * 100)
}

/// The times of a run that its user has chosen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// When to stop; without, when there is nothing left to follow.
    duration: Option<Duration>,
    /// How often to report; without, at the end alone.
    interval: Option<Duration>,
}

impl From<&Options> for Times {
    fn from(options: &Options) -> Self {
        Self { duration: options.duration, interval: options.interval }
    }
}

/// A run, as its schedule knows it.
pub(super) trait Run {
    /// Something that happens while the run waits.
    type Event;

    /// Whether there is nothing left to follow.
    fn is_over(&self) -> bool;

    /// Does what cannot wait any longer.
    ///
    /// # Errors
    /// Where the run cannot go on.
    fn prepare(&mut self) -> Result<(), PipelineError> {
        Ok(())
    }

    /// Waits until something happens. Nothing is lost where nobody waits until then.
    async fn next(&mut self) -> Result<Self::Event, PipelineError>;

    /// Something has happened.
    ///
    /// # Errors
    /// Where the run cannot go on.
    fn handle(&mut self, event: Self::Event) -> Result<(), PipelineError>;

    /// Whether the run goes on although it was asked to stop, because somebody else was told to end.
    fn passes_on(&mut self, _stop: Stop) -> bool {
        false
    }

    /// The work of each second. Returns the CPU time of what is done each time.
    ///
    /// # Errors
    /// Where the run cannot go on.
    fn tick(&mut self) -> Result<Duration, PipelineError>;

    /// When work is due that has times of its own.
    fn next_work(&self) -> Option<Deadline> {
        None
    }

    /// Does that work.
    ///
    /// # Errors
    /// Where the run cannot go on.
    fn work(&mut self) -> Result<(), PipelineError> {
        Ok(())
    }

    /// Reads everything and puts in the mailbox what was measured by now.
    ///
    /// # Errors
    /// Where the run cannot go on.
    fn report(&mut self) -> Result<(), PipelineError>;

    /// Stops counting, reads everything once more and puts the last snapshot in the mailbox.
    ///
    /// # Errors
    /// Where that cannot be.
    async fn finish(&mut self, signals: &mut Signals) -> Result<(), PipelineError>;
}

/// Follows a run until it is over, time is up, or a signal or a command asks to stop; then finishes it.
///
/// # Errors
/// Where the run cannot go on, or cannot be finished.
pub(super) async fn follow(
    run: &mut impl Run,
    times: Times,
    signals: &mut Signals,
    commands: &mut UnboundedReceiver<Command>,
) -> Result<(), PipelineError> {
    let next_interval = || times.interval.map(|interval| Deadline::now() + interval);
    let deadline = times.duration.map(|duration| Deadline::now() + duration);
    let (mut next_tick, mut next_report) = (due_again(Duration::ZERO), next_interval());
    while !run.is_over() {
        run.prepare()?;
        let next_work = run.next_work();
        tokio::select! {
            biased;
            () = wait::until(deadline) => break,
            stop = signals.next() => {
                if !run.passes_on(stop) {
                    break;
                }
            }
            // Nobody wants to know any more.
            Some(Command::Stop) | None = commands.recv() => break,
            event = run.next() => run.handle(event?)?,
            () = tokio::time::sleep_until(next_tick) => next_tick = due_again(run.tick()?),
            () = wait::until(next_work) => run.work()?,
            () = wait::until(next_report) => {
                run.report()?;
                next_report = next_interval();
            }
        }
    }
    run.finish(signals).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    /// A run that notes what it is asked to do, and is over after so many seconds.
    #[derive(Default)]
    struct Noting {
        done: Vec<&'static str>,
        ticks_left: usize,
        work_at: Option<Deadline>,
    }

    impl Run for Noting {
        type Event = std::convert::Infallible;

        fn is_over(&self) -> bool {
            self.ticks_left == 0
        }

        async fn next(&mut self) -> Result<Self::Event, PipelineError> {
            std::future::pending().await
        }

        fn handle(&mut self, event: Self::Event) -> Result<(), PipelineError> {
            match event {}
        }

        fn tick(&mut self) -> Result<Duration, PipelineError> {
            self.done.push("tick");
            self.ticks_left -= 1;
            Ok(Duration::ZERO)
        }

        fn next_work(&self) -> Option<Deadline> {
            self.work_at
        }

        fn work(&mut self) -> Result<(), PipelineError> {
            self.done.push("work");
            self.work_at = None;
            Ok(())
        }

        fn report(&mut self) -> Result<(), PipelineError> {
            self.done.push("report");
            Ok(())
        }

        async fn finish(&mut self, _signals: &mut Signals) -> Result<(), PipelineError> {
            self.done.push("finish");
            Ok(())
        }
    }

    fn followed(mut run: Noting, times: Times, command: Option<Command>) -> Vec<&'static str> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sender, mut commands) = unbounded_channel();
            command.into_iter().for_each(|command| sender.send(command).unwrap());
            let mut signals = Signals::new().unwrap();
            follow(&mut run, times, &mut signals, &mut commands).await.unwrap();
        });
        run.done
    }

    #[test]
    fn a_run_is_finished_however_it_ends() {
        let endless = || Noting { ticks_left: usize::MAX, ..Noting::default() };
        assert_eq!(followed(Noting::default(), Times::default(), None), ["finish"]);
        let at_once = Times { duration: Some(Duration::ZERO), interval: None };
        assert_eq!(followed(endless(), at_once, None), ["finish"]);
        assert_eq!(followed(endless(), Times::default(), Some(Command::Stop)), ["finish"]);
    }

    #[test]
    fn work_with_times_of_its_own_waits_for_no_tick() {
        let run = Noting { ticks_left: 1, work_at: Some(Deadline::now()), ..Noting::default() };
        assert_eq!(followed(run, Times::default(), None), ["work", "tick", "finish"]);
        let run = Noting { ticks_left: 1, ..Noting::default() };
        let often = Times { duration: None, interval: Some(Duration::from_millis(300)) };
        let done = followed(run, often, None);
        assert_eq!((done[0], &done[done.len() - 2..]), ("report", &["tick", "finish"][..]), "{done:?}");
    }
}
