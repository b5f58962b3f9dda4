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
//! | file | what it is |
//! |---|---|
//! | `receiver.rs` | all senders; what goes in and out; whose turn it is |
//! | `path.rs` | whether a place hears us, and what may be said to it until it has shown that |
//! | `source.rs` | one sender: its streams side by side |
//! | `stream/mod.rs` | one sender's records, from one start of its log to the next |
//! | `stream/restart.rs` | whether a datagram is of a stream, if it does not say |
//! | `stream/delivery.rs` | what is handed out in its turn, and what is passed over |
//! | `stream/responses.rs` | what is said to the sender, and when |
//! | `stream/resume.rs` | what another receiver is told of a stream, and how it goes on |
//! | `window.rs`, `pages.rs` | the records that wait for others, by number; where |
//! | `assembly.rs` | records that come in fragments |
//! | `ranges.rs` | numbers that were passed over |
//! | `queue.rs`, `pool.rs` | what is to be handed out; what was, to be used again |
//! | `requests.rs` | what is missing, and when to ask for it |
//! | `response.rs` | responses, written |
//! | `datagram.rs` | what is in a datagram |
//! | `text.rs` | what is no record: characters that were cut across two datagrams |
//! | `proto/wire.rs` | the module's own text and code of the protocol |
//! | `record.rs`, `escape.rs` | what is handed out |
//! | `config.rs`, `stats.rs` | what may be set, and what is told |

// A stream is some kilobytes, and moves when a sender's list of them does.
#![allow(clippy::vec_box, clippy::borrowed_box)]

mod assembly;
mod config;
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
pub use record::{Event, GapReason, Output, Record, SeqRange, Session, StreamId};
pub use stats::{PeerMode, Resume, Sender, Stats};
pub use stream::Token;

// The names that the program still uses.
#[doc(hidden)]
pub use {record::GapReason as Why, record::SeqRange as Numbers, stats::PeerMode as Manner};
