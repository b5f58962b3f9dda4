// SPDX-License-Identifier: GPL-2.0

//! The capture of a wire's frames, in the format that Wireshark opens.

use std::borrow::Cow;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::DataLink;

use super::Direction;

/// A frame as it entered the wire.
pub struct Captured {
    /// When.
    pub at: SystemTime,
    /// Which way it goes.
    pub way: Direction,
    /// What the faults do to it; empty if nothing.
    pub comment: String,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Write the frames to `path`: interface 0 is what the guest sent, interface 1
/// what was sent to it.
pub fn save(path: &Path, frames: &[Captured]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut writer = PcapNgWriter::new(BufWriter::new(file))?;
    for name in ["from the guest", "to the guest"] {
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        interface.options = vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
            // Nanoseconds.
            InterfaceDescriptionOption::IfTsResol(9),
        ];
        writer.write_pcapng_block(interface)?;
    }
    for frame in frames {
        let mut options = Vec::new();
        if !frame.comment.is_empty() {
            let comment = Cow::Borrowed(frame.comment.as_str());
            options.push(EnhancedPacketOption::Comment(comment));
        }
        writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: frame.way as u32,
            timestamp: frame.at.duration_since(SystemTime::UNIX_EPOCH)?,
            original_len: u32::try_from(frame.frame.len())?,
            data: Cow::Borrowed(&frame.frame),
            options,
        })?;
    }
    Ok(())
}
