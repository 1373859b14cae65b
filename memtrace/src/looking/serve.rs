//! The side of the process that looks.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    time::Instant,
};

use super::{
    confine::confine,
    holders::{Wanted, system},
    message::{Answer, MAX_QUESTION_BYTES, Question},
};
use crate::{
    model::{
        heap::Heap,
        heap_report::NotRead,
        heap_types::{NotTold, Types},
    },
    process::{
        confinement,
        heap::{self, Bounds, LookError, budget::Exhausted},
        maps::MapsError,
    },
};

/// Reads the question from stdin, confines itself, looks, and answers there.
#[must_use]
pub fn serve() -> ExitCode {
    let Ok(socket) = confinement::begin() else { return ExitCode::FAILURE };
    let Some(question) = question(&socket) else { return ExitCode::FAILURE };
    let answer = match confine(question.memory_bytes) {
        Ok(()) => answer(&question),
        Err(error) => failed(format!("the process that looks cannot confine itself: {error}")),
    };
    let sent = serde_json::to_vec(&answer).map_err(io::Error::from).and_then(|text| (&socket).write_all(&text));
    if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn question(socket: &UnixStream) -> Option<Question> {
    let mut text = Vec::new();
    socket.take(MAX_QUESTION_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn answer(question: &Question) -> Answer {
    let looked = panic::catch_unwind(AssertUnwindSafe(|| look(question)));
    match looked {
        Ok(Ok(heap)) => Answer::Read(Box::new(heap)),
        Ok(Err(why)) => Answer::NotRead(why),
        Err(_) => failed("reading it fails on an assertion".into()),
    }
}

fn failed(error: String) -> Answer {
    Answer::NotRead(NotRead::Failed { error })
}

fn look(question: &Question) -> Result<Heap, NotRead> {
    let begun = Instant::now();
    let bounds = Bounds { bytes: question.bytes, time: question.time, ..Bounds::default() };
    let mut look = heap::look_closely(question.pid, bounds).map_err(|error| not_read(&error, question))?;
    if question.asked.types {
        let time = question.time.saturating_sub(begun.elapsed());
        let tell = AssertUnwindSafe(|| look.tell_types(question.pid, Bounds { time, ..bounds }));
        if panic::catch_unwind(tell).is_err() {
            look.heap.types = Types::not_told(NotTold::Failed);
        }
    } else {
        look.heap.types = Types::not_told(NotTold::NotAsked);
    }
    let mut heap = std::mem::take(&mut look.heap);
    if question.asked.holders || question.asked.retained {
        let wanted = Wanted { retained: question.asked.retained, memory_bytes: question.memory_bytes };
        let bounds = Bounds { time: question.time.saturating_sub(begun.elapsed()), ..bounds };
        let (holders, without) = system::of(question.pid, look, &question.asked.threads, wanted, bounds);
        heap.consistency.threads_without_registers = without;
        heap.no_holders = holders.as_ref().err().copied();
        heap.holders = holders.ok();
    }
    Ok(heap)
}

/// The reason, as reports have it.
fn not_read(error: &LookError, question: &Question) -> NotRead {
    let text = error.to_string();
    match error {
        LookError::Gone(_) => NotRead::Gone,
        LookError::Exhausted { source: Exhausted::Time(_), .. } => NotRead::Late { limit: question.limit },
        LookError::Exhausted { .. } => NotRead::TooMuch { error: text },
        LookError::Memory { source, .. } if is_refusal(source) => NotRead::Refused { error: source.to_string() },
        LookError::Mappings(MapsError::Read { source, .. }) if is_refusal(source) => {
            NotRead::Refused { error: source.to_string() }
        }
        LookError::Memory { .. } | LookError::Mappings(_) => NotRead::Failed { error: text },
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}
