//! Where reports go: stdout, a terminal that shows them live, or a file that is whole or not there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crossterm::{
    cursor, queue,
    terminal::{self, Clear, ClearType},
};

use super::{
    args::report::{Format, ReportArguments},
    failure::Failure,
};
use crate::{
    model::report::Report,
    report::{folded, json, junit, table},
};

/// Where reports of a run go.
pub(super) struct Output<'a> {
    arguments: &'a ReportArguments,
    place: Place,
}

/// Where reports go, whatever they are about.
pub(super) enum Place {
    Stdout,
    /// A table that is drawn over the one before, on a screen of its own until the last.
    Screen {
        entered: bool,
    },
    File(ReportFile),
}

impl<'a> Output<'a> {
    /// Opens the place that the arguments name; a screen of the terminal, where reports are live.
    pub(super) fn open(arguments: &'a ReportArguments, is_live: bool) -> Result<Self, Failure> {
        Ok(Self { arguments, place: Place::open(arguments.output.as_deref(), is_live)? })
    }

    /// The same for reports that come one by one: a terminal shows them one below the other.
    pub(super) fn open_plain(arguments: &'a ReportArguments) -> io::Result<Self> {
        Ok(Self { arguments, place: Place::open_plain(arguments.output.as_deref())? })
    }

    /// Writes one report.
    pub(super) fn write(&mut self, report: &Report, is_last: bool) -> io::Result<()> {
        let arguments = self.arguments;
        if arguments.format == Format::Junit && !is_last {
            // Several documents in one file are none.
            return Ok(());
        }
        self.place.write(is_last, |width, out| render(arguments, report, width, out))
    }
}

impl Place {
    /// Opens a file, or stdout; a screen of the terminal, where reports are live.
    pub(super) fn open(file: Option<&Path>, is_live: bool) -> Result<Self, Failure> {
        match file {
            _ if is_live => Ok(Self::Screen { entered: false }),
            None => Ok(Self::Stdout),
            Some(path) => Self::open_plain(file).map_err(|error| Failure::output(path, &error)),
        }
    }

    fn open_plain(file: Option<&Path>) -> io::Result<Self> {
        Ok(match file {
            Some(path) => Self::File(ReportFile::create(path)?),
            None => Self::Stdout,
        })
    }

    /// Writes one report, as wide as the terminal where it is drawn.
    pub(super) fn write(
        &mut self,
        is_last: bool,
        render: impl FnOnce(Option<u16>, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        match self {
            Self::Stdout => buffered(&mut stdout, |out| render(None, out)),
            Self::File(file) => {
                file.write(|out| render(None, out))?;
                if is_last { file.finish() } else { Ok(()) }
            }
            Self::Screen { entered } => {
                let width = size().0;
                let mut text = Vec::new();
                render(Some(width), &mut text)?;
                if is_last {
                    leave_screen(entered, &mut stdout)?;
                    return stdout.write_all(&text).and_then(|()| stdout.flush());
                }
                if !std::mem::replace(entered, true) {
                    queue!(stdout, terminal::EnterAlternateScreen, cursor::Hide)?;
                }
                queue!(stdout, cursor::MoveTo(0, 0), Clear(ClearType::All))?;
                // Lines that do not fit on the screen would scroll the summary away.
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

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Screen { entered } = self {
            // The terminal may be gone; then there is nothing to put back.
            _ = leave_screen(entered, &mut io::stdout());
        }
    }
}

/// A file that takes its name only once it is whole. A device or a pipe is written to as it is.
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
        let temporary = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary_path)?;
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
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
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
