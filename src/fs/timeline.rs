//! A timeline's file, written as every file here that somebody may need after a power loss. What is in it: `timeline/file.rs`.

#![forbid(unsafe_code)]

use super::durable::Target;
use crate::error::Result;
use crate::timeline::Timeline;
use std::io::{BufWriter, Write};
use std::path::Path;

impl Timeline {
    /// Writes it to a file, which is there as a whole or not at all, also after a power loss; of a link, the file that it leads to. An existing
    /// file keeps its permissions. The source of the module `timeline` describes the format.
    ///
    /// # Errors
    /// [`DemoError::NotDurable`](crate::DemoError::NotDurable) where the file is in place, but its directory could not be synced.
    /// [`DemoError::Io`](crate::DemoError::Io) when the system refuses anything else, and where something stands that is no regular file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let target = Target::resolve(path.as_ref())?;
        let mut file = target.temp_file()?;
        let mut out = BufWriter::new(file.as_file_mut());
        self.write_to(&mut out).and_then(|()| out.flush()).map_err(|error| target.io("write", error))?;
        drop(out);
        target.keep_permissions(file.as_file())?;
        target.publish(file)
    }
}
