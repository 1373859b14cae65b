//! Placeholder.
use anyhow::Result;
pub(crate) fn bench(_rounds: u32, _json: Option<&std::path::Path>) -> Result<()> {
    anyhow::bail!("not yet")
}
