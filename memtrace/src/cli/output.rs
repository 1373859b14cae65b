//! Where reports go: stdout, a terminal that shows them live, or a file that is whole or not there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, IsTerminal, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crossterm::{
    cursor, queue,
    terminal::{self, Clear, ClearType},
};

use super::{
    args::{Format, ReportArguments},
    failure::Failure,
};
use crate::{
    model::report::Report,
    report::{folded, json, junit, table},
};

/// Where reports go.
pub(super) struct Output<'a> {
    arguments: &'a ReportArguments,
    place: Place,
}

enum Place {
    Stdout,
    /// A table that is drawn over the one before, on a screen of its own until the last.
    Screen {
        entered: bool,
    },
    File(ReportFile),
}

impl<'a> Output<'a> {
    /// Opens the place that the arguments name.
    pub(super) fn open(arguments: &'a ReportArguments) -> Result<Self, Failure> {
        match &arguments.output {
            None if arguments.format == Format::Table && io::stdout().is_terminal() => {
                Ok(Self { arguments, place: Place::Screen { entered: false } })
            }
            None => Ok(Self { arguments, place: Place::Stdout }),
            Some(path) => Self::open_plain(arguments).map_err(|error| Failure::output(path, &error)),
        }
    }

    /// The same for reports that come one by one: a terminal shows them one below the other.
    pub(super) fn open_plain(arguments: &'a ReportArguments) -> io::Result<Self> {
        let place = match &arguments.output {
            Some(path) => Place::File(ReportFile::create(path)?),
            None => Place::Stdout,
        };
        Ok(Self { arguments, place })
    }

    /// Whether reports are shown as they change, asked for or not.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.place, Place::Screen { .. })
    }

    /// Writes one report.
    pub(super) fn write(&mut self, report: &Report, is_last: bool) -> io::Result<()> {
        let arguments = self.arguments;
        if arguments.format == Format::Junit && !is_last {
            // Several documents in one file are none.
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match &mut self.place {
            Place::Stdout => buffered(&mut stdout, |out| render(arguments, report, None, out)),
            Place::File(file) => {
                file.write(|out| render(arguments, report, None, out))?;
                if is_last { file.finish() } else { Ok(()) }
            }
            Place::Screen { entered } => {
                let width = size().0;
                let mut text = Vec::new();
                render(arguments, report, Some(width), &mut text)?;
                if is_last {
                    leave_screen(entered, &mut stdout)?;
                    return stdout.write_all(&text).and_then(|()| stdout.flush());
                }
                if !std::mem::replace(entered, true) {
                    queue!(stdout, terminal::EnterAlternateScreen, cursor::Hide)?;
                }
                queue!(stdout, cursor::MoveTo(0, 0), Clear(ClearType::All))?;
                // What does not fit on the screen would scroll the summary away.
                let rows = usize::from(size().1).saturating_sub(2);
                for line in text.split_inclusive(|byte| *byte == b'\n').take(rows) {
                    stdout.write_all(line)?;
                }
                write!(stdout, "\nCtrl-C for the full report")?;
                stdout.flush()
            }
        }
    }
}

/// Writes the report in the wanted format; for a person, as wide as the terminal.
fn render(arguments: &ReportArguments, report: &Report, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    match arguments.format {
        Format::Table => table::render(report, arguments.top, width, out),
        Format::Json => json::render(report, arguments.top, out),
        Format::Junit => junit::render(report, out),
        Format::Folded => folded::render(report, arguments.weight.into(), arguments.top, out),
    }
}

/// Writes in pieces: a report can be larger than what there is of memory.
fn buffered(to: &mut dyn Write, render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, to);
    render(&mut out)?;
    out.flush()
}

/// The terminal's columns and rows; those of a usual one where it does not say, or says 0, as pseudo-terminals of scripts do.
fn size() -> (u16, u16) {
    terminal::size().ok().filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or((80, 24))
}

fn leave_screen(entered: &mut bool, out: &mut impl Write) -> io::Result<()> {
    if std::mem::take(entered) {
        queue!(out, cursor::Show, terminal::LeaveAlternateScreen)?;
    }
    out.flush()
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if let Place::Screen { entered } = &mut self.place {
            // The terminal may be gone; then there is nothing to put back.
            _ = leave_screen(entered, &mut io::stdout());
        }
    }
}

/// A file that takes its name only once it is whole. What is no ordinary file (`/dev/null`, a pipe) is
/// written to as it is.
pub(super) struct ReportFile {
    temporary: File,
    /// Where the temporary file is and what it will be called; nothing once it is, or where it is none.
    rename: Option<(PathBuf, PathBuf)>,
}

impl ReportFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            if is_anybodys_link(path) {
                return Err(io::Error::other("it is a symbolic link in a folder that everybody may write to"));
            }
            return Ok(Self { temporary: OpenOptions::new().write(true).open(path)?, rename: None });
        }
        let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy();
        let temporary_path = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
        // A file of that name that is there already, or a link, was not made by us: it is not followed.
        let temporary = OpenOptions::new().write(true).create_new(true).open(&temporary_path)?;
        Ok(Self { temporary, rename: Some((temporary_path, path.to_owned())) })
    }

    /// Writes a report behind those that are there.
    pub(super) fn write(&mut self, render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        buffered(&mut self.temporary, render)
    }

    /// Gives it its name.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let Some((from, to)) = &self.rename else { return Ok(()) };
        // Errors of a full disk may come only now, and must come before the name.
        self.temporary.sync_all()?;
        fs::rename(from, to)?;
        self.rename = None;
        Ok(())
    }
}

/// Whether somebody else may have put a link there, for us to write to what it leads to.
fn is_anybodys_link(path: &Path) -> bool {
    /// `S_IWOTH` of inode(7).
    const WRITABLE_BY_OTHERS: u32 = 0o002;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_public = fs::metadata(folder).is_ok_and(|metadata| metadata.mode() & WRITABLE_BY_OTHERS != 0);
    is_public && fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if let Some((temporary_path, _)) = &self.rename {
            _ = fs::remove_file(temporary_path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        fs::write(&path, "older").unwrap();
        let mut file = ReportFile::create(&path).unwrap();
        file.temporary.write_all(b"newer").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"older");
        file.finish().unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(ReportFile::create(&dir.path().join("report")).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn devices_are_written_to_as_they_are() {
        let mut file = ReportFile::create(Path::new("/dev/null")).unwrap();
        file.temporary.write_all(b"x").unwrap();
        file.finish().unwrap();
    }
}
