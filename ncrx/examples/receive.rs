// SPDX-License-Identifier: GPL-2.0

//! A receiver in few lines: what the library leaves to its user is a socket, a clock and an output.
//!
//! ```sh
//! cargo run -p ncrx --no-default-features --example receive -- 127.0.0.1:6666
//! ```

use std::error::Error;
use std::io::{stdout, ErrorKind, Write};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use ncrx::{Config, Output, Receiver};

/// How long to wait if the receiver has nothing to do.
const IDLE: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let socket = UdpSocket::bind(address.as_deref().unwrap_or("127.0.0.1:6666"))?;
    let mut receiver = Receiver::new(Config::default());
    let mut datagram = [0; 65536];
    loop {
        // A time limit of zero would be none.
        let now = Instant::now();
        let due = receiver.deadline().map_or(IDLE, |due| due - now);
        socket.set_read_timeout(Some(due.clamp(Duration::from_millis(1), IDLE)))?;
        match socket.recv_from(&mut datagram) {
            Ok((len, from)) => {
                if let Err(e) = receiver.feed(Instant::now(), from, &datagram[..len]) {
                    eprintln!("{from}: {e}");
                }
            }
            // Nothing has come in time, or it was a signal; an earlier response may have met no
            // one.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
            Err(e) => return Err(e.into()),
        }
        receiver.tick(Instant::now());
        while let Some(output) = receiver.next_output() {
            match output {
                Output::Record(record) => {
                    stdout().write_all(record.text())?;
                    stdout().write_all(b"\n")?;
                }
                Output::Event { host, event, .. } => eprintln!("{host}: {event:?}"),
            }
        }
        // Only what is written may be acknowledged.
        stdout().flush()?;
        receiver.written();
        while let Some((to, response)) = receiver.next_response() {
            // One that is lost is said again.
            let _ = socket.send_to(response, to);
        }
    }
}
