// SPDX-License-Identifier: GPL-2.0

//! A receiver of kernel logs that come as datagrams: every record, once, in order.
//!
//! A [`Receiver`] takes datagrams and the time, and returns records and responses. It has no
//! thread, no clock and no socket.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use ncrx::{Config, Output, Receiver};
//!
//! let from = "10.0.0.2:6665".parse().unwrap();
//! let now = Instant::now();
//! let mut receiver = Receiver::new(Config::default());
//! receiver.feed(now, from, b"6,0,1000,-;one\n").unwrap();
//! receiver.feed(now, from, b"6,2,1200,-;three\n").unwrap();
//!
//! // Record 1 is missing: it is asked for, and record 2 has to wait for it.
//! receiver.tick(now + Duration::from_millis(50));
//! let (to, response) = receiver.next_response().unwrap();
//! assert_eq!((to, response), (from, &b"nca 1 ~"[..]));
//! receiver.feed(now, from, b"6,1,1100,-;two\n").unwrap();
//!
//! let mut texts = Vec::new();
//! while let Some(output) = receiver.next_output() {
//!     if let Output::Record(record) = output {
//!         texts.push(String::from_utf8_lossy(record.text()).into_owned());
//!     }
//! }
//! // Records may be acknowledged once they are written.
//! receiver.written();
//! assert_eq!(texts, ["one", "two", "three"]);
//! receiver.tick(now + Duration::from_millis(200));
//! assert_eq!(receiver.next_response().unwrap().1, b"nca2 ~");
//! ```
//!
//! `examples/receive.rs` puts a socket around it.
//!
//! # Map
//!
//! | file | content |
//! |---|---|
//! | `receiver/mod.rs` | all senders: datagrams in, records and responses out |
//! | `receiver/intake.rs` | the sender and the stream of a datagram |
//! | `receiver/table.rs` | the table of senders, and the choice of those that make room |
//! | `receiver/timers.rs` | the heap of deadlines, and the responses that are due |
//! | `path.rs` | address validation: the responses that a place may get |
//! | `source.rs` | one sender: its streams side by side |
//! | `stream/mod.rs` | one stream: a sender's records from one start of its log to the next |
//! | `stream/restart.rs` | restart detection: which stream a datagram is of, if it does not say |
//! | `stream/recent.rs` | the prints of records that came of late |
//! | `stream/repeats.rs` | records that look like copies, and may be of the next boot |
//! | `stream/fast.rs` | the fast path: records that need no thought |
//! | `stream/take.rs` | all other datagrams of a stream |
//! | `stream/delivery.rs` | delivery: records in order, and the gaps between them |
//! | `stream/confirm.rs` | confirmed records, and how far the stream is written |
//! | `stream/schedule.rs` | acks and requests: when they are sent |
//! | `stream/resume.rs`, `resume.rs` | the state that another receiver goes on with |
//! | `window.rs`, `pages.rs` | the reorder window, and its memory |
//! | `assembly.rs` | records from fragments |
//! | `ranges.rs` | sets of numbers: those that were passed over |
//! | `queue.rs`, `pool.rs` | the output queue; used records, for new ones |
//! | `requests.rs` | missing records: when each is asked for |
//! | `response.rs` | responses: their bytes |
//! | `datagram.rs` | datagrams: their parts |
//! | `text.rs` | texts: characters that were cut across two datagrams |
//! | `proto/wire.rs` | the protocol, shared with the module |
//! | `record.rs`, `escape.rs` | records and events as they are returned |
//! | `crash/` | crashes in a log: their lines, titles and signatures |
//! | `config.rs`, `stats.rs` | settings; counters, and the state of each sender |

// A stream is some kilobytes, and moves when a sender's list of them does.
#![allow(clippy::vec_box, clippy::borrowed_box)]

mod assembly;
mod config;
pub mod crash;
mod datagram;
mod escape;
#[cfg(test)]
mod fast_path_tests;
mod pages;
mod path;
mod pool;
#[allow(dead_code, unexpected_cfgs)]
mod proto;
mod queue;
mod ranges;
mod receiver;
mod record;
mod requests;
mod response;
mod resume;
mod source;
mod stats;
mod stream;
mod text;
mod window;

pub use config::Config;
pub use datagram::Rejected;
pub use escape::unescape;
pub use proto::wire::Dialect;
pub use receiver::Receiver;
pub use record::{
    Event, GapReason, KeptRecord, Output, Record, SeqRange, Session, Standing, StreamId,
};
pub use resume::Resume;
pub use stats::{PeerMode, Sender, Stats};
pub use stream::Token;
