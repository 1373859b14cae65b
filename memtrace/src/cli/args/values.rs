//! Values of options, read from text.

use std::time::Duration;

use bytesize::ByteSize;
use memtrace_common::steps::sampling::{MAX_MEAN_BYTES, MIN_MEAN_BYTES};

use crate::model::sample_gap::SampleGap;

pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write 30s, 5min or 1h30m")),
    }
}

/// A percentage, as a part from 0 to 1.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').trim().parse::<f64>() {
        Ok(percent) if (1.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        Ok(_) => Err("must be from 1% to 100%".into()),
        Err(error) => Err(format!("{error}; write 5% or 12.5%")),
    }
}

pub(crate) fn sample_gap(text: &str) -> Result<SampleGap, String> {
    let range = MIN_MEAN_BYTES..=MAX_MEAN_BYTES;
    if text == "auto" {
        return Ok(SampleGap::Chosen);
    }
    match text.parse::<ByteSize>() {
        Ok(size) if range.contains(&size.0) => Ok(SampleGap::Bytes(size.0)),
        Ok(_) => Err("must be auto, or from 1KiB to 16MiB".into()),
        Err(error) => Err(format!("{error}; write auto, 64KiB, 512KiB or 1MiB")),
    }
}
