// SPDX-License-Identifier: GPL-2.0

//! The log of a wire's frames, in Wireshark's format: pcapng, of which three kinds of blocks are
//! needed here (draft-ietf-opsawg-pcapng, sections 4.1 to 4.3).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};

use super::Direction;

/// A frame as it entered the wire.
pub struct Captured {
    /// The time.
    pub at: SystemTime,
    /// Its direction.
    pub way: Direction,
    /// The faults that hit it; empty if none.
    pub comment: String,
    /// The frame.
    pub frame: Vec<u8>,
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

/// Options: of any block, and of an interface.
const COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;

/// The link type of Ethernet, and no limit for a frame's length.
const ETHERNET: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

/// Writes the frames to `path`: interface 0 has the guest's frames, interface 1 those sent to it.
pub fn save(path: &Path, frames: &[Captured]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut out = BufWriter::new(file);
    // The byte order's magic, version 1.0, and a section of unknown length.
    let header = [
        &0x1a2b_3c4d_u32.to_le_bytes()[..],
        &[1, 0, 0, 0],
        &[0xff; 8],
    ]
    .concat();
    block(&mut out, SECTION_HEADER, &header, &[])?;
    for name in ["from the guest", "to the guest"] {
        // Times are in nanoseconds, 10^-9 seconds.
        let options = [(IF_NAME, name.as_bytes()), (IF_TSRESOL, &[9])];
        block(&mut out, INTERFACE_DESCRIPTION, &ETHERNET, &options)?;
    }
    for Captured {
        at,
        way,
        comment,
        frame,
    } in frames
    {
        let time = u64::try_from(at.duration_since(SystemTime::UNIX_EPOCH)?.as_nanos())?;
        let len = u32::try_from(frame.len())?;
        let (high, low) = ((time >> 32) as u32, time as u32);
        let mut body = Vec::with_capacity(frame.len() + 24);
        for number in [*way as u32, high, low, len, len] {
            body.extend(number.to_le_bytes());
        }
        body.extend(frame);
        let comment = (!comment.is_empty()).then_some((COMMENT, comment.as_bytes()));
        block(&mut out, ENHANCED_PACKET, &body, comment.as_slice())?;
    }
    Ok(out.flush()?)
}

/// Writes a block, with its length before and after it.
fn block(out: &mut impl Write, kind: u32, body: &[u8], options: &[(u16, &[u8])]) -> io::Result<()> {
    let mut bytes = body.to_vec();
    pad(&mut bytes);
    for (code, value) in options {
        let len = u16::try_from(value.len()).map_err(io::Error::other)?;
        bytes.extend(code.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(*value);
        pad(&mut bytes);
    }
    if !options.is_empty() {
        // The end of the options.
        bytes.extend([0; 4]);
    }
    let len = u32::try_from(bytes.len() + 12)
        .map_err(io::Error::other)?
        .to_le_bytes();
    for part in [&kind.to_le_bytes(), &len, bytes.as_slice(), &len] {
        out.write_all(part)?;
    }
    Ok(())
}

/// Adds zeros up to a multiple of four bytes, at which each part of a block begins.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn as_the_format_has_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let frame = Captured {
            at: SystemTime::UNIX_EPOCH + Duration::from_nanos((5 << 32) + 7),
            way: Direction::ToGuest,
            comment: "lost".into(),
            frame: b"hello".to_vec(),
        };
        save(file.path(), &[frame]).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        // The blocks' lengths lead from one to the next, to the end.
        let (mut at, mut blocks) = (0, Vec::new());
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        while at < bytes.len() {
            let len = number(at + 4) as usize;
            assert_eq!(number(at + len - 4) as usize, len);
            blocks.push((number(at), at..at + len));
            at += len;
        }
        let kinds: Vec<_> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [0x0a0d_0d0a, 1, 1, 6]);
        let packet = &bytes[blocks[3].1.clone()];
        let numbers = [1_u32, 5, 7, 5, 5].map(u32::to_le_bytes).concat();
        assert_eq!(packet[8..28], numbers);
        assert_eq!(packet[28..36], *b"hello\0\0\0");
        assert_eq!(packet[36..48], *b"\x01\0\x04\0lost\0\0\0\0");
    }
}
