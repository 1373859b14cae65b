//! Answers of a process that a hostile image has taken over: taken if they answer the question, else refused.

use std::{io::Write, net::Shutdown, os::unix::net::UnixStream};

use memtrace::symbolize::reader::protocol::{Answer, Named, checked, receive};

use crate::{Target, input::Input};

/// A message, as it comes through the socket.
pub const TARGET: Target = Target { name: "answers", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let count = usize::from(input.byte());
    let (Ok((mut theirs, ours)), message) = (UnixStream::pair(), input.rest()) else { return };
    // Fits into the socket's buffer, whose least default is twice as large.
    _ = theirs.write_all(message);
    _ = theirs.shutdown(Shutdown::Write);
    if let Ok(Some((answer, _))) = receive::<Answer>(&ours, None)
        && let Some(Ok((places, _))) = checked(answer, count)
    {
        assert_eq!(places.len(), count, "an answer to another question is taken");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let named = Named {
        name: "operator new(unsigned long)".into(),
        file: Some("/src/new.cc".into()),
        line: Some(50),
        begins_at: None,
    };
    let answers = [
        (2, Answer::Functions { places: vec![vec![named.clone(), named], Vec::new()], problems: Vec::new() }),
        (0, Answer::Confined),
        (0, Answer::Closed(vec![0])),
        (1, Answer::Failed("it is no ELF file".into())),
    ];
    let message = |(count, answer): &(u8, Answer)| {
        let body = serde_json::to_vec(answer).unwrap_or_default();
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        [&[*count][..], &length.to_le_bytes(), &body].concat()
    };
    answers.iter().map(message).collect()
}
